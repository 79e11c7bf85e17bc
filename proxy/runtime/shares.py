"""Shares of a worker's places: how many of them one holder may have while they run short.

While fewer than :data:`PRESSURE` of the places are taken, every holder may take any number, so that
one project, or one proxy in front, can fill an idle node. Above that, a holder of its share or more
gets no further place, and the rest is left for the others. No place is taken away from a holder.
"""

import math
from collections import defaultdict
from typing import Final

#: The fraction of taken places from which on shares apply.
PRESSURE: Final = 0.8

Held = defaultdict[str | None, int]


class Shares:
    """The places of each holder, of `most` places in all.

    `share` is the fraction of all places that one holder may have under pressure. At 1 there are no
    shares.
    """

    __slots__ = ("held", "largest", "pressure")

    def __init__(self, total: float, share: float) -> None:
        #: Holder → its places. Maintained by the code that assigns places, without zeros.
        self.held: Held = defaultdict(int)
        #: The number of taken places from which on shares apply.
        self.pressure = total * PRESSURE if share < 1 else math.inf
        #: The places that one holder may have then.
        self.largest = max(1.0, total * share) if share < 1 else math.inf

    def full(self, holder: str) -> bool:
        """Return whether `holder` has its share, or more."""
        return self.held.get(holder, 0) >= self.largest


def share_taken(holder: str) -> str:
    """Return the error text for a client; `holder` is "project" or "client address"."""
    return f"The server is almost full, and this {holder} has its share of it. Try again."


def is_local(address: str) -> bool:
    """Return whether the address is a loopback address, or empty (a Unix socket).

    The clients behind such an address, mostly behind a proxy, cannot be distinguished by it.
    """
    plain = address.removeprefix("::ffff:")
    return not plain or plain == "::1" or plain.startswith("127.")


def fraction(value: str) -> float:
    """Parse a setting's value above 0 and at most 1. Raises ValueError."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number <= 1:
        raise ValueError("expected a number above 0, and at most 1, such as 0.5")
    return number
