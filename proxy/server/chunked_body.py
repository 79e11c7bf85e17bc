"""A chunked body (RFC 9112 §7.1), decoded as it arrives; size lines and framing are bounded.

gunicorn's decoder copies its buffer several times per chunk, and yields each chunk by itself. A
body of one-byte chunks would cost 5 µs a byte. Here, chunks that arrived together are one piece.
Size lines that are more than a number, the last chunk and the trailers are left to gunicorn's
decoder, which alone decides about them.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import ChunkMissingTerminator, InvalidChunkSize, NoMoreData

from proxy.core.errors import ClientError
from proxy.runtime.yielding import turn_if_due

#: Maximum of a chunk's size and extensions. Amazon's signature (`chunk-signature=…`) takes 86.
MAX_SIZE_LINE_BYTES: Final = 1024
#: Framing that any body may have. Beyond it, a body may have no more framing than data.
FREE_FRAMING_BYTES: Final = 64 * 1024
#: Chunks decoded between two checks of the clock.
_CHUNKS_PER_CHECK: Final = 256
_CRLF: Final = b"\r\n"
_PLAIN: Final = re.compile(rb"[0-9A-Fa-f]{1,15}")


class Chunks(ChunkedReader):  # type: ignore[misc]
    """gunicorn's reader with the proxy's own decoder."""

    def __init__(self, request: Any, unreader: Any) -> None:
        super().__init__(request, unreader)
        self.limit_chunk_size_line = MAX_SIZE_LINE_BYTES

    def parse_chunked(self, unreader: Any) -> Iterator[bytes]:
        """Yield pieces of the body, none of them empty.

        Raises gunicorn's parse errors, and ClientError 400 for a body that is mostly framing.
        """
        buffer = _Buffer(self, unreader)
        while True:
            whole = buffer.whole_chunks()
            if whole:
                yield b"".join(whole)
            if not buffer.has_line():
                buffer.read_on()
                continue
            size = buffer.size_line()
            if not size:
                return
            while size:
                piece = buffer.some(size)
                size -= len(piece)
                yield piece
            buffer.end_of_chunk()


class _Buffer:
    """Bytes that were read and are not decoded yet: `_data` from `_at` on."""

    def __init__(self, reader: Any, unreader: Any) -> None:
        self._reader = reader
        self._unreader = unreader
        self._data = b""
        self._at = 0
        self._framing = 0
        self._payload = 0
        self._chunks = 0

    def whole_chunks(self) -> list[bytes]:
        """The data of usual chunks that have arrived whole, without reading more."""
        data, at, found = self._data, self._at, []
        while (end := data.find(_CRLF, at)) >= 0:
            line = data[at:end]
            size = int(line, 16) if _PLAIN.fullmatch(line) else 0
            last = end + 2 + size
            if not size or data[last : last + 2] != _CRLF:
                break
            found.append(data[end + 2 : last])
            at = last + 2
            self._count(len(line), size)
        self._at = at
        return found

    def has_line(self) -> bool:
        """Whether a whole size line has arrived."""
        if self._data.find(_CRLF, self._at) >= 0:
            return True
        if len(self._data) - self._at > MAX_SIZE_LINE_BYTES + 1:
            raise InvalidChunkSize(b"the size line is too long")
        return False

    def size_line(self) -> int:
        """The size of the next chunk; 0 after the last chunk and its trailers."""
        line = self._data.index(_CRLF, self._at) - self._at
        if line > MAX_SIZE_LINE_BYTES:
            raise InvalidChunkSize(b"the size line is too long")
        size, rest = self._reader.parse_chunk_size(self._unreader, self._data[self._at :])
        self._count(line, size)
        self._data, self._at = rest or b"", 0
        return int(size)

    def some(self, size: int) -> bytes:
        """The bytes that have arrived of the `size` bytes left of a chunk; at least one."""
        if self._at == len(self._data):
            self._data, self._at = b"", 0
            self.read_on(size)
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def end_of_chunk(self) -> None:
        while len(self._data) - self._at < 2:
            self.read_on()
        end = self._data[self._at : self._at + 2]
        if end != _CRLF:
            raise ChunkMissingTerminator(end)
        self._at += 2

    def _count(self, line: int, size: int) -> None:
        self._framing += line + 4
        self._payload += size
        self._chunks += 1
        if not self._chunks % _CHUNKS_PER_CHECK:
            turn_if_due()
        if self._framing > FREE_FRAMING_BYTES and self._framing > self._payload:
            raise ClientError(
                "The request body has more chunk framing than data: send larger chunks."
            )

    def read_on(self, size: int | None = None) -> None:
        """Read more. `size`: bytes left of a chunk, of which many may be read at once."""
        more = self._unreader.read(None, read_ahead=size)
        if not more:
            raise NoMoreData
        self._data, self._at = self._data[self._at :] + more, 0
