"""Rules that a provider has of its own: which targets of a route are left."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.core.errors import ClientError
from proxy.gateway.routing import _allowed
from proxy.providers.base import OutboundRequest, Target
from proxy.routing.access import RoutingAccess
from proxy.routing.router import Route, Router
from tests.support.routing_records import catalog, mapping, provider

OPEN = provider("open")
RULES = {"allowed_methods": ["POST"], "allowed_params": {"model": ["gpt-*"]}}


def route(*providers: Any) -> Route:
    found = catalog(*providers, *(mapping("m", f"{each.name}/m") for each in providers))
    router = Router(Target.from_url("https://own.example"), lambda: 0.5, found)
    return router.route(RoutingAccess(all_providers=True), "m", has_own_key=False)


def context(method: str = "POST", body: Any = b'{"model": "gpt-5"}') -> Any:
    headers = [("CONTENT-TYPE", "application/json")]
    inbound = SimpleNamespace(
        method=method, target="/v1/chat/completions", path="/v1/chat/completions",
        headers=headers, client_ip="192.0.2.1", upgrades=False,
    )  # fmt: skip
    outbound = OutboundRequest(method, b"/v1/chat/completions", [], body)
    return SimpleNamespace(inbound=inbound, outbound=outbound)


def test_without_rules_the_route_is_the_same_object() -> None:
    given = route(OPEN)
    assert _allowed(given, context()) is given


def test_a_target_whose_rules_refuse_is_skipped() -> None:
    given = route(replace(provider("narrow"), policy=RULES), OPEN)
    assert len(_allowed(given, context()).targets) == 2
    for refused in (context("GET"), context(body=b'{"model": "other"}'), context(body=iter([b""]))):
        left = _allowed(given, refused).targets
        assert [each.target.provider for each in left] == ["open"]


@pytest.mark.parametrize(
    ("refused", "code"),
    [
        (context("GET"), "method_not_allowed"),
        (context(body=b'{"model": "other"}'), "param_not_allowed"),
        (context(body=iter([b""])), "param_not_allowed"),
    ],
)
def test_the_refusal_is_returned_when_none_is_left(refused: Any, code: str) -> None:
    with pytest.raises(ClientError) as caught:
        _allowed(route(replace(provider("narrow"), policy=RULES)), refused)
    assert caught.value.code == code
