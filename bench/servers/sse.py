"""An upstream that streams: every event its own chunk and its own write, at a pace.

Run as `python -m bench.servers.sse PORT EVENTS INTERVAL`; a chat that asks for no stream is
answered at once, as JSON. The pace is kept from the start of the stream: late timers do not add up.
"""

import asyncio
import json
import sys
from typing import Any, Final, NamedTuple

from bench.load.message import MODEL
from bench.servers.chat import ANSWER, ANSWER_HEADERS

_EVENT: Final = {
    "id": "chatcmpl-bench",
    "object": "chat.completion.chunk",
    "created": 1677652288,
    "model": MODEL,
    "system_fingerprint": "fp_bench",
}


class Frames(NamedTuple):
    """What a stream is made of, each as a chunk of HTTP: the words, which repeat, between the rest.

    `begin` goes out with the head.
    """

    begin: bytes
    words: list[bytes]
    usage: bytes
    end: bytes


def chunk(event: bytes) -> bytes:
    """Return an event as a chunk of HTTP."""
    return b"%x\r\n%s\r\n" % (len(event), event)


def _chunk(data: str) -> bytes:
    return chunk(f"data: {data}\n\n".encode())


def _delta(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    return _chunk(json.dumps({**_EVENT, "choices": [choice], "usage": None}))


WORDS: Final = [f" word{number}" for number in range(10)]
_USAGE: Final = _chunk(
    json.dumps(
        {
            **_EVENT,
            "choices": [],
            "usage": {"prompt_tokens": 40, "completion_tokens": 300, "total_tokens": 340},
        }
    )
)
LAST_CHUNK: Final = b"0\r\n\r\n"
OPENAI: Final = Frames(b"", [_delta(word) for word in WORDS], _USAGE, _chunk("[DONE]") + LAST_CHUNK)
_HEAD: Final = (
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    + ANSWER_HEADERS
    + "Transfer-Encoding: chunked\r\n\r\n"
).encode()
_JSON: Final = (
    f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{ANSWER_HEADERS}"
    f"Content-Length: {len(ANSWER)}\r\n\r\n{ANSWER}"
).encode()


def _whole(head: bytes, body: bytes) -> bool:
    """Whether the request is there to its end; some gateways send theirs in chunks."""
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        return len(body) >= int(head[at + 17 :].split(b"\r\n", 1)[0])
    return b"\r\ntransfer-encoding: chunked" not in head or body.endswith(b"0\r\n\r\n")


class Upstream(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def __init__(self, events: int, interval: float, frames: Frames) -> None:
        self._frames = frames
        self._events = events
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end or not _whole(head.lower(), body):
            return
        self._buffer = b""
        if b'"stream":true' in body or b'"stream": true' in body:
            self._transport.write(_HEAD + self._frames.begin)
            self._send(0, self._loop.time())
        else:
            self._transport.write(_JSON)

    def _send(self, number: int, started: float) -> None:
        """Words, then one event with the counts, then the end: ``events`` in all."""
        left = self._events - number
        if left == 1:
            self._timer = None
            self._transport.write(self._frames.end)
            return
        words = self._frames.words
        self._transport.write(self._frames.usage if left == 2 else words[number % len(words)])
        self._timer = self._loop.call_at(
            started + (number + 1) * self._interval, self._send, number + 1, started
        )


async def serve(port: int, events: int, interval: float, frames: Frames = OPENAI) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Upstream(events, interval, frames), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
