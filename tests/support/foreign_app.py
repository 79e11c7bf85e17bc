"""A small ASGI application for uvicorn: an upstream with a foreign HTTP implementation.

The same request gets the same response; ``/v1/step`` waits for ``/v1/go`` between two chunks.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_EVENTS = [
    {
        "id": "chatcmpl-9",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "foreign",
        "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}],
    }
    for word in ("Grüße", " from", " elsewhere")
]
_ANSWER = {
    "id": "chatcmpl-9",
    "object": "chat.completion",
    "created": 1,
    "model": "foreign",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Grüße"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
}
_steps: asyncio.Queue[None] = asyncio.Queue()


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    path = scope["path"]
    if path == "/v1/chat/completions" and json.loads(body).get("stream"):
        await _stream(send, [b"data: %b\n\n" % json.dumps(e).encode() for e in _EVENTS])
    elif path == "/v1/chat/completions":
        await _whole(send, json.dumps(_ANSWER, ensure_ascii=False).encode())
    elif path == "/v1/echo":
        raw_path = scope["raw_path"].decode("latin-1")
        facts = [scope["method"], raw_path, scope["query_string"].decode(), len(body)]
        await _whole(send, json.dumps(facts).encode() + b"\n" + body)
    elif path == "/v1/step":
        await _start(send, [(b"content-type", b"application/octet-stream")])
        for number in range(5):
            await _steps.get()
            await _chunk(send, b"step %d" % number)
        await send({"type": "http.response.body"})
    elif path == "/v1/go":
        _steps.put_nowait(None)
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})
    else:
        error = {"message": "nothing here", "type": "t", "param": None, "code": "foreign"}
        await _whole(send, json.dumps({"error": error}).encode(), 404)


async def _start(send: Send, headers: list[tuple[bytes, bytes]], status: int = 200) -> None:
    ours = [(b"x-request-id", b"req_foreign"), (b"x-twice", b"1"), (b"x-twice", b"2")]
    start = {"type": "http.response.start", "status": status, "headers": [*headers, *ours]}
    await send(start)


async def _chunk(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _whole(send: Send, body: bytes, status: int = 200) -> None:
    length = (b"content-length", str(len(body)).encode())
    await _start(send, [(b"content-type", b"application/json"), length], status)
    await send({"type": "http.response.body", "body": body})


async def _stream(send: Send, events: list[bytes]) -> None:
    await _start(send, [(b"content-type", b"text/event-stream; charset=utf-8")])
    for event in [*events, b"data: [DONE]\n\n"]:
        await _chunk(send, event)
    await send({"type": "http.response.body"})
