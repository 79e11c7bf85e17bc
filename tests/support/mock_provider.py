"""A provider by script: one of four dialects on a real socket, and every way in which it can fail.

It speaks as `openai`, `azure`, `ollama` or `gemini` do, with their paths, credentials, errors and
odd streams; :mod:`tests.support.mock_anthropic` speaks as `anthropic`. Failures are queued for the
next requests, or set for a key or a model until they are taken back. It can be killed and revived
on the same port.

    with MockProvider("azure", keys={"k1", "k2"}) as azure:
        azure.next(status(429, retry_after=2), error_event())
        azure.for_key("k1", status(401))
        azure.kill()
        azure.revive()
        assert azure.keys_used == ["k2"]
"""

import contextlib
import json
import socket
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from gevent.server import StreamServer

from tests.support.fake_upstream import Conversation, Headers, Received, Upstream, sse
from tests.support.ports import free_port

DIALECTS = ("openai", "azure", "ollama", "gemini")
_GOOGLE = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}
WORDS = ("One ", "two ", "three.")

#: What one request gets in place of a response.
Failure = Callable[["MockProvider", Conversation], None]


def status(
    code: int,
    *,
    retry_after: float | None = None,
    retry_after_ms: int | None = None,
    error_code: str | None = None,
    message: str = "",
) -> Failure:
    """An error with this status, in the dialect's shape, where `error_code` is its `code`."""

    def fail(provider: "MockProvider", talk: Conversation) -> None:
        extra: Headers = []
        if retry_after is not None:
            extra.append(("Retry-After", f"{retry_after:g}"))
        if retry_after_ms is not None:
            extra.append(("retry-after-ms", str(retry_after_ms)))
        reply(talk, provider.error(code, message, error_code), code, extra)

    return fail


def html(code: int = 502) -> Failure:
    """An error page, as a front door of a provider sends it."""

    def fail(provider: "MockProvider", talk: Conversation) -> None:
        talk.answer(_line(code), [("Content-Type", "text/html")], b"<h1>Bad gateway</h1>")

    return fail


def error_event(code: int = 503, *, after: int = 0) -> Failure:
    """A stream of status 200 with an error in it, behind `after` words of output."""

    def fail(provider: "MockProvider", talk: Conversation) -> None:
        provider.begin(talk, after)
        talk.chunk(provider.error_frame(code))
        talk.end_chunks()

    return fail


def cut(*, after: int = 0) -> Failure:
    """A stream that is cut off behind `after` words of output."""

    def fail(provider: "MockProvider", talk: Conversation) -> None:
        provider.begin(talk, after)
        talk.sock.shutdown(socket.SHUT_RDWR)
        talk.sock.close()

    return fail


def silence(*, after: int | None = None) -> Failure:
    """Nothing, until the other side leaves: no head, or none behind `after` words of output."""

    def fail(provider: "MockProvider", talk: Conversation) -> None:
        if after is not None:
            provider.begin(talk, after)
        provider.asked.set()
        talk.wait_for_close()

    return fail


def reset() -> Failure:
    """The connection is reset when the request has been read, with no head sent."""
    return lambda provider, talk: talk.reset()


class MockProvider(Upstream):
    """One provider. `received` lists its requests, `keys_used` the keys that they came with."""

    def __init__(self, dialect: str = "openai", keys: set[str] | None = None) -> None:
        """`keys`: those that it accepts; None: any, and none at all for Ollama."""
        assert dialect in (*DIALECTS, "anthropic")
        super().__init__(free_port())
        self.dialect = dialect
        self.keys = keys
        self._next: list[Failure | None] = []
        self._for_key: dict[str, Failure] = {}
        self._for_model: dict[str, Failure] = {}
        self._always: Failure | None = None
        self._sockets: set[socket.socket] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """The base URL as its documentation writes it."""
        return self.url + {"azure": "", "gemini": "/v1beta/openai"}.get(self.dialect, "/v1")

    @property
    def keys_used(self) -> list[str | None]:
        return [key_of(request) for request in self.received]

    # The script.

    def next(self, *failures: Failure | None) -> None:
        """Each of the next requests gets one of these; None: its usual response."""
        self._next += failures

    def always(self, failure: Failure | None) -> None:
        """Every request fails so, until None is set."""
        self._always = failure

    def for_key(self, key: str, failure: Failure | None) -> None:
        """Every request with this key fails so, until None is set."""
        _put(self._for_key, key, failure)

    def for_model(self, model: str, failure: Failure | None) -> None:
        """Every request for this model fails so, until None is set."""
        _put(self._for_model, model, failure)

    def kill(self) -> None:
        """Refuse connections, and reset those that are open."""
        self._server.stop(timeout=0)
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                sock.shutdown(socket.SHUT_RDWR)
                sock.close()

    def revive(self) -> None:
        """Accept connections again, on the same port."""
        self._server = StreamServer(("127.0.0.1", self.port), self._serve)
        self._server.start()

    def stop(self) -> None:
        self.kill()

    def reset(self) -> None:
        """Forget what was received, and the script."""
        super().reset()
        self._next.clear()
        self._for_key.clear()
        self._for_model.clear()
        self._always = None

    # Responses.

    def _serve(self, sock: socket.socket, address: object) -> None:
        self._sockets.add(sock)
        try:
            super()._serve(sock, address)
        finally:
            self._sockets.discard(sock)

    def answer(self, talk: Conversation) -> None:
        key = key_of(talk.request)
        found = self._next.pop(0) if self._next else None
        failure = found or self._for_key.get(key or "") or self._for_model.get(self.model_of(talk))
        failure = failure or self._always
        if failure is not None:
            failure(self, talk)
        elif (self.keys is not None and key not in self.keys) or not self._has_credential(talk):
            status(401, message="Incorrect API key provided.")(self, talk)
        else:
            self._respond(talk)

    def _has_credential(self, talk: Conversation) -> bool:
        bearers, api_keys = talk.request.values("Authorization"), talk.request.values("api-key")
        if self.dialect == "azure":  # never both
            return len(bearers) + len(api_keys) == 1
        return not api_keys and (len(bearers) == 1 or self.dialect == "ollama")

    def endpoint(self, talk: Conversation) -> str:
        """What is asked for, such as `chat/completions`; empty if the dialect has no such path."""
        path, _, query = talk.request.target.partition("?")
        if self.dialect == "gemini":
            return _below(path, "/v1beta/openai/")
        if self.dialect != "azure":
            return _below(path, "/v1/")
        if "api-version=20" not in query:
            return _below(path, "/openai/v1/")
        deployed = _below(path, "/openai/deployments/").partition("/")[2]
        return deployed or _below(path, "/openai/")

    def model_of(self, talk: Conversation) -> str:
        """The model that a request is for: the deployment, where it is in the path."""
        path = talk.request.target.partition("?")[0]
        if self.dialect == "azure" and "/deployments/" in path:
            return path.partition("/deployments/")[2].partition("/")[0]
        return str(_json(talk).get("model", ""))

    def error(self, code: int, message: str = "", error_code: str | None = None) -> Any:
        """An error's body in the dialect's shape."""
        message = message or f"mock {self.dialect}: {code}"
        if self.dialect == "gemini":
            name = _GOOGLE.get(code, "UNKNOWN")
            return [{"error": {"code": code, "message": message, "status": name}}]
        kind = _TYPES.get(code, "server_error")
        return {"error": {"message": message, "type": kind, "param": None, "code": error_code}}

    def error_frame(self, code: int) -> bytes:
        """An error as an event of a stream."""
        return sse(self.error(code))

    def _respond(self, talk: Conversation) -> None:
        endpoint, body = self.endpoint(talk), _json(talk)
        if endpoint == "models":
            prefix = "models/" if self.dialect == "gemini" else ""
            models = [
                {"id": f"{prefix}{name}", "object": "model", "created": 1, "owned_by": self.dialect}
                for name in (f"{self.dialect}-small", f"{self.dialect}-large")
            ]
            reply(talk, {"object": "list", "data": models})
        elif endpoint == "embeddings":
            item = {"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}
            usage = {"prompt_tokens": 4, "total_tokens": 4}
            whole = {"object": "list", "data": [item], "model": body.get("model"), "usage": usage}
            reply(talk, whole)
        elif endpoint != "chat/completions":
            status(404, message="There is no such endpoint.")(self, talk)
        elif body.get("stream"):
            self._stream(talk, body)
        else:
            reply(talk, self._whole(talk, body))

    def _whole(self, talk: Conversation, body: dict[str, Any]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(WORDS)}
        finish = "stop"
        if _wants_call(body):
            message = {"role": "assistant", "content": None, "tool_calls": [self._call(0)]}
            finish = "stop" if self.dialect in ("gemini", "ollama") else "tool_calls"
        return {
            "id": "chatcmpl-mock",
            "object": "chat.completion",
            "created": 1700000000,
            "model": self.model_of(talk),
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": _USAGE,
        }

    def _call(self, number: int) -> dict[str, Any]:
        call: dict[str, Any] = {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
        }
        if self.dialect == "gemini":
            call["extra_content"] = {"google": {"thought_signature": "c2lnbmVk"}}
        return call

    def _chunk(self, talk: Conversation, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return sse(self._frame(talk, [choice]))

    def _frame(self, talk: Conversation, choices: list[Any]) -> dict[str, Any]:
        return {
            "id": "chatcmpl-mock",
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": self.model_of(talk),
            "choices": choices,
        }

    def begin(self, talk: Conversation, words: int) -> None:
        """Begin a stream: its head, the frames without output, and so many words."""
        kind = ("Content-Type", "text/event-stream")
        talk.head("200 OK", [kind, ("Transfer-Encoding", "chunked")])
        if self.dialect == "azure":
            first = {"choices": [], "created": 0, "id": "", "model": "", "object": ""}
            talk.chunk(sse({**first, "prompt_filter_results": [{"prompt_index": 0}]}))
        if self.dialect != "gemini":
            talk.chunk(self._chunk(talk, {"role": "assistant", "content": ""}))
        for word in WORDS[:words]:
            talk.chunk(self._chunk(talk, {"content": word}))

    def _stream(self, talk: Conversation, body: dict[str, Any]) -> None:
        calls = _wants_call(body)
        self.begin(talk, 0 if calls else len(WORDS))
        if not calls:
            talk.chunk(self._chunk(talk, {}, "stop"))
        elif self.dialect == "gemini":  # no index, and `stop`
            talk.chunk(self._chunk(talk, {"tool_calls": [self._call(0), self._call(1)]}, "stop"))
        else:
            talk.chunk(self._chunk(talk, {"tool_calls": [{"index": 0, **self._call(0)}]}))
            end = "stop" if self.dialect == "ollama" else "tool_calls"
            talk.chunk(self._chunk(talk, {}, end))
        if self.dialect == "azure":
            offsets = {"check_offset": 44, "start_offset": 44, "end_offset": 60}
            late = {"index": 0, "finish_reason": None, "content_filter_offsets": offsets}
            talk.chunk(sse(self._frame(talk, [late])))
        if (body.get("stream_options") or {}).get("include_usage"):
            talk.chunk(sse({**self._frame(talk, []), "usage": _USAGE}))
        talk.chunk(sse("[DONE]"))
        talk.end_chunks()


_USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def key_of(request: Received) -> str | None:
    """The key of a request, in whichever line it came."""
    for value in request.values("Authorization"):
        return value.removeprefix("Bearer ")
    return next(iter([*request.values("api-key"), *request.values("x-api-key")]), None)


def reply(talk: Conversation, body: Any, code: int = 200, extra: Headers | None = None) -> None:
    """Send `body` as JSON."""
    head = [("Content-Type", "application/json"), ("X-Request-Id", "req_mock"), *(extra or [])]
    talk.answer(_line(code), head, json.dumps(body).encode())


def _line(code: int) -> str:
    phrases = {529: "Site Overloaded"}
    return f"{code} {phrases.get(code) or HTTPStatus(code).phrase}"


def _json(talk: Conversation) -> dict[str, Any]:
    try:
        body = json.loads(talk.request.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _wants_call(body: dict[str, Any]) -> bool:
    """Whether a tool is offered, and its result is not there yet."""
    last = (body.get("messages") or [{}])[-1]
    return bool(body.get("tools")) and last.get("role") != "tool"


def _below(path: str, prefix: str) -> str:
    return path.removeprefix(prefix) if path.startswith(prefix) else ""


def _put(table: dict[str, Failure], name: str, failure: Failure | None) -> None:
    if failure is None:
        table.pop(name, None)
    else:
        table[name] = failure
