"""Documents of a project and its tokens become one policy, and requests are held against it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.core.errors import ProxyError
from proxy.policy.models import NAMING
from proxy.policy.policy import Policy

TARGET = "/v1/chat/completions"


@dataclass
class Head:
    """A request's head; the defaults satisfy ``STRICT``."""

    method: str = "POST"
    target: str = TARGET
    client_ip: str = "192.0.2.1"
    upgrades: bool = False
    headers: list[tuple[str, str]] = field(
        default_factory=lambda: [("ORIGIN", "https://a.test"), ("X-TEAM", "red")]
    )

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


STRICT: dict[str, Any] = {
    "allowed_ips": ["192.0.2.0/24"],
    "allowed_origins": ["https://a.test"],
    "required_headers": {"X-Team": ["red"]},
    "allowed_methods": ["POST"],
    "allowed_endpoints": [TARGET],
    "allowed_models": ["m"],
}
#: What is wrong with a request, in the order in which it is told.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"client_ip": "198.51.100.1"}, "ip_not_allowed"),
    ({"headers": [("ORIGIN", "https://b.test")]}, "origin_not_allowed"),
    ({"headers": [("ORIGIN", "https://a.test")]}, "invalid_request"),
    ({"method": "GET"}, "method_not_allowed"),
    ({"target": "/v1/models"}, "endpoint_not_found"),
    ({"target": TARGET + "?model=x"}, "model_not_allowed"),
]


def refusal(policy: Policy, **changes: Any) -> ProxyError:
    with pytest.raises(ProxyError) as caught:
        policy.check_head(Head(**changes))
    return caught.value


@pytest.mark.parametrize(
    ("project", "drains"),
    [
        ({}, False),
        ({"on_disconnect": "cancel"}, False),
        ({"on_disconnect": "hold"}, False),
        ({"on_disconnect": "drain"}, True),
    ],
)
def test_the_project_decides_what_happens_when_a_client_leaves(
    project: dict[str, object], drains: bool
) -> None:
    assert Policy.compile(project, [{}]).drain_on_disconnect is drains


@pytest.mark.parametrize(
    ("project", "cuts"),
    [({}, True), ({"on_revoke": "cut"}, True), ({"on_revoke": "finish"}, False)],
)
def test_the_project_decides_what_a_revocation_does_to_responses_in_flight(
    project: dict[str, object], cuts: bool
) -> None:
    assert Policy.compile(project, [{}]).cut_on_revoke is cuts


def test_where_a_project_sends_requests_restricts_none() -> None:
    project = {"base_url": "https://eu.test", "providers": ["a"], "max_retries": 2, "breaker": "on"}
    assert Policy.compile(project, [{}]) == Policy()


@pytest.mark.parametrize(
    ("project", "injects"),
    [({}, False), ({"stream_usage": "off"}, False), ({"stream_usage": "inject"}, True)],
)
def test_the_project_decides_whether_usage_is_requested(
    project: dict[str, object], injects: bool
) -> None:
    assert Policy.compile(project, [{}]).inject_usage is injects


@pytest.mark.parametrize(
    ("project", "cuts"),
    [({}, True), ({"on_revoke": "cut"}, True), ({"on_revoke": "finish"}, False)],
)
def test_the_project_decides_whether_a_used_up_total_cuts_responses_in_flight(
    project: dict[str, object], cuts: bool
) -> None:
    assert Policy.compile(project, [{}]).cut_on_revoke is cuts
    assert Policy.compile(project, [{}]).cut_in_flight is False
    assert Policy.compile({"cut_in_flight": True}, [{}]).cut_in_flight is True


@pytest.mark.parametrize(
    ("tokens", "can"),
    [
        ([], False),
        ([{}], False),
        ([{"can_mint": True}], True),
        ([{"can_mint": True}, {}], False),
        ([{}, {"can_mint": True}], False),
        ([{"can_mint": True}, {"can_mint": True}], True),
    ],
)
def test_a_child_may_mint_only_if_its_parent_may(tokens: list[dict[str, Any]], can: bool) -> None:
    assert Policy.compile({}, tokens).can_mint is can


def test_no_policy_asks_nothing() -> None:
    for policy in (Policy(), Policy.compile({}, [{}]), Policy.compile({"max_concurrent": 1}, [{}])):
        assert policy == Policy()
        assert not policy.restricts
        assert not policy.reads
        policy.check_head(Head(headers=[], client_ip="", target="/v1//%2e", method="BREW"))


@pytest.mark.parametrize("place", ["project", "token", "parent"])
def test_checks_come_in_their_order(place: str) -> None:
    documents: dict[str, Mapping[str, Any]] = {place: STRICT}
    policy = Policy.compile(
        documents.get("project", {}), [documents.get("token", {}), documents.get("parent", {})]
    )
    assert policy.restricts
    policy.check_head(Head())
    for number, (changes, code) in enumerate(WRONG):
        # Whatever comes later is wrong too: the first is told.
        later = {
            name: value for change, _ in WRONG[number:][::-1] for name, value in change.items()
        }
        assert refusal(policy, **changes).code == code
        assert refusal(policy, **later).code == code


def test_all_layers_must_hold() -> None:
    policy = Policy.compile(
        {"allowed_models": ["gpt-*"], "allowed_methods": ["GET", "POST"]},
        [
            {"allowed_models": ["*-mini"], "allowed_methods": ["POST", "DELETE"]},
            {"allowed_models": ["*4o*"], "allowed_params": {"n": ["1"]}},
        ],
    )
    policy.check_values({"model": "gpt-4o-mini", "n": 1})
    for model in ("gpt-4o", "x-4o-mini", "gpt-5-mini", None, ""):
        with pytest.raises(ProxyError) as caught:
            policy.check_values({"model": model})
        assert caught.value.code == "model_not_allowed"
    with pytest.raises(ProxyError) as caught:
        policy.check_values({"model": "gpt-4o-mini", "n": 2})
    assert (caught.value.code, caught.value.param) == ("param_not_allowed", "n")
    assert policy.reads == {"n"} | NAMING
    error = refusal(policy, method="GET")
    assert (error.status, error.headers) == (405, (("Allow", "POST"),))


def test_every_model_that_a_body_names_must_be_allowed() -> None:
    policy = Policy.compile({"allowed_models": ["good"]}, [{"allowed_models": ["g*"]}])
    policy.check_values({"model": "good", "models": ["good"], "engine": "good", "fallbacks": None})
    for param in sorted(NAMING - {"model"}):
        for value in ("evil", ["good", "evil"], [{"model": "good"}], {"x": ["good"]}, True, [""]):
            with pytest.raises(ProxyError) as caught:
                policy.check_values({"model": "good", param: value})
            assert (caught.value.code, caught.value.param) == ("model_not_allowed", param)
    with pytest.raises(ProxyError) as caught:
        policy.check_values({"models": ["good"]})  # a server without them runs its default
    assert caught.value.param == "model"


def test_a_wider_token_widens_nothing() -> None:
    wide = {"allowed_models": ["*"], "allowed_ips": ["0.0.0.0/0", "::/0"]}
    policy = Policy.compile({"allowed_models": ["m"], "allowed_ips": ["192.0.2.1"]}, [wide])
    policy.check_head(Head(headers=[]))
    assert refusal(policy, client_ip="192.0.2.2").code == "ip_not_allowed"
    with pytest.raises(ProxyError):
        policy.check_values({"model": "n"})


@pytest.mark.parametrize(
    ("project", "token"),
    [
        ({"from_the_future": 1}, {}),
        ({}, {"from_the_future": ["x"]}),
        ({}, {"on_disconnect": "drain"}),
        ({"can_mint": True}, {}),
        ({"allowed_models": "gpt-4"}, {}),
        ({}, {"allowed_ips": ["300.1.1.1"]}),
        ({}, {"allowed_endpoints": []}),
        ({"on_revoke": "maybe"}, {}),
        ([], {}),
        ({}, None),
    ],
)
def test_what_is_not_understood_refuses_everything(project: Any, token: Any) -> None:
    policy = Policy.compile(project, [token])
    assert policy.restricts
    error = refusal(policy)
    assert (error.status, error.code) == (500, "internal_error")
    assert policy.unreadable in str(error)
    assert policy.unreadable
    assert not policy.can_mint


def test_a_websocket_must_name_its_model() -> None:
    policy = Policy.compile({"allowed_models": ["rt-*"]})
    for target in ("/v1/realtime", "/v1/realtime?model=other", "/v1/realtime?intent=transcription"):
        error = refusal(policy, target=target, upgrades=True, method="GET")
        assert error.code == "model_not_allowed"
    twice = "/v1/realtime?model=rt-1&model=rt-1"
    assert refusal(policy, target=twice, upgrades=True).code == "invalid_request"
    policy.check_head(Head(target="/v1/realtime?model=rt-1", upgrades=True))
    policy.check_head(Head(target="/v1/models"))
    any_or_none = Policy.compile({"allowed_models": ["rt-*", ""]})
    any_or_none.check_head(Head(target="/v1/realtime?intent=transcription", upgrades=True))


@pytest.mark.parametrize("name", ["X-HTTP-METHOD-OVERRIDE", "X-HTTP-METHOD", "X-METHOD-OVERRIDE"])
def test_no_other_method_in_a_header(name: str) -> None:
    policy = Policy.compile({"allowed_methods": ["POST"]})
    policy.check_head(Head())
    assert refusal(policy, headers=[(name, "DELETE")]).code == "method_not_allowed"


@pytest.mark.parametrize("name", ["X-ORIGINAL-URL", "X-REWRITE-URL"])
def test_no_other_path_in_a_header(name: str) -> None:
    policy = Policy.compile({"allowed_endpoints": [TARGET]})
    policy.check_head(Head())
    assert refusal(policy, headers=[(name, "/v1/files")]).code == "endpoint_not_found"


def test_headers_pass_where_every_layer_lets_them() -> None:
    policy = Policy.compile({"forwarded_headers": ["X-*"]}, [{"forwarded_headers": ["x-a"]}])
    assert [name for name in ("X-A", "X-B", "Content-Type") if policy.forwards(name)] == [
        "X-A",
        "Content-Type",
    ]
    assert not Policy().forwarded
