"""Bodies held in memory: all of them together have a bound."""

from typing import Any

import pytest

from proxy.core.errors import ClientError, ProxyError
from proxy.gateway.endpoint import RelayOptions
from proxy.gateway.held_bodies import HeldBodies
from proxy.gateway.request import ClientRequestBody
from tests.support.relay_factories import (
    JSON_BODY,
    FakeResponse,
    Input,
    World,
    chunked,
    limits,
    sized,
)


def body(*pieces: bytes, known: bool = True) -> ClientRequestBody:
    length = sum(map(len, pieces)) if known else None
    return ClientRequestBody(Input([], list(pieces)), length=length, chunked=not known)


@pytest.mark.parametrize("known", [True, False])
def test_what_is_held_is_counted(known: bool) -> None:
    bodies = HeldBodies(1000)
    first = body(b"a" * 300, b"b" * 100, known=known)
    assert bodies.read(first, 500) == b"a" * 300 + b"b" * 100
    assert (first.held, bodies.free) == (400, 400)
    assert bodies.read(body(b"c" * 400, known=known), 500) == b"c" * 400
    assert bodies.free == 0


@pytest.mark.parametrize("known", [True, False])
def test_beyond_the_bound_it_is_503_and_small_ones_go_on(known: bool) -> None:
    bodies = HeldBodies(1600)
    bodies.read(body(b"a" * 1200, known=known), 2000)
    refused = body(b"b" * 100, known=known)
    with pytest.raises(ProxyError) as error:
        bodies.read(refused, 2000)
    assert (error.value.status, error.value.code) == (503, "overloaded")
    assert error.value.retry_after == 1
    assert refused._source.read == (0 if known else 1)
    for _ in range(4):
        bodies.read(body(b"c" * 20, known=known), 2000)
    assert bodies.free == 0
    for _ in range(5):  # of the reserve, ever smaller ones
        bodies.read(body(b"d" * 15, known=known), 2000)
    with pytest.raises(ProxyError):
        bodies.read(body(b"e" * 16, known=known), 2000)


@pytest.mark.parametrize("known", [True, False])
def test_one_alone_may_be_as_large_as_it_may_be(known: bool) -> None:
    bodies = HeldBodies(1000)
    alone = body(b"a" * 900, b"b" * 200, known=known)
    assert len(bodies.read(alone, 2000)) == 1100
    with pytest.raises(ProxyError):
        bodies.read(body(b"c" * 20, known=known), 2000)
    bodies.free += alone.held
    assert len(bodies.read(body(b"c" * 20, known=known), 2000)) == 20


def test_too_large_is_the_client_s_fault_first() -> None:
    bodies = HeldBodies(100)
    bodies.read(body(b"a" * 80), 1000)
    for known in (True, False):
        with pytest.raises(ClientError) as error:
            bodies.read(body(b"b" * 1001, known=known), 1000)
        assert error.value.code == "request_too_large"


def world(bodies: HeldBodies, **kwargs: Any) -> World:
    usual = limits()
    options = RelayOptions(
        request_bytes=usual.request_bytes,
        json_bytes=usual.json_bytes,
        held=bodies,
        trusted_proxies=0,
    )
    return World(options=options, **kwargs)


@pytest.mark.parametrize("request_body", [sized(b"1" * 400), chunked(b"1" * 200, b"1" * 200)])
def test_a_request_gives_back_what_it_held(request_body: dict[str, Any]) -> None:
    bodies = HeldBodies(1000)
    during: list[int] = []

    def look() -> bytes:
        during.append(bodies.free)
        return b"x"

    served = world(bodies, response=FakeResponse([look]))
    assert served.ask("POST", **request_body).code == 200
    assert during == [400]
    assert bodies.free == 800


def test_a_refused_request_gives_back_what_it_held() -> None:
    bodies = HeldBodies(1000)
    bodies.free -= 700
    held = world(bodies)
    assert held.ask("POST", **sized(b"1" * 300)).code == 503
    assert held.event.error_code == "overloaded"
    truncated: dict[str, Any] = {
        "headers": [*JSON_BODY, ("Content-Length", "60")],
        "pieces": [b"1"],
    }
    assert world(bodies).ask("POST", **truncated).code == 400
    assert bodies.free == 100
