"""The frames that a WebSocket server sends, joined to messages (RFC 6455 §5).

Only uncompressed text is read, since extensions are not forwarded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from proxy.usage.skeleton import Skeleton

_TEXT, _CONTINUATION, _CLOSE = 0x1, 0x0, 0x8

#: A text message, or the relevant JSON members of one that is too large to be held.
Message = bytes | Mapping[str, object]


class FrameReader:
    """Reads the bytes of one direction, and returns whole text messages."""

    __slots__ = ("_buffer", "_closed", "_final", "_left", "_max", "_message", "_opcode")

    def __init__(self, max_message: int) -> None:
        """`max_message` is in bytes. A longer message is read as JSON while it passes."""
        self._max = max_message
        self._buffer = bytearray()
        # Missing payload bytes of the current frame, or None between two frames.
        self._left: int | None = None
        self._final = False
        self._opcode = 0
        # The message so far; None for a binary message, or before the first frame.
        self._message: bytearray | Skeleton | None = None
        # Whether a close frame has passed: nothing may follow it.
        self._closed = False

    @property
    def at_boundary(self) -> bool:
        """Whether the last frame is complete, and another may follow it."""
        return self._left is None and not self._buffer and not self._closed

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the text messages that `data` completes. Raises ValueError for no frame."""
        self._buffer += data
        while self._left is not None or self._take_head():
            left = self._left or 0
            payload = bytes(self._buffer[:left])
            del self._buffer[: len(payload)]
            self._left = left - len(payload)
            if self._opcode < _CLOSE:  # control frames may stand between the frames of a message
                self._add(payload)
            if self._left:
                return
            self._left = None
            if self._opcode < _CLOSE and self._final:
                message, self._message = self._message, None
                if isinstance(message, bytearray):
                    yield bytes(message)
                elif message is not None and message.members:
                    yield message.members

    def _take_head(self) -> bool:
        """Begin the next frame, if its head is complete."""
        head = self._buffer
        if len(head) < 2:
            return False
        if head[0] & 0x70 or head[1] & 0x80:
            raise ValueError("an extension is in use, or the frame is masked")
        length, start = head[1] & 0x7F, 2
        if length >= 126:
            size = 2 if length == 126 else 8
            if len(head) < 2 + size:
                return False
            length, start = int.from_bytes(head[2 : 2 + size]), 2 + size
        self._final, self._opcode = bool(head[0] & 0x80), head[0] & 0x0F
        self._left = length
        if self._opcode == _CLOSE:
            self._closed = True
        elif self._opcode < _CLOSE and self._opcode != _CONTINUATION:
            self._message = bytearray() if self._opcode == _TEXT else None
        del head[:start]
        return True

    def _add(self, payload: bytes) -> None:
        message = self._message
        if isinstance(message, Skeleton):
            message.feed(payload)
        elif message is not None:
            message += payload
            if len(message) > self._max:
                self._message = Skeleton()
                self._message.feed(bytes(message))
