"""A world without time or network for the attempt loop: scripted upstreams, a clock to turn."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from proxy.core.errors import ConnectFailed, ResponseBroken, UpstreamTimeout
from proxy.providers.base import OutboundRequest, PreparedCall, Target
from proxy.providers.openai import OpenAIProvider
from proxy.routing.access import RoutingAccess
from proxy.routing.attempt_loop import (
    Attempt,
    AttemptLoop,
    AttemptTimeout,
    Routed,
    RoutedCall,
    RoutingOptions,
    Waiting,
)
from proxy.routing.catalog import Catalog
from proxy.routing.router import Route, Router
from proxy.routing.states import RoutingStates
from proxy.upstream.timing import Timing

EVENTS = ("Content-Type", "text/event-stream")
START = b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
OUTPUT = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


def error_event(**error: Any) -> bytes:
    return b"data: " + orjson.dumps({"error": error}) + b"\n\n"


class ScriptedResponse:
    """A response whose chunks are given; an exception among them is raised where it stands."""

    def __init__(self, status: int, headers: list[tuple[str, str]], *chunks: Any) -> None:
        self.status = status
        self.reason = "because"
        self.headers = headers
        self.complete = False
        self.closed = False
        self._chunks = list(chunks)

    @property
    def ready(self) -> bool:
        return bool(self._chunks)

    def read(self) -> bytes:
        while self._chunks and self._chunks[0] is None:  # it waits as long as it takes
            self._chunks.pop(0)
        if not self._chunks:
            self.complete = True
            return b""
        chunk = self._chunks.pop(0)
        if isinstance(chunk, BaseException):
            raise chunk
        self.complete = not self._chunks
        return bytes(chunk)

    def read_within(self, seconds: float) -> bytes | None:
        if self._chunks and self._chunks[0] is None:
            self._chunks.pop(0)
            return None
        return self.read()

    def close(self) -> None:
        self.closed = True


def ok(body: bytes = b'{"ok":true}') -> ScriptedResponse:
    return ScriptedResponse(200, [("Content-Type", "application/json")], body)


def stream(*chunks: Any) -> ScriptedResponse:
    return ScriptedResponse(200, [EVENTS], *chunks)


def failing(status: int, *, code: str = "", **headers: str) -> ScriptedResponse:
    lines = [("Content-Type", "application/json")]
    lines += [(name.replace("_", "-"), value) for name, value in headers.items()]
    body = orjson.dumps({"error": {"message": f"status {status}", "code": code or None}})
    return ScriptedResponse(status, lines, body)


def refused() -> ConnectFailed:
    return ConnectFailed("refused")


def reset() -> ResponseBroken:
    return ResponseBroken("reset")


def silence() -> UpstreamTimeout:
    return UpstreamTimeout()


def too_slow() -> AttemptTimeout:
    return AttemptTimeout()


@dataclass
class World:
    """Upstreams by `<provider>` or `<provider>/<key>`: what each attempt there comes to, in order.

    The last outcome is repeated where it is an exception or a function that makes one.
    """

    catalog: Catalog
    script: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    options: RoutingOptions = field(default_factory=RoutingOptions)
    access: RoutingAccess = field(default_factory=lambda: RoutingAccess(all_providers=True))
    #: Where each attempt went, as `<provider>/<key>`.
    sent: list[str] = field(default_factory=list)
    requests: list[OutboundRequest] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    superseded: list[tuple[Attempt, bytes]] = field(default_factory=list)
    responses: list[ScriptedResponse] = field(default_factory=list)
    now: float = 1000.0
    #: Seconds that each attempt takes.
    takes: float = 0.0
    #: What all providers are.
    kind: Any = field(default_factory=OpenAIProvider)

    def __post_init__(self) -> None:
        self.states = RoutingStates(lambda: self.now, lambda: 0.5)
        self.states.replace(self.catalog)
        self.router = Router(
            Target.from_url("https://own.example"), lambda: 0.5, catalog=self.catalog
        )

    def handle(self, call: PreparedCall, timing: Timing) -> Any:
        host = call.url.removeprefix("public+https://").removeprefix("https://").partition(".")[0]
        bearer = dict(call.request.headers).get("Authorization", "")
        key = bearer.removeprefix("Bearer secret-").removeprefix("Bearer ")
        self.sent.append(f"{host}/{key}")
        self.requests.append(call.request)
        self.now += self.takes
        outcomes = self.script.get(f"{host}/{key}") or self.script.get(host) or [ok]
        outcome = outcomes[0] if len(outcomes) == 1 else outcomes.pop(0)
        if callable(outcome) and not isinstance(outcome, BaseException):
            outcome = outcome()
        if isinstance(outcome, BaseException):
            raise outcome
        self.responses.append(outcome)
        return outcome

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    @contextlib.contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        self.limits = [*getattr(self, "limits", []), seconds]
        yield

    def call(self, **changes: Any) -> RoutedCall:
        request = OutboundRequest("POST", b"/v1/chat/completions", [], b'{"model":"m"}')
        return RoutedCall(
            **{
                "request": request,
                "path": "/v1/chat/completions",
                "own_key": "own",
                "timing": Timing(),
                "superseded": lambda attempt, _, held: self.superseded.append((attempt, held)),
                **changes,
            }
        )

    def run(
        self,
        model: str | None = "m",
        *,
        has_own_key: bool = False,
        pinned: bool = False,
        **call: Any,
    ) -> Routed:
        route = self.router.route(self.access, model, has_own_key=has_own_key, pinned=pinned)
        return self.run_route(route, self.call(**call))

    def run_own(self, **call: Any) -> Routed:
        return self.run_route(self.router.own_route(self.access), self.call(**call))

    def run_route(self, route: Route, call: RoutedCall) -> Routed:
        self.last = call
        kind = self.kind
        return AttemptLoop(
            call,
            route,
            providers={"openai": kind, "custom": kind, "ollama": kind, "azure": kind},
            transport=self,
            states=self.states,
            options=self.options,
            waiting=Waiting(
                clock=lambda: self.now,
                wall=lambda: 1_700_000_000.0 + self.now,
                random=lambda: 0.5,
                sleep=self.sleep,
                limit=self.limit,
            ),
        ).run()

    def reasons(self) -> list[str | None]:
        return [attempt.reason for attempt in self.last.attempts]


def body_of(response: Any) -> bytes:
    """Read a response to its end."""
    chunks = []
    while chunk := response.read():
        chunks.append(chunk)
    return b"".join(chunks)
