"""Every attempt is prepared from the original, by the provider it was given."""

from collections.abc import Callable
from typing import Any

import pytest

from proxy.core.errors import ConnectFailed, ProxyError, UpstreamError
from proxy.providers.base import OutboundRequest, PreparedCall, Target
from proxy.providers.openai import OpenAIProvider
from proxy.routing.attempt_loop import MAX_SENT, Routed, Waiting
from proxy.routing.catalog import Catalog
from proxy.routing.dispatcher import Dispatcher, RouteDispatcher
from proxy.routing.held_response import MAX_ERROR_SECONDS
from proxy.upstream.timing import Timing
from proxy.upstream.transport import UpstreamResponse
from proxy.upstream.websocket import UpgradeResponse
from tests.support.attempts import ScriptedResponse, World, body_of, failing, refused, reset
from tests.support.routing_records import catalog, key, mapping, provider

REQUEST = OutboundRequest("POST", b"/v1/chat", [("Content-Type", "application/json")], b"{}")
TARGET = Target.from_url("https://api.test/prefix")


class RecordingTransport:
    def __init__(self, response: object) -> None:
        self.calls: list[tuple[PreparedCall, Timing]] = []
        self._response = response

    def handle(self, call: PreparedCall, timing: Timing) -> UpstreamResponse:
        self.calls.append((call, timing))
        if isinstance(self._response, Exception):
            raise self._response
        return self._response  # type: ignore[return-value]


def test_one_attempt() -> None:
    response, timing = object(), Timing()
    transport = RecordingTransport(response)
    dispatcher = Dispatcher(OpenAIProvider(), TARGET, transport)
    assert dispatcher.send(REQUEST, "sk-up", timing) is response
    ((call, seen),) = transport.calls
    assert seen is timing
    assert call.url == "https://api.test/prefix/v1/chat"
    assert ("Authorization", "Bearer sk-up") in call.request.headers
    assert REQUEST.headers == [("Content-Type", "application/json")]


def test_a_failure_passes() -> None:
    dispatcher = Dispatcher(OpenAIProvider(), TARGET, RecordingTransport(ConnectFailed("x")))
    with pytest.raises(ConnectFailed):
        dispatcher.send(REQUEST, "sk-up", Timing())


# WebSockets.


def upgrading(
    *outcomes: Any, records: Catalog | None = None
) -> tuple[World, list[str], Callable[[], Routed]]:
    """A world in which a handshake at the targets `a` (two keys) and `b` comes to these outcomes,
    in order; where each was sent; and what sends one. `records`: other targets."""
    made = World(
        records
        or catalog(
            provider("a", key_strategy="priority"),
            provider("b"),
            *[key("a", number) for number in "12"],
            key("b", "1"),
            mapping("m", "a/ma"),
            mapping("m", "b/mb", 1),
        )
    )
    sent: list[str] = []
    queue = list(outcomes)

    class Upgrades:
        def upgrade(self, call: PreparedCall, timing: Timing) -> Any:
            bearer = dict(call.request.headers)["Authorization"]
            sent.append(f"{call.url} {bearer.removeprefix('Bearer secret-')}")
            outcome = queue.pop(0)
            if isinstance(outcome, BaseException):
                raise outcome
            if isinstance(outcome, ScriptedResponse):
                made.responses.append(outcome)
            return outcome

    waiting = Waiting(
        clock=lambda: made.now,
        wall=lambda: 1.7e9,
        random=lambda: 0.5,
        sleep=made.sleep,
        limit=made.limit,
    )
    transport: Any = Upgrades()
    dispatcher = RouteDispatcher(
        {"openai": made.kind}, transport, made.states, made.options, waiting
    )

    def run() -> Routed:
        request = OutboundRequest("GET", b"/v1/realtime?model=m", [], None)
        made.last = made.call(request=request, path="/v1/realtime", upgrades=True)
        route = made.router.route(made.access, "m", has_own_key=False)
        return dispatcher.send(made.last, route)

    return made, sent, run


def switched() -> Any:
    return UpgradeResponse(None, b"HTTP/1.1 101 Switching Protocols", b"")


def places(sent: list[str]) -> list[str]:
    return [place.partition("://")[2][0] + "/" + place[-1] for place in sent]


@pytest.mark.parametrize(
    ("outcome", "expected", "reason"),
    [
        (lambda: failing(401), ["a/1", "a/2"], "auth"),
        (lambda: failing(403), ["a/1", "a/2"], "forbidden"),
        (lambda: failing(429), ["a/1", "a/2"], "rate"),
        (lambda: failing(500), ["a/1", "b/1"], "server"),
        (refused, ["a/1", "b/1"], "connect"),
    ],
)
def test_a_handshake_that_is_rejected_goes_to_another_key_or_target(
    outcome: Callable[[], Any], expected: list[str], reason: str
) -> None:
    made, sent, run = upgrading(outcome(), switched())
    routed = run()
    assert places(sent) == expected
    assert isinstance(routed.response, UpgradeResponse)
    assert made.reasons() == [reason, None]
    assert all(each.closed for each in made.responses)
    assert sent[0].partition("://")[2].startswith("a.example/v1/realtime?model=ma ")
    assert f"model=m{expected[1][0]} " in sent[1]
    routed.release()
    held = [each.state.in_flight for pool in made.states.pools() for each in pool._keys.values()]
    assert held == [0, 0, 0]


def test_what_an_upstream_says_of_a_key_is_not_for_the_client() -> None:
    _, sent, run = upgrading(*[failing(401) for _ in range(3)])
    with pytest.raises(ProxyError) as caught:
        run()
    assert caught.value.code == "upstream_auth_failed"
    assert places(sent) == ["a/1", "a/2", "b/1"]
    with pytest.raises(ProxyError):
        run()
    assert len(sent) == 3, "the keys rest"


def test_a_handshake_follows_the_causes_and_the_bounds_of_other_requests() -> None:
    records = catalog(
        *(provider(name, key_strategy="priority") for name in "abcdef"),
        *(key(name, "1") for name in "abcdef"),
        mapping("m", "a/m", routing={"fallback_on": ["rate"]}),
        *(mapping("m", f"{name}/m", place) for place, name in enumerate("bcdef", 1)),
    )
    _, sent, run = upgrading(failing(401), records=records)
    with pytest.raises(ProxyError):
        run()
    assert places(sent) == ["a/1"]
    made, sent, run = upgrading(
        *(failing(status) for status in (429, 500, 500, 500, 500)), records=records
    )
    assert run().response.status == 429
    assert places(sent) == ["a/1", "b/1", "c/1", "d/1", "e/1"]
    assert made.options.max_attempts == 4, "the key that was turned away is none of these"
    assert made.states.last_errors["e"] == "server (status 500)"


def test_a_handshake_that_the_client_got_wrong_passes() -> None:
    _, sent, run = upgrading(failing(400))
    routed = run()
    assert routed.response.status == 400
    assert b"status 400" in body_of(routed.response)
    assert len(sent) == 1


def test_a_handshake_is_not_sent_again_when_its_outcome_is_not_known() -> None:
    _, sent, run = upgrading(reset(), switched())
    with pytest.raises(UpstreamError):
        run()
    assert len(sent) == 1


def test_a_handshake_becomes_a_bounded_number() -> None:
    names = [f"p{number}" for number in range(20)]
    records = catalog(
        *(provider(name) for name in names),
        *(key(name, str(number)) for name in names for number in range(10)),
        *(mapping("m", f"{name}/m", place) for place, name in enumerate(names)),
    )
    made, sent, run = upgrading(*(failing(429) for _ in range(200)), records=records)
    assert run().response.status == 429
    assert len(sent) == MAX_SENT
    assert sum(not each.closed for each in made.responses) == 1


def test_a_refusal_of_a_handshake_that_drips_is_judged_by_what_has_come() -> None:
    response = ScriptedResponse(500, [], *[b" "] * 1000)
    made, sent, run = upgrading(response, switched())
    took = response.read_within

    def slowly(seconds: float) -> bytes | None:
        made.now += 1.0
        return took(seconds)

    response.read_within = slowly  # type: ignore[method-assign]
    began = made.now
    assert isinstance(run().response, UpgradeResponse)
    assert made.now - began <= MAX_ERROR_SECONDS
    assert places(sent) == ["a/1", "b/1"]
