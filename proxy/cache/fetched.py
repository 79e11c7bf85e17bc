"""What a flight gets when its request is sent: the head, the body, and who else sees the body."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from proxy.upstream.body import BodyObserver, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightHead:
    """The head of the response, and what the proxy knows of it."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    #: Whether readers that only joined may have it.
    shareable: bool
    #: Whether a retry of the client that has left may take it over.
    adoptable: bool = True
    #: Whether others may still join once all of it has been read.
    joinable_at_end: bool = True
    #: Who responded, for a project that routes.
    provider: str | None = None
    model: str | None = None


#: What a response cost, as far as it reports that: prompt tokens, completion tokens, the model.
Cost = tuple[int | None, int | None, str | None]
UNKNOWN_COST: Final[Cost] = (None, None, None)


def nothing() -> None:
    """Release nothing."""


def unknown() -> Cost:
    return UNKNOWN_COST


class Fetched(NamedTuple):
    """What ``fetch`` returns: the head, the body, and who else sees the body."""

    head: FlightHead
    source: Source
    #: Fed by the pump after the readers.
    observers: Sequence[BodyObserver] = ()
    #: Releases the upstream's connection: called once, when nothing more is read.
    close: Callable[[], object] = nothing
    #: Whether the observers have more work than the size of a chunk suggests.
    inflated: bool = False
    #: Called after the end of a complete response, before `close`. It may wait.
    cost: Callable[[], Cost] = unknown


class NoResponse(Exception):
    """Raised by ``fetch``: there is no response here, and the readers go their own way."""


class NotShared(NoResponse):
    """The response cannot be shared, or not in time: nobody should wait for it again soon."""
