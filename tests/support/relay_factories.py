"""A relay endpoint with everything around it faked, and a server that calls it as gunicorn does."""

import io
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import flask

from proxy.auth.principal import Principal
from proxy.core.errors import ClientError
from proxy.core.usage_event import Intent, UsageEvent
from proxy.events.gate import Gate
from proxy.gateway.admission import Admission
from proxy.gateway.caching import CachedRequests
from proxy.gateway.cors import Cors
from proxy.gateway.endpoint import RelayEndpoint, RelayOptions
from proxy.gateway.inflight import InFlightRequests
from proxy.gateway.routing import RoutedRequests
from proxy.policy.accounts import Account
from proxy.policy.policy import Policy
from proxy.providers.base import PreparedCall, Target
from proxy.providers.openai import OpenAIProvider
from proxy.routing.dispatcher import Dispatcher
from proxy.upstream.timing import Timing
from proxy.web import Mount, create_flask_app
from proxy.web.blueprints import create_blueprint
from tests.support.limiter_factories import Limited

SECRET = "sk-" + "a" * 22
UPSTREAM_KEY = "sk-upstream-canary-0123456789"
PRINCIPAL = Principal(
    token_id="token-1",
    token_mask="sk-aaaa...aaaa",
    project_id="project-1",
    upstream_key=UPSTREAM_KEY,
    expires_at=4e9,
    token_active=True,
    project_active=True,
    policy=Policy(),
    accounts=(
        Account(kind="project", id="project-1"),
        Account(kind="token", id="token-1"),
    ),
    token_hash="0" * 64,
)
JSON = [("Content-Type", "application/json"), ("X-Twice", "1"), ("X-Twice", "2")]
CHAT = (
    b'{"id":"chatcmpl-1","created":5,"model":"gpt-4.1","usage":'
    b'{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}'
)
SSE = [("Content-Type", "text/event-stream; charset=utf-8")]
JSON_BODY = [("Content-Type", "application/json")]
EVENT = b'data: {"model":"m"}\n\n'
USAGE = (
    b'data: {"model":"m","usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}\n\n'
)
ORIGIN = ("Origin", "https://a.test")
ASKED = ("Access-Control-Request-Method", "POST")
ALLOWING = [*JSON, ("Access-Control-Allow-Origin", "https://upstream.test")]


class FakeResponse:
    """An upstream's response. ``chunks``: bytes, an exception to raise, or a function to call."""

    def __init__(
        self,
        chunks: Iterable[Any] = (CHAT,),
        *,
        status: int = 200,
        reason: str = "OK",
        headers: Iterable[tuple[str, str]] = JSON,
    ) -> None:
        self.status, self.reason, self.headers = status, reason, list(headers)
        self._chunks = list(chunks)
        self.reads = self.closed = 0

    ready = False

    @property
    def complete(self) -> bool:
        return not self._chunks

    def read(self) -> bytes:
        self.reads += 1
        chunk: Any = self._chunks.pop(0) if self._chunks else b""
        if callable(chunk):
            chunk = chunk()
        if isinstance(chunk, BaseException):
            raise chunk
        return bytes(chunk)

    def read_within(self, seconds: float) -> bytes:
        return self.read()

    def close(self) -> None:
        self.closed += 1


class FakeTransport:
    """Answers with ``response``, an FakeResponse, or what raises or returns one."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self.calls: list[PreparedCall] = []
        self.bodies: list[bytes | None] = []

    def handle(self, call: PreparedCall, timing: Timing) -> Any:
        self.calls.append(call)
        timing.upstream_asked = timing.connected = time.perf_counter()
        body = call.request.body
        self.bodies.append(body if isinstance(body, bytes | None) else b"".join(body))
        response = self.response() if callable(self.response) else self.response
        if isinstance(response, BaseException):
            raise response
        timing.head_received = time.perf_counter()
        timing.upstream_start_ns = timing.upstream_stop_ns = time.time_ns()
        return response


@dataclass
class Access:
    """Lets everybody in, or raises; ``steps`` is what was asked, in order."""

    refusal: BaseException | None = None
    quota: BaseException | None = None
    principal: Principal = PRINCIPAL
    relays_credentials: bool = False
    steps: list[str] = field(default_factory=list)
    #: LLM tokens that requests hold which have not ended.
    held: list[int] = field(default_factory=list)
    #: LLM tokens of each request that was admitted, once it has ended.
    settled: list[int] = field(default_factory=list)

    def authenticate(self, authorization: str | None) -> Principal:
        self.steps.append("authenticate")
        if self.refusal is not None:
            raise self.refusal
        if authorization != f"Bearer {SECRET}":
            raise ClientError(code="invalid_token")
        return self.principal

    def check_quota(self, principal: Principal, held: int = 0) -> None:
        self.steps.append("check_quota")
        if self.quota is not None:
            raise self.quota

    def take_quota(self, principal: Principal, held: int = 0) -> None:
        self.held.append(held)
        self.steps.append("take_quota")
        if self.quota is not None:
            raise self.quota

    def settle(self, principal: Principal, tokens: int, held: int = 0) -> None:
        self.held.remove(held)
        self.settled.append(tokens)


def used_up(**more: Any) -> Access:
    return Access(quota=ClientError(code="quota_exceeded"), **more)


class Input:
    """``wsgi.input`` as the worker makes it."""

    def __init__(self, lines: Iterable[tuple[str, str]], pieces: Iterable[Any] = ()) -> None:
        self.header_lines = [(name.upper(), value) for name, value in lines]
        self._pieces = list(pieces)
        self.read = self.abandoned = 0

    def read_arrived(self, most: int) -> bytes:
        self.read += 1
        piece: Any = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, BaseException):
            raise piece
        return bytes(piece)

    def abandon(self) -> None:
        self.abandoned += 1


def environ(
    method: str = "GET",
    target: str = "/v1/models",
    headers: Iterable[tuple[str, str]] = (),
    pieces: Iterable[Any] = (),
    token: str | None = SECRET,
    **more: Any,
) -> dict[str, Any]:
    lines = list(headers)
    if token is not None:
        lines.append(("Authorization", f"Bearer {token}"))
    path = target.partition("?")[0]
    made = {
        "REQUEST_METHOD": method,
        "RAW_URI": target,
        "PATH_INFO": re.sub("%2[fF]", "/", path),
        "QUERY_STRING": target.partition("?")[2],
        "SCRIPT_NAME": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": Input(lines, pieces),
        "wsgi.errors": io.StringIO(),
    }
    made.update({"HTTP_" + name.upper().replace("-", "_"): value for name, value in lines})
    return {**made, **more}


@dataclass
class Result:
    """What a client would have seen, and how it ended for the server."""

    status: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def code(self) -> int:
        return int(self.status.split()[0])

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def one(self, name: str) -> str:
        (value,) = self.all(name)
        return value


def serve(
    application: Callable[..., Iterable[bytes]],
    request: dict[str, Any],
    *,
    stop_after: int | None = None,
) -> Result:
    """Iterate and close, as gunicorn does. ``stop_after`` chunks the write to the client fails."""
    result = Result()

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        assert not result.status
        result.status, result.headers = status, headers

    try:
        items = application(request, start_response)
        try:
            for number, item in enumerate(items, 1):
                if stop_after is not None and number > stop_after:
                    raise BrokenPipeError
                result.chunks.append(item)
        finally:
            if hasattr(items, "close"):
                items.close()
    except BaseException as error:  # noqa: BLE001
        result.error = error
    return result


class Events(list[UsageEvent]):
    """The event queue: what was published, and what was said before a request went upstream."""

    def __init__(self) -> None:
        super().__init__()
        self.intents: list[tuple[Any, ...]] = []

    def record_intent(self, intent: Intent) -> int:
        self.intents.append(intent)
        return len(self.intents) - 1

    def publish(self, event: UsageEvent) -> None:
        self.append(event)


class World:
    """One endpoint, its two doors, and what it published."""

    def __init__(
        self,
        response: Any = None,
        *,
        access: Any = None,
        origins: Iterable[str] = (),
        options: RelayOptions | None = None,
        concurrent: int = 100,
        limited: Limited | None = None,
        gate: Gate | None = None,
        routing: Callable[[Any], RoutedRequests] | None = None,
        caching: CachedRequests | None = None,
    ) -> None:
        """`routing` makes the routing of a transport."""
        self.response = response if response is not None else FakeResponse()
        self.transport = FakeTransport(self.response)
        self.access: Any = access or Access()
        self.events = Events()
        self.in_flight = InFlightRequests(concurrent)
        self.endpoint = RelayEndpoint(
            Admission(self.access, (limited or Limited()).throttle, gate),
            Dispatcher(OpenAIProvider(), Target.from_url("http://upstream.test"), self.transport),
            self.events,
            self.in_flight,
            Cors(tuple(origins)),
            options or limits(),
            None if routing is None else routing(self.transport),
            caching,
        )
        self.flask: flask.Flask = create_flask_app(
            [Mount(create_blueprint(self.endpoint), "/v1", None)]
        )

    def ask(self, *args: Any, stop_after: int | None = None, **kwargs: Any) -> Result:
        return serve(self.endpoint, environ(*args, **kwargs), stop_after=stop_after)

    def ask_flask(self, *args: Any, stop_after: int | None = None, **kwargs: Any) -> Result:
        return serve(self.flask.wsgi_app, environ(*args, **kwargs), stop_after=stop_after)

    @property
    def event(self) -> UsageEvent:
        (event,) = self.events
        return event


def limits(
    request_bytes: int = 10_000,
    json_bytes: int = 1000,
    trusted_proxies: int = 0,
) -> RelayOptions:
    return RelayOptions(
        request_bytes=request_bytes,
        json_bytes=json_bytes,
        trusted_proxies=trusted_proxies,
    )


def sized(*pieces: bytes, headers: Iterable[tuple[str, str]] = JSON_BODY) -> dict[str, Any]:
    length = str(sum(map(len, pieces)))
    return {"headers": [*headers, ("Content-Length", length)], "pieces": pieces}


def chunked(*pieces: bytes, headers: Iterable[tuple[str, str]] = JSON_BODY) -> dict[str, Any]:
    return {"headers": [*headers, ("Transfer-Encoding", "chunked")], "pieces": pieces}


def failing(error: BaseException) -> World:
    return World(lambda: error)
