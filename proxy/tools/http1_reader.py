"""The reader of HTTP/1 responses of the load test, the verifier, the benchmarks and the tests.

It does no I/O: its caller reads the socket, feeds the bytes, and knows when each piece came. It
changes nothing: names keep their case, lines their order and their doubles, and the reason, the
borders of chunks and 1xx responses can be seen.

No HTTP library does that: each normalises names or hides the borders. h11, which comes closest,
refuses the malformed responses that are to be compared, and costs a load generator several times
as much for each response.
"""

import re
from typing import Final, Literal

#: How a body ends (RFC 9112 §6.3): there is none, after ``Content-Length`` bytes, with the last
#: chunk, or with the connection.
Framing = Literal["none", "length", "chunked", "close"]

_MAX_HEAD_BYTES: Final = 256 * 1024
#: Of the size of a chunk with its extensions, and of a trailer.
_MAX_LINE_BYTES: Final = 16 * 1024
_MAX_LENGTH_DIGITS: Final = 20
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[0-9] ([0-9]{3})[ \r]")
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*?)?\r\n", re.DOTALL)


class Head:
    """The head of a response as it was sent: ``raw`` has all lines with their ends.

    Its lines are parsed when they are asked for, so that a load generator pays only for those that
    it looks at.
    """

    __slots__ = ("_lower", "raw", "status")

    def __init__(self, raw: bytes, status: int) -> None:
        self.raw = raw
        self.status = status
        self._lower = raw.lower()

    @property
    def line(self) -> str:
        """The status line."""
        return self.raw.partition(b"\r\n")[0].decode("latin-1")

    @property
    def version(self) -> str:
        """Such as ``HTTP/1.1``."""
        return self.line.partition(" ")[0]

    @property
    def reason(self) -> str:
        """Empty if there is none."""
        return self.line[len("HTTP/1.1 200 ") :]

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The lines in their order. Only the white space around a value is not part of it (RFC 9110
        §5.5)."""
        lines = self.raw.decode("latin-1").split("\r\n")[1:-1]
        split = (line.partition(":") for line in lines)
        return tuple((name, value.strip(" \t")) for name, _, value in split)

    def value(self, name: bytes) -> bytes | None:
        """Returns the value of the last line of this name (lower case), or None."""
        at = self._lower.rfind(b"\r\n%b:" % name)
        if at < 0:
            return None
        at += len(name) + 3
        return self.raw[at : self.raw.find(b"\r\n", at)].strip(b" \t")

    @property
    def closes(self) -> bool:
        """Whether the server announces that it closes the connection after this response."""
        default = b"close" if self.raw.startswith(b"HTTP/1.0") else b""
        return b"close" in (self.value(b"connection") or default).lower()


class ResponseReader:
    """Reads one response: :meth:`read` takes bytes, and returns the body's among them.

    Or step by step: :meth:`feed`, then :meth:`next_head`, :meth:`read_chunk`, :meth:`read_body`.

    ``head`` is the final response's; ``interim`` counts the 1xx responses before it. A 101 is
    final. ``chunks`` counts the chunks that came to their border, without the last, empty one.
    ``ended`` says that the response is complete, as its framing promises; ``problem`` says why it
    never will be, and is empty until then.
    """

    # The defaults stand in the class: a load generator makes one reader for each response.
    head: Head | None = None
    interim = 0
    framing: Framing = "none"
    chunks = 0
    trailers = 0
    ended = False
    problem = ""
    _eof = False
    _left = 0  # bytes of the body, or of the current chunk, that have not come
    #: What comes next of a chunked body.
    _next: Literal["", "size", "data", "border", "trailer"] = ""

    def __init__(self, method: str = "GET", unread: bytes = b"") -> None:
        self._method = method
        self._buffer = unread

    @property
    def unread(self) -> bytes:
        """The bytes that are not parsed yet; once it has ended, those after the response."""
        return self._buffer

    def take(self) -> bytes:
        """Returns the bytes that are not parsed yet, and removes them."""
        taken, self._buffer = self._buffer, b""
        return taken

    def read(self, data: bytes) -> bytes:
        """Takes what ``socket.recv`` returned. Returns the body's bytes in it, without their
        framing."""
        if not self._buffer:
            # The usual piece of a stream is one chunk, or a part of a large one.
            if self._next == "size" and data.endswith(b"\r\n"):
                line = _SIZE_LINE.match(data)
                if line is not None and 0 < int(line[1], 16) == len(data) - line.end() - 2:
                    self.chunks += 1
                    return data[line.end() : -2]
            elif self._next == "data" and 0 < len(data) < self._left:
                self._left -= len(data)
                return data
        self.feed(data)
        return self.read_body()

    def feed(self, data: bytes) -> None:
        """Takes what ``socket.recv`` returned, to be read later. Empty bytes are the orderly end of
        the connection; a reset is not one."""
        if data:
            self._buffer = self._buffer + data if self._buffer else data
        else:
            self._eof = True

    def next_head(self) -> Head | None:
        """Returns the next head, be it of a 1xx response; None if it has not come, or there is a
        problem."""
        data = self._buffer
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > _MAX_HEAD_BYTES:
                self.problem = "too much came before the end of the response head"
            elif self._eof:
                self.problem = "the connection was closed before the end of the response head"
            return None
        line = _STATUS_LINE.match(data)
        if line is None:
            self.problem = "what came is not HTTP/1"
            return None
        self._buffer = data[end + 4 :]
        head = Head(data[: end + 2], int(line[1]))
        if head.status < 200 and head.status != 101:
            self.interim += 1
        else:
            self.head = head
            self._choose_framing(head)
        return head

    def read_body(self) -> bytes:
        """Returns the body's bytes that have come, without their framing.

        Reads the heads before it first.
        """
        while self.head is None:
            if self.problem or self.next_head() is None:
                return b""
        if self.ended or self.problem:
            return b""
        if self.framing == "chunked":
            body = self._read_chunks(one=False)
        elif self.framing == "length":
            body, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
            self._left -= len(body)
            self.ended = not self._left
        else:
            body = self.take()
            self.ended = self._eof
        if self._eof and not self.ended and not self.problem:
            self.problem = "the response was cut off"
        return body

    def read_chunk(self) -> bytes:
        """Returns what has come of the current chunk of a chunked body, up to its border.

        The border was read if ``chunks`` has grown.
        """
        return b"" if self.ended or self.problem else self._read_chunks(one=True)

    def _choose_framing(self, head: Head) -> None:
        coding, length = head.value(b"transfer-encoding"), head.value(b"content-length")
        if self._method == "HEAD" or head.status in (101, 204, 304):
            self.ended = True
        elif coding is not None and coding.lower().endswith(b"chunked"):
            self.framing, self._next = "chunked", "size"
        elif coding is not None or length is None:
            self.framing = "close"
        else:
            self.framing = "length"
            if length.isdigit() and len(length) < _MAX_LENGTH_DIGITS:
                self._left = int(length)
                self.ended = not self._left
            else:
                self.problem = "the response's length is not valid"

    def _read_chunks(self, *, one: bool) -> bytes:
        """Returns the body's bytes in the buffer, up to the next border if ``one``."""
        data, at, found = self._buffer, 0, []
        while at < len(data):
            if self._next == "size":
                line = _SIZE_LINE.match(data, at)
                if line is None:
                    if data.find(b"\r\n", at) >= 0 or len(data) - at > _MAX_LINE_BYTES:
                        self.problem = "a chunk's size is not a number"
                    break
                at = line.end()
                size = int(line[1], 16)
                end = at + size
                if size and not one and data[end : end + 2] == b"\r\n":
                    found.append(data[at:end])  # the usual one: it has come with its border
                    at = end + 2
                    self.chunks += 1
                else:
                    self._left = size
                    self._next = "data" if size else "trailer"
            elif self._next == "data":
                piece = data[at : at + self._left]
                found.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._next = "border"
            elif self._next == "border":
                border = data[at : at + 2]
                if border != b"\r\n":
                    if border != b"\r":
                        self.problem = "a chunk of the response is longer than its size"
                    break
                at += 2
                self.chunks += 1
                self._next = "size"
                if one:
                    break
            else:
                at = self._read_trailers(data, at)
                break
        self._buffer = data[at:]
        return b"".join(found)

    def _read_trailers(self, data: bytes, at: int) -> int:
        """Returns the position after the last line that has come whole."""
        while not self.ended:
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at > _MAX_LINE_BYTES:
                    self.problem = "a trailer of the response is too long"
                break
            if end == at:
                self.ended = True
            else:
                self.trailers += 1
            at = end + 2
        return at
