"""Gzip and deflate, decompressed piece by piece on a copy of the bytes.

The input is not trusted. 64 KiB of gzip can hold 64 MiB, and a worker that inflates them serves no
other request in the meantime. So both the rate and the sum are bounded.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

ENCODINGS = frozenset({"gzip", "x-gzip", "deflate"})

_INPUT = 64 * 1024  # inflated at once: `unconsumed_tail` copies what is left on every call
_OUTPUT = 256 * 1024  # held at once
_MAX_RATE = 4 * 1024 * 1024  # out of one `_INPUT`: 64 times; SSE with long heads gets to 30
_MAX_TOTAL = 256 * 1024 * 1024
_GZIP = 16 + zlib.MAX_WBITS
_GZIP_MAGIC = 0x1F
_MAX_MEMBERS = 64  # of a gzip file; each one costs a new inflater, and an empty one is 20 bytes


class Inflater:
    """Inflates a body: `feed` each chunk. Raises ValueError when it is broken or too much."""

    __slots__ = (
        "_done",
        "_head",
        "_inflate",
        "_max_rate",
        "_max_total",
        "_members",
        "_total",
    )

    def __init__(
        self, encoding: str, *, max_rate: int = _MAX_RATE, max_total: int = _MAX_TOTAL
    ) -> None:
        gzip = encoding != "deflate"
        # None until the first two bytes show which "deflate" it is: RFC 9110 section 8.4.1.2 says
        # zlib, and notes that some senders leave the zlib wrapper away.
        self._inflate = zlib.decompressobj(_GZIP) if gzip else None
        self._head = b""  # the first byte, until the second arrives
        self._members = 1 if gzip else 0  # only gzip has them
        self._done = False
        self._total = 0
        self._max_rate = max_rate
        self._max_total = max_total

    @property
    def complete(self) -> bool:
        """Whether the compressed data has ended, its checksum included."""
        return self._done or (self._inflate is not None and self._inflate.eof)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what the chunk inflates to. Feed the next chunk only after the last piece."""
        if self._inflate is None:
            chunk = self._head + chunk
            if len(chunk) < 2:
                self._head = chunk
                return
            wrapped = chunk[0] & 0x0F == 8 and int.from_bytes(chunk[:2], "big") % 31 == 0
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
        for start in range(0, len(chunk), _INPUT):
            yield from self._piecewise(chunk[start : start + _INPUT])

    def _piecewise(self, data: bytes) -> Iterator[bytes]:
        rate = 0
        while (inflate := self._inflate) is not None and not self._done:
            if inflate.eof:
                # Another gzip member (RFC 1952 section 2.2), or padding, which is ignored.
                if not self._members or data[0] != _GZIP_MAGIC:
                    self._done = True
                    return
                if self._members >= _MAX_MEMBERS:
                    raise ValueError("too many gzip members")
                self._members += 1
                inflate = self._inflate = zlib.decompressobj(_GZIP)
            try:
                piece = inflate.decompress(data, _OUTPUT)
            except zlib.error as error:
                raise ValueError("broken compression") from error
            rate += len(piece)
            self._total += len(piece)
            if rate > self._max_rate or self._total > self._max_total:
                raise ValueError("inflates to too much")
            if piece:
                yield piece
            data = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            # After a full piece there may be more output even when all input is used up.
            if not data and (inflate.eof or len(piece) < _OUTPUT):
                return
