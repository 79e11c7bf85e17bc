"""The contract of a provider: it knows the addresses, headers and dialect of one kind of upstream.

A provider turns the client's request into the request that goes out. It always starts from the
original, so that a second attempt at another target inherits nothing from the first.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

#: Header lines in order, with duplicates. The server's parser makes inbound names upper case.
HeaderList = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """A request to an upstream. ``target`` is path and query, raw, never re-encoded.

    ``body`` is bytes (complete), None (no body), or an iterable of pieces as they arrive from the
    client. ``chunked`` says that the length of such a body is unknown.
    """

    method: str
    target: bytes
    headers: HeaderList
    body: bytes | Iterable[bytes] | None
    chunked: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """The base URL of an upstream: ``origin`` is ``scheme://host[:port]``.

    ``prefix`` has no slash at its end.
    """

    origin: str
    host: str
    prefix: str

    @classmethod
    def from_url(cls, base_url: str) -> "Target":
        """Parse ``https://host/prefix``, without ``/v1``, which is part of the client's path."""
        scheme, _, rest = base_url.partition("://")
        host, slash, prefix = rest.partition("/")
        return cls(f"{scheme}://{host}", host, slash + prefix if prefix else "")


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """The request that the transport sends, and its URL."""

    url: str
    request: OutboundRequest = field(repr=False)


class Provider(Protocol):
    """One kind of upstream."""

    def prepare(
        self, request: OutboundRequest, target: Target, upstream_key: str | None
    ) -> PreparedCall:
        """Return ``request`` as ``target`` expects it, authorised by ``upstream_key``.

        Without an upstream key, the client's own authorisation stays.
        """
        ...
