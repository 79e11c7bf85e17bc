"""Shares of a worker's places: what one holder may have of them while they run short.

Below :data:`PRESSURE` of the places every holder takes what there is, so that one project, or one
proxy in front, can fill an idle node. Above it, a holder of its share or more gets no further
place, and what is left is for the others. Nothing that a holder has is taken away.
"""

import math
from collections import defaultdict
from typing import Final

#: Of the places: from here on shares hold.
PRESSURE: Final = 0.8


Held = defaultdict[str | None, int]


class Shares:
    """What each holder has of ``most`` places; ``share`` (of them all, up to 1) is what it may have
    under pressure. At 1 there are no shares."""

    __slots__ = ("held", "largest", "pressure")

    def __init__(self, most: float, share: float) -> None:
        #: Holder → places; kept by those that give the places. One without any is not in it.
        self.held: Held = defaultdict(int)
        #: Places taken, from which on shares hold.
        self.pressure = most * PRESSURE if share < 1 else math.inf
        #: Places that one holder may have then.
        self.largest = max(1.0, most * share) if share < 1 else math.inf

    def full(self, holder: str) -> bool:
        """Whether it has its share, or more."""
        return self.held.get(holder, 0) >= self.largest


def share_taken(holder: str) -> str:
    """What the client is told: ``holder`` is "project" or "client address"."""
    return f"The server is almost full, and this {holder} has its share of it. Try again."


def is_local(address: str) -> bool:
    """Whether it is a loopback address, or none at all (a socket in the file system): whatever
    stands behind it, proxies above all, cannot be told apart."""
    plain = address.removeprefix("::ffff:")
    return not plain or plain == "::1" or plain.startswith("127.")


def fraction(value: str) -> float:
    """A setting's value above 0 and up to 1. Raises ValueError."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number <= 1:
        raise ValueError("expected a number above 0, and at most 1, such as 0.5")
    return number
