"""Which worker sends the request of a cache key, so that the others may follow its flight.

Claims are taken at several levels: among the workers of a node, then among the nodes. A level that
does not work claims nothing, and its flights are not shared there; that is never an error.
"""

from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from proxy.cache.fetched import Fetched
from proxy.cache.flight import FlightReader
from proxy.cache.key import CacheKey

#: Seconds for which a claim holds; it is renewed every third of them. So the claim of a worker
#: that has stopped is free after so long, whatever became of the worker.
LEASE_SECONDS: Final = 30.0
#: Returns a reader of this worker's own flight of a key, or None where it has none.
JoinHere = Callable[[CacheKey], FlightReader | None]


class Claim(Protocol):
    """A key that this worker has claimed."""

    def release(self) -> None:
        """Let others claim the key. Idempotent."""


@runtime_checkable
class Elsewhere(Protocol):
    """A flight of another worker."""

    def fetch(self) -> Fetched:
        """Follow the flight. Raises NoResponse where there is none to follow (any more)."""


class Claims(Protocol):
    """The claims of one level. No method raises but what is thrown into the greenlet."""

    @property
    def streams(self) -> bool:
        """Whether a response in flight can be read from another worker."""

    def serve(self, join: JoinHere) -> None:
        """Set where the flights of this worker are found."""

    def take(self, key: CacheKey) -> Claim | Elsewhere | None:
        """Claim the key, or return the flight of the worker that has claimed it.

        None: it is not known, and not claimed. It may wait.
        """

    def find(self, key: CacheKey) -> Elsewhere | None:
        """Return the flight of another worker that has claimed the key. It may wait."""

    def close(self) -> None:
        """Release all claims, and follow no more. Idempotent."""


def release_all(claims: list[Claim]) -> None:
    """Release the claims of a flight, the widest first, and empty the list."""
    while claims:
        claims.pop().release()
