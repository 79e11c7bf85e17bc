"""What a provider is: the one place that knows how an upstream wants to be asked.

A provider turns the request as the client sent it into the request as it goes out. It always
starts from the original, so that a second attempt at another target inherits nothing from the
first.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

#: Header lines in order, duplicates kept. Inbound names are upper case: the server's parser makes
#: them so.
HeaderList = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """A request on its way out. ``target`` is path and query, raw, never re-encoded.

    ``body`` is bytes (known whole), None (no body), or an iterable of pieces as they arrive from
    the client; ``chunked`` says that such a body's length is not known.
    """

    method: str
    target: bytes
    headers: HeaderList
    body: bytes | Iterable[bytes] | None
    chunked: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send: ``origin`` is ``scheme://host[:port]``; ``prefix`` has no closing slash."""

    origin: str
    host: str
    prefix: str

    @classmethod
    def from_url(cls, base_url: str) -> "Target":
        """Of ``https://host/prefix``, without ``/v1``: that is part of the client's path."""
        scheme, _, rest = base_url.partition("://")
        host, slash, prefix = rest.partition("/")
        return cls(f"{scheme}://{host}", host, slash + prefix if prefix else "")


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """What the transport sends, and where."""

    url: str
    request: OutboundRequest = field(repr=False)


class Provider(Protocol):
    """One kind of upstream."""

    def prepare(
        self, request: OutboundRequest, target: Target, upstream_key: str | None
    ) -> PreparedCall:
        """``request`` as ``target`` wants it, authorised by ``upstream_key``; None: as it came."""
        ...
