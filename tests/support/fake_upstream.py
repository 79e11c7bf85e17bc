"""A stand-in for OpenAI: a real HTTP/1.1 server on loopback that also knows how to misbehave.

Everything is written by hand on the socket, so that a test decides about every byte and when it
goes out. Ordinary API routes answer as OpenAI does; a path below ``/v1/behave/`` names one of the
ways in ``BEHAVIOURS``.
"""

import contextlib
import gzip
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent.event import Event
from gevent.lock import Semaphore
from gevent.server import StreamServer

Headers = list[tuple[str, str]]

CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1677652288,
    "model": "gpt-4.1-mini",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello there."},
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 9,
        "completion_tokens": 12,
        "total_tokens": 21,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 5},
    },
}
COMPLETION = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1677652289,
    "model": "gpt-3.5-turbo-instruct",
    "choices": [{"text": " world", "index": 0, "logprobs": None, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3},
}
EMBEDDING = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2, 0.3]}],
    "model": "text-embedding-3-small",
    "usage": {"prompt_tokens": 4, "total_tokens": 4},
}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1741476542,
    "status": "completed",
    "model": "gpt-4.1-mini",
    "output": [
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hi.", "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 36,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 87,
        "output_tokens_details": {"reasoning_tokens": 64},
        "total_tokens": 123,
    },
}
FILE = {
    "id": "file-1",
    "object": "file",
    "bytes": 5,
    "created_at": 1677610602,
    "filename": "a.txt",
    "purpose": "assistants",
    "status": "processed",
}
AUDIO = bytes(range(256)) * 64


@dataclass
class Received:
    """One request as it arrived; ``complete`` once the end of its body was seen."""

    method: str
    target: str
    headers: Headers
    body: bytes = b""
    complete: bool = False

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


@dataclass
class Conversation:
    """One request on one connection, for a behaviour to answer."""

    sock: socket.socket
    request: Received
    upstream: "Upstream"
    leftover: bytearray = field(default_factory=bytearray)

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.sock.sendall(part)

    def head(self, status: str, headers: Headers) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        self.send(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1"))

    def answer(self, status: str, headers: Headers, body: bytes) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        head = f"HTTP/1.1 {status}\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
        self.send(head.encode("latin-1") + (b"" if self.request.method == "HEAD" else body))

    def body(self, data: bytes) -> None:
        """Bytes of the body, as they are; nothing in answer to HEAD."""
        if self.request.method != "HEAD":
            self.send(data)

    def chunk(self, data: bytes) -> None:
        self.body(b"%X\r\n%b\r\n" % (len(data), data))

    def end_chunks(self) -> None:
        self.body(b"0\r\n\r\n")

    def events(self, events: list[bytes], *, gated: bool = False) -> None:
        self.head(
            "200 OK",
            [
                ("Content-Type", "text/event-stream; charset=utf-8"),
                ("Transfer-Encoding", "chunked"),
            ],
        )
        *most, last = events
        for event in most:
            if gated:
                self.upstream.gate.acquire()
            self.chunk(event)
        if gated:
            self.upstream.gate.acquire()
        # In one piece: clients leave at the last event, and may do so before an end of its own.
        self.body(b"%X\r\n%b\r\n0\r\n\r\n" % (len(last), last))

    def wait_for_close(self) -> None:
        """Until the other side has closed its connection; then `upstream.left` is set."""
        with contextlib.suppress(OSError):
            while self.sock.recv(65536):
                pass
        self.upstream.left.set()

    def pieces(self) -> Iterator[bytes]:
        """The request's body as it comes, for behaviours that answer before it has been read."""
        yield from _body(self.sock, self.leftover, self.request)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.sock.close()


def sse(data: object, event: str | None = None) -> bytes:
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def chat_events(usage: bool = True) -> list[bytes]:
    """With ``usage`` every other chunk says null, as OpenAI does when it is asked."""
    head = {
        "id": "chatcmpl-2",
        "object": "chat.completion.chunk",
        "created": 1677652290,
        "model": "gpt-4.1-mini",
    }
    choices = [
        {"index": 0, "delta": {"content": word}, "finish_reason": None}
        for word in ("One ", "two ", "three.")
    ]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    return _events(head, choices, CHAT["usage"] if usage else None)


def completion_events(usage: bool = True) -> list[bytes]:
    head = {
        "id": "cmpl-2",
        "object": "text_completion",
        "created": 1677652291,
        "model": "gpt-3.5-turbo-instruct",
    }
    choices = [
        {"text": text, "index": 0, "logprobs": None, "finish_reason": end}
        for text, end in ((" wo", None), ("rld", "stop"))
    ]
    return _events(head, choices, COMPLETION["usage"] if usage else None)


def _events(head: dict[str, object], choices: list[object], usage: object) -> list[bytes]:
    null = {"usage": None} if usage else {}
    chunks: list[dict[str, object]] = [{**head, "choices": [one], **null} for one in choices]
    if usage:
        chunks.append({**head, "choices": [], "usage": usage})
    return [*(sse(json.dumps(chunk, separators=(",", ":"))) for chunk in chunks), sse("[DONE]")]


def response_events() -> list[bytes]:
    started = {**RESPONSE, "status": "in_progress", "output": [], "usage": None}
    return [
        sse(
            {"type": "response.created", "sequence_number": 0, "response": started},
            "response.created",
        ),
        sse(
            {
                "type": "response.output_text.delta",
                "sequence_number": 1,
                "item_id": "msg_1",
                "output_index": 0,
                "content_index": 0,
                "delta": "Hi.",
                "logprobs": [],
            },
            "response.output_text.delta",
        ),
        sse(
            {"type": "response.completed", "sequence_number": 2, "response": RESPONSE},
            "response.completed",
        ),
    ]


# The ordinary API.


def _json(
    talk: Conversation, body: object, status: str = "200 OK", extra: Headers | None = None
) -> None:
    headers = [
        ("Content-Type", "application/json"),
        ("X-Request-Id", "req_upstream"),
        *(extra or []),
    ]
    talk.answer(status, headers, json.dumps(body).encode())


def _error(talk: Conversation, status: str, message: str, extra: Headers | None = None) -> None:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    _json(talk, {"error": error}, status, extra)


_STATUS_MODELS = {
    "error-400": "400 Bad Request",
    "error-401": "401 Unauthorized",
    "error-403": "403 Forbidden",
    "error-404": "404 Not Found",
    "error-409": "409 Conflict",
    "error-422": "422 Unprocessable Entity",
    "error-429": "429 Too Many Requests",
    "error-500": "500 Internal Server Error",
    "no-such-model": "404 Not Found",
}


def _chat(talk: Conversation) -> None:
    body = json.loads(talk.request.body)
    if body["model"] in _STATUS_MODELS:
        extra = [("Retry-After", "7"), ("x-ratelimit-remaining-requests", "0")]
        _error(talk, _STATUS_MODELS[body["model"]], f"{body['model']} asked for", extra)
    elif body.get("stream"):
        talk.events(chat_events(_asks_for_usage(body)), gated=body["model"] == "gated")
    else:
        _json(talk, CHAT)


def _completions(talk: Conversation) -> None:
    body = json.loads(talk.request.body)
    if body.get("stream"):
        talk.events(completion_events(_asks_for_usage(body)))
    else:
        _json(talk, COMPLETION)


def _asks_for_usage(body: dict[str, Any]) -> bool:
    return bool((body.get("stream_options") or {}).get("include_usage"))


def _responses(talk: Conversation) -> None:
    body = json.loads(talk.request.body)
    if body.get("stream"):
        talk.events(response_events())
    elif body.get("background"):
        _json(talk, {**RESPONSE, "status": "queued", "output": [], "usage": None})
    else:
        _json(talk, RESPONSE)


def _stored_response(talk: Conversation) -> None:
    if "stream=true" in talk.request.target:
        talk.events(response_events()[-1:])
    else:
        _json(talk, RESPONSE)


def _audio(talk: Conversation) -> None:
    talk.head("200 OK", [("Content-Type", "audio/mpeg"), ("Transfer-Encoding", "chunked")])
    for start in range(0, len(AUDIO), 4096):
        talk.chunk(AUDIO[start : start + 4096])
    talk.end_chunks()


ROUTES: dict[tuple[str, str], Callable[[Conversation], None]] = {
    ("POST", "/v1/chat/completions"): _chat,
    ("POST", "/v1/deployments/gpt-4.1-mini/chat/completions"): _chat,
    ("POST", "/v1/completions"): _completions,
    ("POST", "/v1/embeddings"): lambda talk: _json(talk, EMBEDDING),
    ("POST", "/v1/responses"): _responses,
    ("GET", "/v1/responses/resp_1"): _stored_response,
    ("GET", "/v1/chat/completions/chatcmpl-1"): lambda talk: _json(talk, CHAT),
    ("POST", "/v1/files"): lambda talk: _json(talk, FILE),
    ("POST", "/v1/audio/speech"): _audio,
    ("GET", "/v1/models"): lambda talk: _json(talk, {"object": "list", "data": []}),
}


# Ways to misbehave, and odd but valid ways to behave, by the name in the path.


def _echo(talk: Conversation) -> None:
    request = talk.request
    seen = {
        "method": request.method,
        "target": request.target,
        "headers": request.headers,
        "body": request.body.decode("latin-1"),
    }
    _json(talk, seen)


def _odd_headers(talk: Conversation) -> None:
    talk.answer(
        "299 Quite Odd",
        [
            ("Set-Cookie", "a=1; Path=/"),
            ("x-lower", "kept"),
            ("Set-Cookie", "b=2; Path=/"),
            ("X-Empty", ""),
            ("Connection", "X-Hop, keep-alive"),
            ("X-Hop", "must go"),
            ("Keep-Alive", "timeout=5"),
            ("Server", "upstream/1"),
            ("X-Latin", "caf\xe9"),
            ("Content-Type", "text/plain"),
        ],
        b"odd",
    )


def _gzip(talk: Conversation) -> None:
    headers = [("Content-Type", "application/json"), ("Content-Encoding", "gzip")]
    talk.answer("200 OK", headers, gzip.compress(json.dumps(CHAT).encode(), mtime=0))


def _mislabelled(talk: Conversation) -> None:
    """A streamed chat under the media type that the path says behind its name: ``text.plain``."""
    kind = talk.request.target.partition("/mislabelled/")[2].partition("/")[0].replace(".", "/")
    label = [] if kind == "nothing" else [("Content-Type", kind)]
    talk.head("200 OK", [*label, ("Transfer-Encoding", "chunked")])
    for event in chat_events(_asks_for_usage(json.loads(talk.request.body))):
        talk.chunk(event)
    talk.end_chunks()


def _picture(talk: Conversation) -> None:
    """The counts stand behind 9 MiB of picture, as a body or as the last event."""
    usage = b'"created":1,"usage":{"total_tokens":100,"input_tokens":40,"output_tokens":60}}'
    picture = (
        b'{"type":"image_generation.completed","b64_json":"' + b"A" * (9 << 20) + b'",' + usage
    )
    if talk.request.target.endswith("/body"):
        talk.answer("200 OK", [("Content-Type", "application/json")], picture)
    else:
        talk.events([b"data: " + picture + b"\n\n"])


def _odd_text(talk: Conversation) -> None:
    """What strict JSON parsers refuse, beside the counts."""
    odd = b'{"content":"cut \\ud83d \x1b"},"logprobs":[NaN,-Infinity],"finish_reason":"stop"'
    talk.events(
        [
            b'data: {"model":"m","choices":[{"delta":%b}],"usage":%b}\n\n'
            % (odd, json.dumps(CHAT["usage"]).encode())
        ]
    )


def _trailers(talk: Conversation) -> None:
    talk.head("200 OK", [("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum")])
    talk.chunk(b"body")
    talk.body(b"0\r\nX-Sum: 1\r\n\r\n")


def _interim(talk: Conversation) -> None:
    talk.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    talk.answer("200 OK", [("Content-Type", "text/plain")], b"final")


def _until_close(talk: Conversation) -> None:
    talk.head("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    talk.body(b"until the end")
    talk.sock.close()


def _no_reason(talk: Conversation) -> None:
    talk.send(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok")


def _silent(talk: Conversation) -> None:
    talk.upstream.asked.set()
    talk.wait_for_close()


def _silent_midstream(talk: Conversation) -> None:
    talk.head("200 OK", [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")])
    talk.chunk(chat_events()[0])
    talk.upstream.asked.set()
    talk.wait_for_close()


def _half_event(talk: Conversation) -> None:
    talk.head("200 OK", [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")])
    talk.chunk(chat_events()[0][:20])
    talk.upstream.asked.set()
    talk.wait_for_close()


def _flood(talk: Conversation) -> None:
    talk.head("200 OK", [("Content-Type", "text/plain"), ("Transfer-Encoding", "chunked")])
    talk.upstream.asked.set()
    try:
        for _ in range(100_000):
            talk.chunk(b"x" * 16384)
            gevent.sleep(0)
    except OSError:
        talk.upstream.left.set()


def _cut_chunked(talk: Conversation) -> None:
    talk.events_open = True  # type: ignore[attr-defined]
    talk.head("200 OK", [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")])
    talk.chunk(chat_events()[0])
    talk.sock.close()


def _cut_length(talk: Conversation) -> None:
    talk.head("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "100")])
    talk.send(b"only this")
    talk.sock.close()


def _gated_json(talk: Conversation) -> None:
    talk.upstream.gate.acquire()
    _json(talk, CHAT)


def _garbage(talk: Conversation) -> None:
    talk.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


def _early_refusal(talk: Conversation) -> None:
    _error(talk, "413 Payload Too Large", "too large for me")
    talk.wait_for_close()


#: What an upstream says of its own origin, and a line that is none of these.
OWN_ORIGIN: Headers = [
    ("Alt-Svc", 'h3=":443"; ma=86400'),
    ("Strict-Transport-Security", "max-age=31536000; includeSubDomains"),
    ("X-Content-Type-Options", "nosniff"),
    ("NEL", '{"report_to":"a","max_age":1}'),
    ("Report-To", '{"group":"a","max_age":1,"endpoints":[{"url":"https://a.test"}]}'),
    ("Reporting-Endpoints", 'a="https://a.test"'),
    ("Clear-Site-Data", '"*"'),
    ("Public-Key-Pins", 'pin-sha256="x"; max-age=1'),
]

BEHAVIOURS: dict[str, Callable[[Conversation], None]] = {
    "echo": _echo,
    "odd-headers": _odd_headers,
    "gzip": _gzip,
    "mislabelled": _mislabelled,
    "odd-text": _odd_text,
    "picture": _picture,
    "trailers": _trailers,
    "interim": _interim,
    "until-close": _until_close,
    "no-reason": _no_reason,
    "no-content": lambda talk: talk.send(b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"),
    "not-modified": lambda talk: talk.send(b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n'),
    "own-origin": lambda talk: talk.answer("200 OK", OWN_ORIGIN, b"{}"),
    "redirect": lambda talk: talk.answer("302 Found", [("Location", "/v1/elsewhere")], b"moved"),
    "silent": _silent,
    "silent-midstream": _silent_midstream,
    "half-event": _half_event,
    "flood": _flood,
    "gated-json": _gated_json,
    "hang-up": lambda talk: talk.sock.close(),
    "reset": lambda talk: talk.reset(),
    "garbage": _garbage,
    "half-head": lambda talk: (talk.send(b"HTTP/1.1 200 OK\r\nContent-Le"), talk.sock.close()),
    "cut-chunked": _cut_chunked,
    "cut-length": _cut_length,
    "early-refusal": _early_refusal,
    "both-lengths": lambda talk: talk.send(
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
}
#: Behaviours that answer before the request's body has been read.
EARLY = {"early-refusal"}


class Upstream:
    """The server. ``received`` lists requests in the order their heads came in."""

    def __init__(self, port: int = 0) -> None:
        self.received: list[Received] = []
        self.connections = 0
        #: Set by behaviours: a request has come and waits; the other side has closed.
        self.asked = Event()
        self.left = Event()
        #: A gated stream takes one permit per event.
        self.gate = Semaphore(0)
        #: Bytes of bodies so far, as behaviours count them that keep none of it.
        self.sent = 0
        self.taken = 0
        self._server = StreamServer(("127.0.0.1", port), self._serve)
        self._server.start()
        self.port: int = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        """Forget what was received, before a test."""
        self.received.clear()
        self.connections = 0
        self.asked.clear()
        self.left.clear()
        self.gate = Semaphore(0)
        self.sent = self.taken = 0

    def stop(self) -> None:
        self._server.stop(timeout=1)

    def _serve(self, sock: socket.socket, address: object) -> None:
        self.connections += 1
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray()
        with contextlib.suppress(OSError), sock:
            while self._one(sock, buffer):
                pass

    def _one(self, sock: socket.socket, buffer: bytearray) -> bool:
        while b"\r\n\r\n" not in buffer:
            data = sock.recv(65536)
            if not data:
                return False
            buffer += data
        head, _, rest = bytes(buffer).partition(b"\r\n\r\n")
        buffer[:] = rest
        line, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ", 2)
        headers = [tuple(item.split(": ", 1)) for item in lines]
        request = Received(method, target, headers)  # type: ignore[arg-type]
        self.received.append(request)
        talk = Conversation(sock, request, self, buffer)
        name = target.partition("?")[0].removeprefix("/v1/behave/").partition("/")[0]
        if name not in EARLY:
            for piece in _body(sock, buffer, request):
                request.body += piece
            request.complete = True
        self.answer(talk)
        return sock.fileno() >= 0

    def answer(self, talk: Conversation) -> None:
        """Send the response to a request. Its body has been read, unless the behaviour is early."""
        method, path = talk.request.method, talk.request.target.partition("?")[0]
        name = path.removeprefix("/v1/behave/").partition("/")[0]
        behaviour = BEHAVIOURS.get(name) if path.startswith("/v1/behave/") else None
        handler = behaviour or ROUTES.get((method, path))
        if handler is None:
            _error(talk, "404 Not Found", f"no {method} {path} here")
        else:
            handler(talk)


class _Pieces:
    """Reads a request's body; raises ConnectionError when it is cut."""

    def __init__(self, sock: socket.socket, buffer: bytearray) -> None:
        self._sock = sock
        self._buffer = buffer

    def _more(self) -> None:
        data = self._sock.recv(65536)
        if not data:
            raise ConnectionError("cut")
        self._buffer.extend(data)

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._more()
        return self._take(self._buffer.index(b"\r\n") + 2)[:-2]

    def chunked(self) -> Iterator[bytes]:
        while size := int(self._line().partition(b";")[0], 16):
            yield self._take(size + 2)[:-2]
        while self._line():  # trailers, and the empty line
            pass

    def of_length(self, left: int) -> Iterator[bytes]:
        while left:
            if not self._buffer:
                self._more()
            piece = self._take(min(left, len(self._buffer)))
            left -= len(piece)
            yield piece


def _body(sock: socket.socket, buffer: bytearray, request: Received) -> Iterator[bytes]:
    pieces = _Pieces(sock, buffer)
    if request.values("Transfer-Encoding"):
        yield from pieces.chunked()
    for value in request.values("Content-Length"):
        yield from pieces.of_length(int(value))
