"""A response as it is kept, and its binary form.

    offset  bytes
    0       4       magic `OPRC`
    4       1       version of this layout
    5       4       CRC-32 of all that follows
    9       4       H: bytes of the head
    13      4       N: chunks
    17      8       B: bytes of the body
    25      H       the head: a JSON list, in the order of `_head`
    25+H    4 N     the size of each chunk
    …       B       the body

All numbers are unsigned and little-endian. The checksum finds what a broken disk or a torn write
did; whoever can write to a store could write a valid one, so stores that others reach seal entries.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Final

import orjson

from proxy.core.errors import ProxyError
from proxy.providers.base import HeaderList

#: Bytes of the largest chunk: one write to a client.
MAX_CHUNK_BYTES: Final = 64 * 1024

_MAGIC: Final = b"OPRC"
_VERSION: Final = 1
_PREFIX: Final = struct.Struct("<4sBIIIQ")
#: Where the checksummed part begins.
_CHECKED: Final = 9
#: What an entry takes beside its own bytes, about: index, lengths, times.
_OVERHEAD_BYTES: Final = 256
_DIGEST_BYTES: Final = 32
_CHUNK_BYTES: Final = 4
#: `: ` and CRLF.
_LINE_BYTES: Final = 4

#: Header lines that belong to one exchange and not to the response. RFC 9110 §7.6.1; `Set-Cookie`
#: is for one client; the rest is written anew for each response, or is about the time of the first.
_NOT_REPLAYED: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "set-cookie",
        "set-cookie2",
        "date",
        "age",
        "server",
        "alt-svc",
        "openai-processing-ms",
        "server-timing",
        "cache-status",
        "x-cache",
        "x-cache-timestamp",
        "x-cache-key",
        "x-proxy",
        "idempotent-replayed",
        "x-idempotency-scope",
    }
)
#: The limits steer clients, and are those of another moment. `cf-…` is about one connection.
_NOT_REPLAYED_PREFIXES: Final = (
    "x-ratelimit-",
    "anthropic-ratelimit-",
    "ratelimit",
    "cf-",
    "x-proxy-",
)
#: The proxy's own lines about who made the response and from what: they hold for each replay.
_REPLAYED: Final = frozenset({"x-proxy-provider", "x-proxy-model", "x-proxy-dropped-params"})


class EntryUnreadable(ProxyError):
    """What a store returned is no entry: it is damaged, or of another version."""


# Not frozen, which would make each of its fields cost a call. Nobody changes it once it is stored.
@dataclass(slots=True, kw_only=True)
class CachedResponse:
    """A complete response of an upstream.

    Attributes:
        scope: Whose it is. It is compared with the scope of the key under which it was found.
        method: The method of the request.
        target: The raw target of the request, with its query.
        headers: As they are replayed, see `replayable`.
        chunk_sizes: Bytes of each chunk in which the body came. Their sum is its length. Those of
            a decoded response have 1 byte at least and 64 KiB at most.
        stored_at: Unix seconds, as `expires_at`.
        provider: Who served it, where the request was routed; as `model`.
        prompt_tokens: LLM tokens that a hit saves, as `completion_tokens`. None: unknown.
    """

    scope: str
    method: str
    target: str
    status: int
    reason: str
    headers: HeaderList
    body: bytes
    chunk_sizes: tuple[int, ...]
    stored_at: float
    expires_at: float
    provider: str | None
    model: str | None
    prompt_tokens: int | None
    completion_tokens: int | None

    @property
    def size(self) -> int:
        """The bytes that the entry takes, about, as they are bounded."""
        lines = sum(map(len, chain.from_iterable(self.headers)))
        lines += _LINE_BYTES * len(self.headers)
        named = len(self.scope) + _DIGEST_BYTES + len(self.target)
        chunks = _CHUNK_BYTES * len(self.chunk_sizes)
        return len(self.body) + lines + named + chunks + _OVERHEAD_BYTES

    def encode(self) -> bytes:
        """Return the binary form. Chunks of more than 64 KiB are cut, empty ones are left out."""
        head = orjson.dumps(
            [
                self.scope,
                self.method,
                self.target,
                self.status,
                self.reason,
                self.headers,
                self.stored_at,
                self.expires_at,
                self.provider,
                self.model,
                self.prompt_tokens,
                self.completion_tokens,
            ]
        )
        sizes = _writable(self.chunk_sizes)
        packed = struct.pack(f"<{len(sizes)}I", *sizes)
        lengths = struct.pack("<IIQ", len(head), len(sizes), len(self.body))
        checksum = 0
        for part in (lengths, head, packed, self.body):
            checksum = zlib.crc32(part, checksum)
        begin = _MAGIC + struct.pack("<BI", _VERSION, checksum)
        return b"".join((begin, lengths, head, packed, self.body))

    @classmethod
    def decode(cls, data: bytes) -> "CachedResponse":
        """Return the response of a binary form. Raises EntryUnreadable."""
        try:
            return _decoded(data)
        except (ValueError, TypeError, struct.error) as error:
            raise EntryUnreadable(f"A cached response cannot be read: {error}") from error


def replayable(headers: Sequence[tuple[str, str]]) -> HeaderList:
    """Return the lines of a response that are kept, in their order, duplicates included."""
    return [line for line in headers if _is_replayed(line[0])]


def _writable(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes of chunks that are one write each: a transform may make larger ones."""
    if not sizes or 0 < min(sizes) <= max(sizes) <= MAX_CHUNK_BYTES:
        return sizes
    return tuple(
        min(size - begin, MAX_CHUNK_BYTES)
        for size in sizes
        for begin in range(0, size, MAX_CHUNK_BYTES)
    )


def _decoded(data: bytes) -> CachedResponse:
    magic, version, checksum, head_bytes, chunks, body_bytes = _PREFIX.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("it does not begin as one")
    if version != _VERSION:
        raise ValueError(f"it has version {version}, not {_VERSION}")
    sizes_at = _PREFIX.size + head_bytes
    body_at = sizes_at + _CHUNK_BYTES * chunks
    if len(data) != body_at + body_bytes:
        raise ValueError(f"it has {len(data)} bytes, not {body_at + body_bytes}")
    if zlib.crc32(memoryview(data)[_CHECKED:]) != checksum:
        raise ValueError("its checksum is wrong")
    sizes = struct.unpack_from(f"<{chunks}I", data, sizes_at)
    if sum(sizes) != body_bytes or (sizes and not 0 < min(sizes) <= max(sizes) <= MAX_CHUNK_BYTES):
        raise ValueError("its chunks are not its body")
    head = orjson.loads(memoryview(data)[_PREFIX.size : sizes_at])
    return _of_head(head, data[body_at:], sizes)


def _of_head(head: Any, body: bytes, sizes: tuple[int, ...]) -> CachedResponse:
    if not isinstance(head, list):
        raise TypeError("its head is no list")
    scope, method, target, status, reason, lines, stored_at, expires_at, *rest = head
    provider, model, prompt_tokens, completion_tokens = rest
    _check(str, scope, method, target, reason)
    _check(int, status)
    _check((int, float), stored_at, expires_at)
    _check((str, type(None)), provider, model)
    _check((int, type(None)), prompt_tokens, completion_tokens)
    headers = [(name, value) for name, value in lines]
    for line in headers:
        _check(str, *line)
    return CachedResponse(
        scope=scope,
        method=method,
        target=target,
        status=status,
        reason=reason,
        headers=headers,
        body=body,
        chunk_sizes=sizes,
        stored_at=stored_at,
        expires_at=expires_at,
        provider=provider,
        model=model,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
    )


def _check(kind: type | tuple[type, ...], *values: object) -> None:
    for value in values:
        if not isinstance(value, kind):
            raise TypeError(f"its head has {type(value).__name__} in a wrong place")


@lru_cache(maxsize=1024)
def _is_replayed(name: str) -> bool:
    lower = name.lower()
    return lower in _REPLAYED or not (
        lower in _NOT_REPLAYED or lower.startswith(_NOT_REPLAYED_PREFIXES)
    )
