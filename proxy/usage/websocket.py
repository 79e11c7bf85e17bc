"""Token counts out of a WebSocket's messages: what `/v1/realtime` says in `response.done`.

:class:`FrameReader` takes the server's frames apart (RFC 6455 §5.2) wherever the reads ended; it
sees uncompressed text only, since extensions are not let through. The thing to get wrong: this is
a bystander. Whatever it cannot read it stops reading; the bytes pass all the same.
"""

from collections.abc import Iterator

import orjson

from proxy.usage.counts import Usage
from proxy.usage.extract import read_answer
from proxy.usage.reading import Reading

_TEXT, _CONTINUATION, _CLOSE = 0x1, 0x0, 0x8
_COUNTS = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
)


class FrameReader:
    """Bytes of one direction in, whole text messages out."""

    __slots__ = ("_buffer", "_closed", "_max", "_message", "_skip")

    def __init__(self, max_message: int) -> None:
        """``max_message``: bytes; a longer message is skipped."""
        self._max = max_message
        self._buffer = bytearray()
        # Payload of the message so far; None while its frames are not wanted (binary, too long).
        self._message: bytearray | None = None
        # Payload bytes of the current frame that go by unseen.
        self._skip = 0
        # Whether a close frame went by: nothing may follow it.
        self._closed = False

    @property
    def at_boundary(self) -> bool:
        """Whether the last frame is whole, and another may follow it."""
        return not (self._buffer or self._skip or self._closed)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The text messages that ``data`` completes. Raises ValueError on what is no frame."""
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        self._buffer += data
        while (frame := self._take_head()) is not None:
            final, opcode, start, length = frame
            wanted = opcode in (_TEXT, _CONTINUATION) and length <= self._max
            if wanted and len(self._buffer) < start + length:
                return
            payload = bytes(self._buffer[start : start + length]) if wanted else b""
            available = min(length, len(self._buffer) - start)
            self._skip = length - available
            del self._buffer[: start + available]
            message = self._add(opcode, payload, final, wanted)
            if message is not None:
                yield message
            if self._skip:
                return

    def _take_head(self) -> tuple[bool, int, int, int] | None:
        """(final, opcode, where the payload starts, its length) of the next frame, if it is in."""
        head = self._buffer
        if len(head) < 2:
            return None
        if head[0] & 0x70 or head[1] & 0x80:
            raise ValueError("an extension is in use, or the frame is masked")
        length, start = head[1] & 0x7F, 2
        if length >= 126:
            size = 2 if length == 126 else 8
            if len(head) < 2 + size:
                return None
            length, start = int.from_bytes(head[2 : 2 + size]), 2 + size
        return bool(head[0] & 0x80), head[0] & 0x0F, start, length

    def _add(self, opcode: int, payload: bytes, final: bool, wanted: bool) -> bytes | None:
        if opcode >= _CLOSE:  # control frames may stand between the frames of a message
            self._closed = self._closed or opcode == _CLOSE
            return None
        if opcode != _CONTINUATION:
            self._message = bytearray() if opcode == _TEXT else None
        if self._message is not None:
            if not wanted or len(self._message) + len(payload) > self._max:
                self._message = None
            else:
                self._message += payload
        if not final or self._message is None:
            return None
        message, self._message = bytes(self._message), None
        return message


class WebSocketMeter:
    """Adds up the usage of every `response.done` that a server sends on one connection."""

    __slots__ = ("_frames", "_model", "_usage")

    def __init__(self, max_message: int = 1024 * 1024) -> None:
        self._frames: FrameReader | None = FrameReader(max_message)
        self._usage: Usage | None = None
        # Told by `session.created`, long before any counts.
        self._model: str | None = None

    def feed(self, chunk: bytes) -> None:
        """See bytes of the server's direction that have gone out. Never raises."""
        if self._frames is None:
            return
        try:
            for message in self._frames.feed(chunk):
                self._read(message)
        except Exception:  # noqa: BLE001  (no WebSocket, or a defect: the bytes pass all the same)
            self._frames = None

    @property
    def at_frame_boundary(self) -> bool:
        """Whether a frame of our own may follow what has gone out."""
        return self._frames is not None and self._frames.at_boundary

    def result(self) -> Reading:
        usage = self._usage
        if usage is None:
            return Reading(Usage(model=self._model) if self._model else None, "none")
        return Reading(usage._replace(model=usage.model or self._model), "reported")

    def _read(self, message: bytes) -> None:
        wanted = b'"response.done"' in message
        if not wanted and (self._model or b'"session.' not in message):
            return
        event = orjson.loads(message)
        if event.get("type") in ("session.created", "session.updated"):
            model = event.get("session", {}).get("model")
            self._model = model if isinstance(model, str) else None
        elif event.get("type") == "response.done":
            seen = read_answer(event)
            if seen.has_counts:
                self._usage = seen if self._usage is None else _sum(self._usage, seen)


def _sum(before: Usage, now: Usage) -> Usage:
    """Both counts together, named by the later one."""
    added = {}
    for name in _COUNTS:
        counts = [
            value for value in (getattr(before, name), getattr(now, name)) if value is not None
        ]
        added[name] = sum(counts) if counts else None
    return now._replace(**added)
