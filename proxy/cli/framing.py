"""The end of a response body, found while it comes: by length, in chunks, or until the close.

A decoder takes what was received and gives the body's bytes of it; ``ended`` says that the message
is complete. The thing to get wrong: borders are anywhere, in the middle of a chunk's size too.
"""

import re
from collections.abc import Mapping
from typing import Final, Protocol

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
_LONGEST_LINE: Final = 16 * 1024
_BLANK_LINE: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class Malformed(Exception):
    """What came is not a message of the framing that was announced."""


class Body(Protocol):
    ended: bool

    def feed(self, data: bytes) -> bytes:
        """The body's bytes in ``data``. Raises :class:`Malformed`."""
        ...


class OfLength:
    """``left`` bytes; with 0 it has ended before anything came."""

    def __init__(self, left: int) -> None:
        self._left = left
        self.ended = not left

    def feed(self, data: bytes) -> bytes:
        if len(data) > self._left:
            raise Malformed("more came than the answer's length")
        self._left -= len(data)
        self.ended = not self._left
        return data


class UntilClose:
    """Only the connection's end ends it."""

    ended = False

    def feed(self, data: bytes) -> bytes:
        return data


class Chunked:
    def __init__(self) -> None:
        self.ended = False
        self._rest = b""
        self._left = 0  # of the chunk that is being read
        self._line = "size"  # what the next line is: size, border (after a chunk), trailer

    def feed(self, data: bytes) -> bytes:
        data, at, found = self._rest + data, 0, []
        while not self.ended:
            if self._left:
                piece = data[at : at + self._left]
                found.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            self._take(data[at:end])
            at = end + 2
        self._rest = data[at:]
        if len(self._rest) > _LONGEST_LINE or (self.ended and self._rest):
            raise Malformed("the chunks of the answer are not valid")
        return b"".join(found)

    def _take(self, line: bytes) -> None:
        if self._line == "trailer":
            self.ended = not line
        elif self._line == "border":
            if line:
                raise Malformed("a chunk of the answer is longer than its size")
            self._line = "size"
        else:
            size = _SIZE.fullmatch(line)
            if size is None:
                raise Malformed("a chunk's size is not a number")
            self._left = int(size[1], 16)
            self._line = "border" if self._left else "trailer"


def body_of(method: str, status: int, fields: Mapping[bytes, bytes]) -> Body:
    """The decoder for an answer with these header fields (lower-case names), RFC 9112 §6.3."""
    if method == "HEAD" or status in (204, 304):
        return OfLength(0)
    if b"transfer-encoding" in fields:
        return Chunked()
    if b"content-length" in fields:
        if not fields[b"content-length"].isdigit():
            raise Malformed("the answer's length is not a number")
        return OfLength(int(fields[b"content-length"]))
    return UntilClose()


class EventTimes:
    """Counts the server-sent events of a body and when they came. Comments are no events.

    ``stall``: the longest silence after the first event, until the next one or the stream's end.
    """

    def __init__(self) -> None:
        self.count = 0
        self.first_at: float | None = None
        self.stall = 0.0
        self._last_at = 0.0
        self._rest = b""

    def feed(self, data: bytes, at: float) -> None:
        *blocks, self._rest = _BLANK_LINE.split(self._rest + data)
        fresh = sum(_has_data(block) for block in blocks)
        if fresh:
            self.count += fresh
            self.end(at)
            if self.first_at is None:
                self.first_at = at
            self._last_at = at

    def end(self, at: float) -> None:
        if self.first_at is not None:
            self.stall = max(self.stall, at - self._last_at)


def _has_data(block: bytes) -> bool:
    return block.startswith(b"data") or b"\ndata" in block or b"\rdata" in block
