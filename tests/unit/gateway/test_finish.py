"""Whatever ends a request, and wherever: all that it held is released, and there is one event."""

from collections.abc import Callable
from typing import Any

import gevent
import pytest

from proxy.core.errors import ClientError
from proxy.core.usage_event import UsageEvent
from proxy.gateway.context import RequestContext
from proxy.gateway.inflight import ShuttingDown
from proxy.gateway.request import ClientRequest
from proxy.gateway.response_stream import Outcome
from proxy.ratelimit.request_limiter import Rates
from proxy.upstream.websocket import UpgradeResponse
from tests.support.limiter_factories import Limited
from tests.support.relay_factories import (
    ASKED,
    ORIGIN,
    World,
    environ,
    serve,
)
from tests.support.watched_request import INTERRUPTIONS, NAMES, Watched

STEPS = [
    (which, at)
    for which, count in (
        ("before_body", len(World().endpoint.before_body)),
        ("before_upstream", len(World().endpoint.before_upstream)),
    )
    for at in range(count)
]


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=NAMES)
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("which", "at"), STEPS)
def test_a_request_that_ends_at_a_step_leaves_nothing(
    which: str, at: int, done: bool, error: Callable[[], BaseException]
) -> None:
    it = Watched()
    endpoint = it.world.endpoint
    steps = list(getattr(endpoint, which))
    step = steps[at]

    def interrupted(context: RequestContext) -> None:
        if done:
            step(context)
        raise error()

    steps[at] = interrupted
    setattr(endpoint, which, tuple(steps))
    it.ask()
    it.check()
    assert it.world.transport.calls == []


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=NAMES)
@pytest.mark.parametrize("where", ["body", "upstream", "head", "response", "metering"])
def test_a_request_that_ends_later_leaves_nothing(
    where: str, error: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = Watched()

    def interrupted(*args: Any, **more: Any) -> Any:
        raise error()

    if where == "body":
        monkeypatch.setattr("proxy.gateway.request.ClientRequestBody._read_piece", interrupted)
    elif where == "upstream":
        it.world.transport.response = interrupted
    elif where == "head":
        monkeypatch.setattr("proxy.gateway.endpoint.downstream_headers", interrupted)
    elif where == "response":
        it.world.transport.response = lambda: it.respond(b"{", error())
    else:
        monkeypatch.setattr("proxy.usage.meter.UsageMeter.feed", interrupted)
    it.ask()
    it.check()


UPGRADE = [("Upgrade", "websocket"), ("Connection", "Upgrade")]


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=NAMES)
@pytest.mark.parametrize("where", ["open", "run"])
def test_a_tunnel_that_ends_leaves_nothing(
    where: str, error: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = Watched()
    theirs, upstream = gevent.socket.socketpair()
    opened = UpgradeResponse(theirs, b"HTTP/1.1 101 Switching Protocols", b"")
    it.world.transport.upgrade = lambda *_: opened  # type: ignore[attr-defined]

    def interrupted(*args: Any) -> None:
        raise error()

    monkeypatch.setattr(f"proxy.gateway.context.Tunnel.{where}", interrupted)
    sent = environ("GET", "/v1/realtime", UPGRADE)
    serve(it.world.endpoint, {**sent, "gunicorn.socket": it.server})
    it.check()
    assert theirs.fileno() == -1
    upstream.close()


def test_a_preflight_of_the_proxy_leaves_nothing_and_has_no_event() -> None:
    limited = Limited(Rates(address=5))
    world = World(limited=limited, origins=["https://a.test"])
    result = world.ask("OPTIONS", headers=[ORIGIN, ASKED], token=None)
    assert (result.code, world.events) == (204, [])
    assert limited.throttle._unsettled == {}


@pytest.mark.parametrize("stop_after", [0, 1, None])
def test_a_request_that_is_served_leaves_nothing(stop_after: int | None) -> None:
    it = Watched()
    it.ask(stop_after=stop_after)
    it.check()


@pytest.mark.parametrize("refused", [False, True])
def test_nothing_is_thrown_in_while_a_request_finishes(refused: bool) -> None:
    it = Watched()
    publish, ended = it.world.events.publish, it.world.events

    def slow(event: UsageEvent) -> None:
        it.world.in_flight.cancel_all(ShuttingDown)
        it.client.close()
        gevent.sleep(0.02)
        publish(event)

    ended.publish = slow  # type: ignore[method-assign]
    if refused:
        it.access.refusal = ClientError(code="token_inactive")
    serving = gevent.spawn(it.ask)
    serving.get(timeout=5)
    assert it.result.error is None
    assert it.check().status_code == (401 if refused else 200)


def test_releases_run_once_in_reverse_order() -> None:
    it = Watched()
    request = environ()
    context = RequestContext(ClientRequest(request, 0), request, it.world.events)
    released: list[int] = []

    def killed() -> None:
        released.append(1)
        raise gevent.GreenletExit

    context.on_finish(lambda: released.append(0))
    context.on_finish(killed)
    context.on_finish(lambda: released.append(2))
    with pytest.raises(gevent.GreenletExit):
        context.finish(200, Outcome.COMPLETED)
    context.finish(499, Outcome.CLIENT_GONE)
    assert released == [2, 1, 0]
    assert it.check().status_code == 200
