"""Requests that are routed, of a project that keeps responses."""

from itertools import cycle
from typing import Any

import gevent
import pytest
from gevent.event import Event

from proxy.core.errors import ResponseBroken
from proxy.providers.openai import OpenAIProvider
from proxy.routing.states import RoutingStates
from tests.support.cached_world import WHOLE, CachedWorld
from tests.support.routed_requests import routed_requests
from tests.support.routing_records import catalog, key, mapping, provider
from tests.support.wait import wait_until


class RoutedWorld(CachedWorld):
    """The targets `a` and `b` of one model; `b` is as good as `a` if it has the same `index`."""

    def __init__(self, *, index: int = 1, **more: Any) -> None:
        records = catalog(
            provider("a"),
            provider("b"),
            key("a", "1"),
            key("b", "1"),
            mapping("gpt-4.1", "a/ma"),
            mapping("gpt-4.1", "b/mb", index),
        )
        # Which of two is first changes with each request.
        numbers = cycle((0.2, 0.8, 0.8, 0.2))
        self.states = RoutingStates(lambda: 1000.0, lambda: 0.5)
        super().__init__(
            routing=routed_requests(
                records,
                self.states,
                providers={"openai": OpenAIProvider()},
                draw=lambda: next(numbers),
            ),
            **more,
        )

    def held_keys(self) -> list[int]:
        return [
            each.state.in_flight for pool in self.states.pools() for each in pool._keys.values()
        ]


def broken_off(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The list to which each response that broke off adds its model."""
    found: list[str] = []
    monkeypatch.setattr(
        "proxy.routing.states.TargetState.broke_off",
        lambda state: found.append(state.model),
    )
    return found


def test_the_order_of_equal_targets_is_no_part_of_the_key() -> None:
    it = RoutedWorld(index=0)
    asked = [it.send().one("X-Cache") for _ in range(4)]
    assert asked == ["MISS", "HIT", "HIT", "HIT"]
    assert it.calls == 1
    assert it.held_keys() == [0, 0]


def test_a_hit_says_who_made_the_response_and_nothing_of_a_route_that_it_did_not_take() -> None:
    it = RoutedWorld()
    first = it.send()
    assert first.one("X-Proxy-Provider") == "a"
    hit = it.send()
    assert (hit.one("X-Cache"), hit.all("X-Proxy-Attempts")) == ("HIT", [])
    for name in ("X-Proxy-Provider", "X-Proxy-Model"):
        assert hit.all(name) == first.all(name)
    assert it.events[1].cache is not None
    assert it.access.settled == [21]


@pytest.mark.parametrize("follows", [False, True], ids=["read", "followed"])
def test_a_response_that_breaks_off_counts_once_for_its_target(
    follows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = RoutedWorld(coalesce=True)
    asked, go = Event(), Event()
    broken = broken_off(monkeypatch)

    def rest() -> bytes:
        asked.set()
        go.wait()
        raise ResponseBroken("gone")

    it.world.transport.response = lambda: it.respond(WHOLE[:9], rest)
    first = gevent.spawn(it.ask)
    assert asked.wait(20)
    if follows:
        joined = gevent.spawn(it.send)
        wait_until(lambda: it.flights.figures().readers == 2)
        it.client.close()
        first.join(20)
        go.set()
        joined.get(timeout=20)
    go.set()
    first.join(20)
    wait_until(lambda: len(it.events) == 1 + follows)
    assert broken == ["ma"]
    assert it.held_keys() == [0, 0]


def test_a_response_whose_readers_have_left_does_not_count_against_its_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    it = RoutedWorld(coalesce=True)
    asked = Event()
    broken = broken_off(monkeypatch)

    def rest() -> bytes:
        asked.set()
        return Event().wait() and b""

    it.world.transport.response = lambda: it.respond(WHOLE[:9], rest)
    asking = gevent.spawn(it.ask)
    assert asked.wait(20)
    it.client.close()
    asking.join(20)
    wait_until(lambda: len(it.events) == 1)
    assert broken == []
    assert it.held_keys() == [0, 0]
