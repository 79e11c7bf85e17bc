"""The name under which a response is kept: a keyed hash of all that decides the response.

Every byte that reaches the upstream is part of it, but for a closed list of header lines that no
upstream responds to. So an input that is not known here can only cause a miss. Only the body's own
bytes count: another order of members, or `1.0` for `1`, may bring another response.

The hash is HMAC-SHA256 with a secret of the installation. Whoever reads a shared store can neither
confirm a guessed prompt nor make a key. What is hashed is a sequence of netstrings
(https://cr.yp.to/proto/netstrings.txt), so that no two requests are the same sequence:

    version or purpose · scope · epoch · upstream · method · target · header lines · body

The header lines are one netstring of netstrings, two a line: the name in lower case, the value.
The lines are sorted by name; those of one name keep their order, which has a meaning (RFC 9110
§5.3). A request without a body ends with `-`, one with an empty body with `0:,`.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Final

from proxy.cache.access import CacheAccess
from proxy.providers.base import HeaderList, OutboundRequest

#: Part of each key: what was stored under another version of these rules is not found.
_VERSION: Final = b"entry 1"
_FINGERPRINT: Final = b"fingerprint 1"
_NAME_DIGITS: Final = 16

#: Header lines that no upstream responds to: they name the program, the request or its trace; they
#: are read by caches only; or they follow from the body. They differ between the tries of one call.
IGNORED_HEADERS: Final = frozenset(
    {
        "user-agent",
        "traceparent",
        "tracestate",
        "baggage",
        "sentry-trace",
        "b3",
        "x-request-id",
        "x-correlation-id",
        "cache-control",
        "pragma",
        "idempotency-key",
        "content-length",
    }
)
#: RFC 9110 §13: conditions are compared with what is stored.
_IGNORED_PREFIXES: Final = ("x-stainless-", "if-")
_ACCEPT_ENCODING: Final = "accept-encoding"


@dataclass(frozen=True, slots=True)
class CacheKey:
    """The key of one response. `digest` has 32 bytes. What is found must have the same `scope`."""

    scope: str
    digest: bytes

    @property
    def name(self) -> str:
        """The first hexadecimal digits of the digest, as in `X-Cache-Key`."""
        return self.digest[: _NAME_DIGITS // 2].hex()


class KeyMaker:
    """Makes cache keys with `secret`, which all workers and nodes of an installation share."""

    def __init__(self, secret: bytes) -> None:
        self._key = _begun(secret, _VERSION)
        self._fingerprint = _begun(secret, _FINGERPRINT)

    def key(self, access: CacheAccess, request: OutboundRequest, upstream: str) -> CacheKey:
        """Return the key of the response to `request`.

        `request` is the client's, before a provider prepares it, with a body that is held.
        `upstream` is text that tells upstreams apart.

        Raises TypeError for a body that is streamed.
        """
        digest = self._key.copy()
        _feed(digest, access.scope, str(access.epoch), request, upstream)
        return CacheKey(access.scope, digest.digest())

    def fingerprint(self, access: CacheAccess, request: OutboundRequest, upstream: str) -> bytes:
        """Return what tells whether two requests are the same: as `key`, without the epoch."""
        digest = self._fingerprint.copy()
        _feed(digest, access.scope, "", request, upstream)
        return digest.digest()


def is_ignored(name: str) -> bool:
    """Whether header lines of this name are no part of a key, in any case."""
    return not _keyed_name(name)


def _begun(secret: bytes, purpose: bytes) -> hmac.HMAC:
    return hmac.new(secret, _netstring(purpose), hashlib.sha256)


def _feed(
    digest: hmac.HMAC, scope: str, epoch: str, request: OutboundRequest, upstream: str
) -> None:
    body = request.body
    lines = _header_lines(_without_length(request.headers))
    parts = [
        _text(scope),
        _text(epoch),
        _text(upstream),
        _text(request.method),
        _netstring(request.target),
        _netstring(lines),
    ]
    if body is None:
        parts.append(b"-")
        digest.update(b"".join(parts))
        return
    if not isinstance(body, bytes):
        raise TypeError("a streamed body has no key")
    # The body may have megabytes, so it is not copied.
    parts.append(b"%d:" % len(body))
    digest.update(b"".join(parts))
    digest.update(body)
    digest.update(b",")


def _without_length(headers: HeaderList) -> tuple[tuple[str, str], ...]:
    """Return the lines without a `Content-Length` at their end, where the proxy puts it.

    It is no part of a key, and all others of a client's requests are mostly the same.
    """
    if headers and headers[-1][0] == "Content-Length":
        return tuple(headers[:-1])
    return tuple(headers)


# Few, since the lines of one request may take 128 KiB.
@lru_cache(maxsize=64)
def _header_lines(headers: tuple[tuple[str, str], ...]) -> bytes:
    kept = []
    encodings: list[str] | None = None
    for name, value in headers:
        keyed = _keyed_name(name)
        if keyed == _ACCEPT_ENCODING:
            encodings = [value] if encodings is None else [*encodings, value]
        elif keyed:
            kept.append((keyed, value))
    if encodings is not None:
        kept.append((_ACCEPT_ENCODING, _as_set(encodings)))
    kept.sort(key=itemgetter(0))
    return b"".join([_text(text) for line in kept for text in line])


def _as_set(values: Sequence[str]) -> str:
    """Return the items of a list as a sorted set, without blanks."""
    items = {"".join(item.split()).lower() for value in values for item in value.split(",")}
    return ",".join(sorted(items - {""}))


def _text(text: str) -> bytes:
    # "surrogatepass": every text has bytes of its own.
    return _netstring(text.encode("utf-8", "surrogatepass"))


def _netstring(data: bytes) -> bytes:
    return b"%d:%b," % (len(data), data)


# Names repeat, so the result for each is computed once.


@lru_cache(maxsize=1024)
def _keyed_name(name: str) -> str:
    """`Content-Type` → `content-type`; `""` for a line that is no part of a key."""
    lower = name.lower()
    ignored = lower in IGNORED_HEADERS or lower.startswith(_IGNORED_PREFIXES)
    return "" if ignored else lower
