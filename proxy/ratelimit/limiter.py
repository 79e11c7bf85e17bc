"""What every rate limiter does: token buckets, taken from together or not at all.

A bucket holds one minute's worth of permits, loses one per request (or as many as LLM tokens were
used) and fills steadily. The thing to get wrong: a request that one of its buckets refuses must
take nothing from the others.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Bucket(NamedTuple):
    """``key`` means the same bucket in every worker, and over nodes where they share."""

    key: str
    #: Permits that come back per minute, and the most that are saved up. At least 1.
    per_minute: int


class Charge(NamedTuple):
    """What a request takes. 0 permits: nothing now, but there must be some; see `settle`. Fewer:
    there must be some, and so many are held in advance, also below zero."""

    bucket: Bucket
    permits: int


class Decision(NamedTuple):
    """``levels``: permits in each bucket after it, in the order of the demands; may be negative.

    ``refused`` is the index of the first demand that was refused, None when all were met.
    """

    levels: Sequence[float]
    refused: int | None = None


class RateLimiter(Protocol):
    """One per worker, made after the fork and used from one thread; calls may give others a turn.

    LimiterError: whether there are permits cannot be told.
    """

    def take(self, demands: Sequence[Charge]) -> Decision:
        """Meet all demands, or none. No bucket may be in them twice."""
        ...

    def peek(self, bucket: Bucket) -> float:
        """The level, as far as it is known here without a lock and without asking; full where
        nothing is known. Never waits or raises."""
        ...

    def settle(self, charges: Sequence[Charge]) -> None:
        """Charge what has been used already, also below zero: to a day's worth of debt at most.

        Negative permits are given back.
        """
        ...

    def close(self) -> None: ...
