"""Methods that end here, and hops that a client counts."""

from dataclasses import replace

import pytest

from proxy.core.errors import ClientError
from proxy.gateway.methods import allowed, hops_left, one_hop_less, refused
from proxy.policy.policy import Policy
from tests.support.relay_factories import PRINCIPAL, Access, World, sized

ALL = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT"])
@pytest.mark.parametrize("more", [{}, {"token": None}, sized(b"{}")])
def test_what_would_echo_the_key_is_refused_before_anything_is_asked(
    method: str, more: dict[str, object]
) -> None:
    world = World(concurrent=0)
    result = world.ask(method=method, **more)  # type: ignore[arg-type]
    assert (result.code, result.one("Allow")) == (405, ALL)
    assert b'"method_not_allowed"' in result.body
    assert not world.access.steps
    assert not world.transport.calls
    assert (world.event.outcome, world.event.error_code) == ("rejected", "method_not_allowed")


def test_other_methods_are_the_upstream_s() -> None:
    for method in (*ALL.split(", "), "PROPFIND", "QUERY"):
        world = World()
        assert world.ask(method=method).code == 200
        assert [call.request.method for call in world.transport.calls] == [method]


def test_the_last_hop_responds_to_options() -> None:
    world = World()
    result = world.ask(method="OPTIONS", headers=[("Max-Forwards", "0")])
    assert (result.code, result.body, result.one("Allow")) == (204, b"", ALL)
    assert result.one("X-Proxy-Request-ID")
    assert not world.transport.calls
    assert world.access.steps == ["authenticate"]  # nothing is used up
    assert (world.event.status_code, world.event.outcome) == (204, "completed")
    assert len(world.in_flight) == 0


def test_the_last_hop_still_wants_a_token_and_names_what_its_rules_allow() -> None:
    world = World()
    assert world.ask(method="OPTIONS", headers=[("Max-Forwards", "0")], token=None).code == 401
    policy = Policy.compile({"allowed_methods": ["GET", "OPTIONS", "POST"]}, [{}])
    world = World(access=Access(principal=replace(PRINCIPAL, policy=policy)))
    result = world.ask(method="OPTIONS", headers=[("Max-Forwards", "0")])
    assert result.one("Allow") == "GET, POST, OPTIONS"


@pytest.mark.parametrize(("given", "sent"), [("5", "4"), ("1", "0"), ("010", "9")])
def test_a_hop_is_counted(given: str, sent: str) -> None:
    world = World()
    headers = [("X-A", "1"), ("Max-Forwards", given), ("X-B", "2")]
    assert world.ask(method="OPTIONS", headers=headers).code == 200
    (call,) = world.transport.calls
    assert call.request.headers[1:4] == [("X-A", "1"), ("Max-Forwards", sent), ("X-B", "2")]


def test_hops_of_other_methods_are_left_alone() -> None:
    world = World()
    assert world.ask(headers=[("Max-Forwards", "0")]).code == 200
    assert ("Max-Forwards", "0") in world.transport.calls[0].request.headers


@pytest.mark.parametrize("value", ["", "-1", "+1", "1.5", "1, 2", "x", "²", "1" * 10])
def test_hops_that_are_no_number(value: str) -> None:
    world = World()
    result = world.ask(method="OPTIONS", headers=[("Max-Forwards", value)])
    assert (result.code, b"`Max-Forwards`" in result.body) == (400, True)
    assert not world.transport.calls


def test_hops_given_twice() -> None:
    with pytest.raises(ClientError):
        hops_left([("MAX-FORWARDS", "1"), ("MAX-FORWARDS", "1")])
    assert hops_left([("X-A", "1")]) is None
    assert one_hop_less([("X-A", "1")]) == [("X-A", "1")]


def test_allow() -> None:
    assert allowed(()) == ALL
    assert allowed((frozenset({"GET", "POST"}), frozenset({"POST", "PUT"}))) == "POST"
    assert refused("POST").headers == (("Allow", "POST"),)
