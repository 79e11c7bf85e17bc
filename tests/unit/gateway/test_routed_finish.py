"""Whatever ends a routed request, and wherever: key, probe, connection and the rest are free."""

from collections.abc import Callable
from typing import Any

import gevent
import pytest

from proxy.core.errors import ConnectFailed
from proxy.gateway.context import RequestContext
from proxy.providers.openai import OpenAIProvider
from proxy.routing.circuit_breaker import State, Verdict
from proxy.routing.states import RoutingStates
from proxy.upstream.websocket import UpgradeResponse
from tests.support.relay_factories import JSON, SSE, FakeResponse, environ, serve
from tests.support.routed_requests import PRINCIPAL, routed_requests
from tests.support.routing_records import catalog, key, mapping, provider
from tests.support.watched_request import INTERRUPTIONS, NAMES, Watched

MODEL = "gpt-4.1"
START = b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
OUTPUT = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'


class Routed(Watched):
    """The targets `a` and `b`; the breaker of `a` is half open, so the request is its probe."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleep: Callable[[float], None] = lambda _: None
        self.provider = OpenAIProvider()
        records = catalog(
            provider("a"),
            provider("b"),
            key("a", "1"),
            key("b", "1"),
            mapping(MODEL, "a/ma"),
            mapping(MODEL, "b/mb", 1),
        )
        self.states = RoutingStates(lambda: self.now, lambda: 0.5)
        super().__init__(
            principal=PRINCIPAL,
            routing=routed_requests(
                records,
                self.states,
                providers={"openai": self.provider},
                clock=lambda: self.now,
                sleep=lambda seconds: self.sleep(seconds),
            ),
        )
        breaker = self.breaker = self.states.breaker("id-a", "ma")
        assert breaker is not None
        while breaker.state is State.CLOSED:
            permit = breaker.ok(lone=False)
            assert permit is not None
            breaker.record(permit, Verdict.FAILURE)
        self.now += 20

    def outcomes(self, *outcomes: Any) -> None:
        """What each attempt comes to, in order: a response's status and chunks, or an error."""
        queue = list(outcomes)

        def following() -> Any:
            outcome = queue.pop(0) if queue else (200, [b"{}"])
            if isinstance(outcome, BaseException):
                raise outcome
            code, chunks, *headers = outcome
            self.responses.append(
                FakeResponse(chunks, status=code, headers=headers[0] if headers else JSON)
            )
            return self.responses[-1]

        self.world.transport.response = following

    def check(self) -> Any:
        event = super().check()
        held = [
            each.state.in_flight for pool in self.states.pools() for each in pool._keys.values()
        ]
        assert held == [0, 0]
        assert self.breaker is not None
        self.now += 1000
        if self.breaker.state is not State.CLOSED:
            assert self.breaker.ok(lone=False) is not None, "the probe is free"
        return event


COUNT = len(Routed().world.endpoint.before_targets)


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=NAMES)
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(COUNT))
def test_a_request_that_ends_at_a_step_leaves_nothing(
    at: int, done: bool, error: Callable[[], BaseException]
) -> None:
    it = Routed()
    steps = list(it.world.endpoint.before_targets)
    step = steps[at]

    def interrupted(context: RequestContext) -> None:
        if done:
            step(context)
        raise error()

    steps[at] = interrupted
    it.world.endpoint.before_targets = tuple(steps)
    it.ask()
    it.check()
    assert it.world.transport.calls == []


WHERE = [
    "prepare",
    "sending",
    "error body",
    "wait",
    "second attempt",
    "hold",
    "hold of the second",
    "transform",
    "head",
    "response",
    "metering",
]


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=NAMES)
@pytest.mark.parametrize("where", WHERE)
def test_a_request_that_ends_at_an_attempt_leaves_nothing(
    where: str, error: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = Routed()

    def interrupted(*args: Any, **more: Any) -> Any:
        raise error()

    large = [b"x" * 70_000, b"y"]
    failed = (500, large)
    rejected = (200, [START, b'data: {"error":{"code":"server_error"}}\n\n', b"z"], SSE)
    if where in ("prepare", "transform"):
        monkeypatch.setattr(it.provider, where, interrupted)
    elif where == "sending":
        it.outcomes(error())
    elif where == "error body":
        it.outcomes((500, [b"x", error()]))
    elif where == "wait":
        it.outcomes(ConnectFailed("refused"))
        it.sleep = interrupted
    elif where == "second attempt":
        it.outcomes(failed, error())
    elif where == "hold":
        it.outcomes((200, [START, error()], SSE))
    elif where == "hold of the second":
        it.outcomes(rejected, rejected, (200, [START, error()], SSE))
    elif where == "head":
        monkeypatch.setattr("proxy.gateway.endpoint.downstream_headers", interrupted)
    elif where == "response":
        it.outcomes((200, [START, OUTPUT, error()], SSE))
    else:
        monkeypatch.setattr("proxy.usage.meter.UsageMeter.feed", interrupted)
    it.ask()
    it.check()


@pytest.mark.parametrize("stop_after", [0, 1, None])
@pytest.mark.parametrize("failures", [0, 1, 2])
def test_a_request_that_is_served_leaves_nothing(stop_after: int | None, failures: int) -> None:
    it = Routed()
    it.outcomes(*[(500, [b"x" * 70_000, b"y"])] * failures)
    it.ask(stop_after=stop_after)
    it.check()


UPGRADE = [("Upgrade", "websocket"), ("Connection", "Upgrade")]


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=NAMES)
@pytest.mark.parametrize("where", ["prepare", "sending", "refusal", "open", "run"])
def test_a_tunnel_that_ends_leaves_nothing(
    where: str, error: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = Routed()
    theirs, upstream = gevent.socket.socketpair()

    def interrupted(*args: Any, **more: Any) -> None:
        raise error()

    def opened(*_: Any) -> Any:
        if where == "refusal":
            it.responses.append(FakeResponse([b"x", error()], status=401))
            return it.responses[-1]
        return UpgradeResponse(theirs, b"HTTP/1.1 101 Switching Protocols", b"")

    it.world.transport.upgrade = opened  # type: ignore[attr-defined]
    if where == "prepare":
        monkeypatch.setattr(it.provider, where, interrupted)
    elif where == "sending":
        it.world.transport.upgrade = interrupted  # type: ignore[attr-defined]
    elif where != "refusal":
        monkeypatch.setattr(f"proxy.gateway.context.Tunnel.{where}", interrupted)
    sent = environ("GET", f"/v1/realtime?model={MODEL}", UPGRADE)
    serve(it.world.endpoint, {**sent, "gunicorn.socket": it.server})
    it.check()
    if where in ("open", "run"):
        assert theirs.fileno() == -1
    theirs.close()
    upstream.close()
