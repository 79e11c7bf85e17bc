"""A chunked body whose size lines are bounded, extensions included (RFC 9112 §7.1.1)."""

from typing import Any, Final

from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import InvalidChunkSize

#: Bytes of a chunk's size and extensions. A signature of Amazon's (`chunk-signature=…`) takes 86.
MAX_SIZE_LINE: Final = 1024


class Chunks(ChunkedReader):  # type: ignore[misc]
    """gunicorn's reader, which bounds a size line only for as long as its end has not come."""

    def __init__(self, request: Any, unreader: Any) -> None:
        super().__init__(request, unreader)
        self.limit_chunk_size_line = MAX_SIZE_LINE

    def parse_chunk_size(self, unreader: Any, data: Any = None) -> Any:
        """Raises as gunicorn's."""
        line = bytearray(data or b"")
        while (end := line.find(b"\r\n")) < 0 and len(line) < MAX_SIZE_LINE + 2:
            self.read_into(unreader, line)
        if not 0 <= end <= MAX_SIZE_LINE:
            raise InvalidChunkSize(b"the size line is too long")
        return super().parse_chunk_size(unreader, line)
