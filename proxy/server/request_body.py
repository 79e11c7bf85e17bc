"""A request's body on gunicorn, read as it arrives, with the proxy's own errors.

Replaces gunicorn's `Body` as `wsgi.input`, and corrects four things: gunicorn reads until it has
all requested bytes, takes a truncated body of known length for a complete one, has no time limit,
and responds to `Expect: 100-continue` before the access token has been checked.
"""

from typing import Any, Final

from gunicorn.http import errors as http_errors
from gunicorn.http.body import Body, ChunkedReader, LengthReader

from proxy.core.errors import ClientError
from proxy.server.connections import BODY_GRACE_SECONDS

#: Up to this size, the rest of a refused body is skipped, which keeps the connection.
_MAX_SKIPPED_BYTES: Final = 64 * 1024


class ArrivingBody(Body):  # type: ignore[misc]
    """`wsgi.input`. Also has the parsed header lines, and whether the connection must close."""

    def __init__(self, request: Any, reader: Any) -> None:
        super().__init__(reader)
        self._request = request
        # The client waits for `100 Continue` before it sends its body (RFC 9110 §10.1.1).
        self._continue_due = bool(request._expected_100_continue)  # noqa: SLF001
        request._expected_100_continue = False  # noqa: SLF001  (gunicorn would send it at once)
        self._touched = False

    @property
    def header_lines(self) -> list[tuple[str, str]]:
        """Header lines in the order received, duplicates included; names in upper case."""
        lines: list[tuple[str, str]] = self._request.headers
        return lines

    @property
    def first_values(self) -> dict[str, str]:
        """The first value of each header."""
        values: dict[str, str] = self._request.by_name
        return values

    @property
    def unreadable(self) -> bool:
        """Whether the start of the next request on this connection cannot be found any more."""
        return bool(self.failed) or self._continue_due

    @property
    def ended(self) -> bool:
        """Whether the body has been read to its end."""
        return self._rest() == 0 and not self.buf.tell()

    @property
    def unread(self) -> bool:
        """Whether bytes of the body may still be on their way."""
        return bool(self._rest())

    @property
    def arrived(self) -> bool:
        """Whether all of a body of known length is here: reading it would not wait."""
        reader = self.reader
        return (
            isinstance(reader, LengthReader)
            and not self._continue_due
            and reader.length <= reader.unreader.buf.tell()
        )

    def read_arrived(self, max_bytes: int) -> bytes:
        """The bytes that have arrived, at least one; `b""` at the end.

        Raises ClientError: 400 malformed or truncated, 408 too slow.
        """
        reader = self.reader
        try:
            self._begin_reading()
            if isinstance(reader, LengthReader):
                return self._of_known_length(reader, max_bytes)
            if isinstance(reader, ChunkedReader):
                return _next_piece(reader)
        except BaseException as error:
            self.failed = True
            raise _translated(error) from error
        return b""

    def take_buffered(self) -> bytes:
        """Return what came behind the request, when the connection becomes a tunnel."""
        data: bytes = self._request.unreader.take_buffered()
        return data

    def abandon(self) -> None:
        """Leave the rest unread. Called by the application before the head of the response."""
        rest = self._rest()
        if self._touched or self._continue_due or rest is None or rest > _MAX_SKIPPED_BYTES:
            self._request.force_close()

    def _read_reader(self, size: int) -> bytes:
        """Called by every `read` and `readline` of the base class."""
        reader = self.reader
        try:
            self._begin_reading()
            expected = min(size, reader.length) if isinstance(reader, LengthReader) else 0
            data: bytes = reader.read(size)
            if len(data) < expected:
                raise _truncated()
        except BaseException as error:
            self.failed = True
            raise _translated(error) from error
        return data

    def _of_known_length(self, reader: LengthReader, max_bytes: int) -> bytes:
        if not reader.length:
            return b""
        max_bytes = min(max_bytes, reader.length)
        piece: bytes = reader.unreader.read(None, read_ahead=max_bytes)
        if not piece:
            raise _truncated()
        if len(piece) > max_bytes:  # pipelined bytes, or more than requested
            reader.unreader.unread(piece[max_bytes:])
            piece = piece[:max_bytes]
        reader.length -= len(piece)
        return piece

    def _rest(self) -> int | None:
        """Bytes of the body that are not read yet, or None when that is not known."""
        reader = self.reader
        if isinstance(reader, LengthReader):
            return int(reader.length)
        return None if getattr(reader, "parser", None) else 0

    def _begin_reading(self) -> None:
        if not self._touched:
            self._touched = True
            self._request.unreader.credit = BODY_GRACE_SECONDS
        if self._continue_due:
            self._continue_due = False
            self._request.unreader.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def _translated(error: BaseException) -> BaseException:
    if isinstance(error, TimeoutError):
        return ClientError(code="request_timeout")
    if isinstance(error, http_errors.NoMoreData | ConnectionError):
        return _truncated()
    if isinstance(error, http_errors.ParseException):
        return ClientError("The request body is not validly chunked.")
    return error


def _next_piece(reader: ChunkedReader) -> bytes:
    """The next piece of a chunked body.

    gunicorn's parser also yields empty pieces, which are not the end of the body.
    """
    if reader.parser is not None:
        for piece in reader.parser:
            if piece:
                return bytes(piece)
        reader.parser = None
    return b""


def _truncated() -> ClientError:
    return ClientError("The request body ended before it was complete.")
