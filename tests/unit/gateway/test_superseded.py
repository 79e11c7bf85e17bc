"""Attempts whose responses no client got: their events, and what they cost."""

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.core.errors import ProxyError
from proxy.core.usage_event import RoutingFacts
from proxy.gateway.context import RequestContext
from proxy.gateway.inflight import ClientDisconnected
from proxy.gateway.request import ClientRequest
from proxy.gateway.response_stream import Outcome
from proxy.gateway.routed_request import RoutedRequest, moves
from proxy.routing.attempt_loop import Attempt
from proxy.routing.router import Route
from proxy.usage.meter import UsageMeter
from tests.support.relay_factories import CHAT, PRINCIPAL, Access, Events, environ

FACTS = RoutingFacts("first", "model-1", "", ())


def reading(body: bytes = CHAT) -> Any:
    meter = UsageMeter("application/json", "")
    meter.feed(body)
    meter.finish(complete=True)
    return meter.reading


class World:
    """A request that was admitted, and that has limits."""

    def __init__(self, method: str = "POST") -> None:
        self.events, self.access = Events(), Access()
        self.spent: list[int] = []
        request = environ(method, "/v1/chat/completions")
        self.context = context = RequestContext(ClientRequest(request, 0), request, self.events)
        context.principal = PRINCIPAL
        buckets = ["bucket"]
        context.reservation = SimpleNamespace(  # type: ignore[assignment]
            spend=self.spent.append, token_buckets=buckets
        )
        context.on_finish(context.spend)
        self.access.take_quota(PRINCIPAL)
        context.settlement = self.access
        context.on_finish(context.settle)
        call: Any = SimpleNamespace(attempts=[])
        context.routed = RoutedRequest(Route(()), call, usage_injected=False)

    def supersede(self, seen: Any) -> None:
        assert self.context.routed is not None
        self.context.routed.superseded_tokens += self.context.publish_superseded(
            FACTS, 200, 50.0, seen
        )


ENDS: list[Callable[[RequestContext], object]] = [
    lambda context: context.finish(200, Outcome.COMPLETED),
    lambda context: context.refuse(ProxyError(code="upstream_unavailable"), 10),
    lambda context: context.failure(ClientDisconnected()),
]


@pytest.mark.parametrize("end", ENDS, ids=["completed", "refused", "client gone"])
def test_they_are_charged_once_however_the_request_ends(
    end: Callable[[RequestContext], object],
) -> None:
    world = World()
    world.supersede(reading())
    world.supersede(None)
    world.supersede(reading())
    assert (world.spent, world.access.settled) == ([], [])
    with contextlib.suppress(ClientDisconnected):
        end(world.context)
    world.context.finish(200, Outcome.COMPLETED)
    assert (world.spent, world.access.settled) == ([42], [42])
    outcomes = [event.outcome for event in world.events]
    assert outcomes[:3] == ["superseded"] * 3
    assert len(outcomes) == 4
    assert "superseded" not in outcomes[3:]


def test_the_tokens_are_added_to_those_of_the_response() -> None:
    world = World()
    world.supersede(reading())
    world.context.finish(200, Outcome.COMPLETED, reading=reading())
    assert (world.spent, world.access.settled) == ([42], [42])
    # Each event has its own usage, and an id of its own.
    totals = [event.metadata["total_tokens"] for event in world.events]
    assert totals == [21, 21]
    assert len({event.event_id for event in world.events}) == 2
    assert len({event.request_id for event in world.events}) == 1


def test_a_read_of_a_stored_response_is_left_to_the_ledger() -> None:
    world = World("GET")
    world.supersede(reading())
    world.context.finish(504, Outcome.ABORTED, "upstream_timeout")
    assert (world.spent, world.access.settled) == ([0], [0])
    assert world.events[0].token_buckets == ["bucket"]


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([], ()),
        ([(0, None)], ()),
        ([(0, "auth"), (0, "server"), (1, None)], ("server",)),
        ([(0, "rate"), (2, "server"), (3, None)], ("rate", "server")),
        # Nothing was sent to the first target: its breaker is open.
        ([(1, None)], ("unavailable",)),
    ],
)
def test_moves_to_other_targets(
    attempts: list[tuple[int, str | None]], expected: tuple[str, ...]
) -> None:
    made = [Attempt("p", "m", "k", target=target, reason=reason) for target, reason in attempts]
    assert moves(made) == expected
