"""A stand-in for the upstream API, for ``manage.py demo``: chat completions and the model list.

It accepts one upstream key only, so a demo that works proves that the key was swapped in. It does
not model the real API's errors or limits: the tests have their own upstream for that.
"""

import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

import orjson

MODEL: Final = "stand-in-1"
_TEXT: Final = (
    "This response was made up by a stand-in, but it came a word at a time through the real proxy."
)


class FakeUpstream:
    """A server on a free loopback port, for a ``with`` block. ``pace`` is in seconds per word."""

    def __init__(self, upstream_key: str, pace: float = 0.06) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.upstream_key = upstream_key
        self._server.pace = pace
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    # Threads that serve a kept-alive connection must not delay the end.
    daemon_threads = True
    block_on_close = False
    upstream_key: str
    pace: float

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints nothing: a client may leave in the middle of a response."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        if self._may_enter():
            if self.path == "/v1/models":
                model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "stand-in"}
                self._json(200, {"object": "list", "data": [model]})
            else:
                self._refuse(404, f"Unknown request URL: GET {self.path}.", "unknown_url")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._may_enter():
            return
        if self.path != "/v1/chat/completions":
            self._refuse(404, f"Unknown request URL: POST {self.path}.", "unknown_url")
            return
        try:
            request = orjson.loads(body)
            asked = sum(len(message["content"].split()) for message in request["messages"])
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            self._refuse(400, "The body must be JSON with `messages`.", None)
            return
        if request.get("stream"):
            self._stream(request, asked)
        else:
            message = {"role": "assistant", "content": _TEXT, "refusal": None}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._json(
                200, _head("chat.completion") | {"choices": [choice], "usage": _usage(asked)}
            )

    def _stream(self, request: dict[str, Any], asked: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        wants_usage = (request.get("stream_options") or {}).get("include_usage", False)
        for event in _events(asked, wants_usage):
            data = b"data: " + event + b"\n\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            time.sleep(self.server.pace)
        self.wfile.write(b"0\r\n\r\n")

    def _may_enter(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {self.server.upstream_key}":
            return True
        self._refuse(401, "Incorrect API key provided.", "invalid_api_key")
        return False

    def _refuse(self, status: int, message: str, code: str | None) -> None:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        self._json(status, {"error": error})

    def _json(self, status: int, value: Any) -> None:
        body = orjson.dumps(value)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-request-id", f"req_{uuid.uuid4().hex}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base's name)
        """Prints nothing: the demo has its own output."""


def _events(asked: int, wants_usage: bool) -> Iterator[bytes]:
    head = _head("chat.completion.chunk")
    words = _TEXT.split(" ")
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word if i == 0 else f" {word}"} for i, word in enumerate(words)]
    for delta in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        yield orjson.dumps(head | {"choices": [choice]})
    yield orjson.dumps(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if wants_usage:
        yield orjson.dumps(head | {"choices": [], "usage": _usage(asked)})
    yield b"[DONE]"


def _head(kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex[:24]}",
        "object": kind,
        "created": int(time.time()),
        "model": MODEL,
    }


def _usage(asked: int) -> dict[str, Any]:
    """Counts a word as a token, which is close enough for a stand-in."""
    words = len(_TEXT.split())
    return {
        "prompt_tokens": asked,
        "completion_tokens": words,
        "total_tokens": asked + words,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
