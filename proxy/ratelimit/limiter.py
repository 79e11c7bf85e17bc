"""The contract of every rate limiter: token buckets that a request charges together or not at all.

A bucket holds one minute's worth of permits, loses one per request (or as many as LLM tokens were
used) and fills steadily. When one bucket of a request refuses, the others lose nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Bucket(NamedTuple):
    """A token bucket. `key` names it in every worker, and on every node that shares limits."""

    key: str
    #: Permits that come back per minute, and the most that a bucket holds. At least 1.
    per_minute: int


class Charge(NamedTuple):
    """What a request takes from one bucket. `RateLimiter.take` knows three cases:

    1. `permits` above 0: the bucket must hold that many, and loses them.
    2. 0: the bucket must not be empty, and loses nothing now (see :meth:`RateLimiter.debit`).
    3. Below 0: the bucket must not be empty, and loses that many in advance, also below zero.
    """

    bucket: Bucket
    permits: int


class Decision(NamedTuple):
    """The result of :meth:`RateLimiter.take`.

    `remaining`: permits left in each bucket, in the order of the charges; may be negative.
    `refused`: the index of the first charge that was refused, or None when all were taken.
    """

    remaining: Sequence[float]
    refused: int | None = None


class RateLimiter(Protocol):
    """One per worker, made after the fork and used from one thread. Calls may switch greenlets.

    Raises LimiterError when it cannot decide.
    """

    def take(self, charges: Sequence[Charge]) -> Decision:
        """Take all charges, or none. No bucket may be in them twice."""
        ...

    def peek(self, bucket: Bucket) -> float:
        """Return the permits of a bucket, as far as they are known here without a lock or I/O.

        An unknown bucket is full. Never waits or raises.
        """
        ...

    def debit(self, charges: Sequence[Charge]) -> None:
        """Charge what has been used already, also below zero: to a day's worth of debt at most.

        Negative permits are given back.
        """
        ...

    def close(self) -> None: ...
