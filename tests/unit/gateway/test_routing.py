"""What the gateway reads of a routed request, and which headers say where it went."""

import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from proxy.gateway.routed_request import RoutedRequest
from proxy.gateway.routing import RoutedRequests, is_pinned
from proxy.providers.base import OutboundRequest, Target
from proxy.providers.body import scan
from proxy.routing.attempt_loop import Routed, RoutedCall
from proxy.routing.router import Route
from proxy.upstream.timing import Timing

PATH = "/v1/responses"


def pinned(body: bytes) -> bool:
    return is_pinned("POST", PATH, scan(body, "application/json"))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"m"}', False),
        (b'{"model":"m","previous_response_id":null,"background":false}', False),
        (b'{"model":"m","previous_response_id":"r"}', True),
        (b'{"model":"m","conversation":{"id":"c"}}', True),
        (b'{"model":"m","background":true}', True),
    ],
)
def test_requests_that_refer_to_what_one_upstream_keeps(body: bytes, expected: bool) -> None:
    assert pinned(body) is expected


def test_a_large_member_is_not_parsed_to_see_whether_it_is_there() -> None:
    body = scan(b'{"conversation":[' + b"1," * 2_000_000 + b"1]}", "application/json")
    assert body is not None

    def took(work: Callable[[], Any]) -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    parsed = min(took(lambda: body.value("conversation")) for _ in range(3))
    assert min(took(lambda: is_pinned("POST", PATH, body)) for _ in range(3)) < parsed / 10


@pytest.mark.parametrize(
    ("model", "header"),
    [
        ("gpt-4", "gpt-4"),
        ("100% a/b", "100% a/b"),
        ("gpt-ü", "gpt-%C3%BC"),
        ("模型", "%E6%A8%A1%E5%9E%8B"),
    ],
)
def test_the_header_with_the_model_is_ascii(model: str, header: str) -> None:
    target = Target("https://h", "h", "", provider="p", model=model)
    request = OutboundRequest("POST", PATH.encode(), [], b"{}")
    call = RoutedCall(request=request, path=PATH, timing=Timing())
    routed = RoutedRequest(Route((), "alias"), call, False, Routed(response=None, target=target))
    made = RoutedRequests(cast(Any, None), cast(Any, None)).headers(routed)
    assert ("X-Proxy-Model", header) in made
