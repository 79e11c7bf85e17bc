"""Routes of requests in Anthropic's dialect."""

import json
from typing import Any

import pytest

from proxy.core.errors import ClientError
from proxy.providers.base import OutboundRequest, Target
from proxy.providers.body import scan
from proxy.providers.config import provider_config
from proxy.providers.preparing import edited
from proxy.routing import native
from proxy.routing.access import RoutingAccess
from proxy.routing.native import native_route
from proxy.routing.router import Route, Router
from tests.support.routing_records import catalog, mapping, provider

PATH = "/v1/messages"
ALL = RoutingAccess(all_providers=True)
FALLBACK = {"routing": {"native_fallback": True}}
SIGNED = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
CALL = {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1"}]}


def routed(*mappings: Any, path: str = PATH, text: bytes = b"") -> Route:
    house = catalog(
        provider("claude", "anthropic"),
        provider("eu", "anthropic"),
        provider("openai", "openai", is_default=True),
        provider("azure", "azure"),
        provider("gemini", "gemini"),
        provider("local", "ollama"),
        provider("other", "custom"),
        provider("speaks", "custom", messages=True),
        provider("gpt", "openai", serve_messages="translate"),
        provider("llama", "ollama", serve_messages="translate"),
        *mappings,
    )
    own = Target.from_url("https://own.example")
    route = Router(own, lambda: 0.5, house).route(ALL, "smart", has_own_key=False)
    return native_route(route, path, scan(text, "application/json"), text)


def names(route: Route) -> list[str]:
    return [f"{each.target.provider}/{each.target.model}" for each in route.targets]


def in_order(*targets: str, **config: Any) -> list[Any]:
    return [mapping("smart", target, index, **config) for index, target in enumerate(targets)]


def sent(route: Route, index: int, text: bytes) -> Any:
    """The body that goes to this target of the route."""
    request = OutboundRequest("POST", b"/v1/messages", [], text)
    body = scan(text, "application/json")
    return edited(request, route.targets[index].target, body)[0].body


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/messages", ["claude", "local", "speaks"]),
        ("/v1/messages/count_tokens", ["claude", "speaks"]),
    ],
)
def test_providers_without_the_endpoint_are_skipped(path: str, expected: list[str]) -> None:
    targets = in_order(
        *(f"{name}/m" for name in ("openai", "claude", "azure", "gemini", "local", "other")),
        "speaks/m",
        **FALLBACK,
    )
    route = routed(*targets, path=path)
    assert names(route) == [f"{name}/m" for name in expected]


def test_none_that_has_it() -> None:
    with pytest.raises(ClientError, match="endpoint") as caught:
        routed(*in_order("openai/m", "other/m"))
    assert (caught.value.code, caught.value.param) == ("endpoint_not_supported", "model")
    assert "anthropic" in str(caught.value)


def test_the_projects_own_key_is_relayed_as_before() -> None:
    own = Route(Router(Target.from_url("https://own.example"), lambda: 0.5).own_route(ALL).targets)
    assert native_route(own, PATH).targets == own.targets


def test_another_provider_only_where_the_mapping_says_so() -> None:
    assert names(routed(*in_order("claude/a", "eu/a", "claude/b"))) == ["claude/a", "claude/b"]
    of_the_second = [mapping("smart", "claude/a"), mapping("smart", "eu/a", 1, **FALLBACK)]
    assert names(routed(*of_the_second)) == ["claude/a"]
    of_the_first = [mapping("smart", "claude/a", **FALLBACK), mapping("smart", "eu/a", 1)]
    assert names(routed(*of_the_first, mapping("smart", "local/a", 2))) == ["claude/a", "eu/a"]
    # One that is passed over has no say.
    skipped = [mapping("smart", "openai/a", **FALLBACK), *of_the_second[:1]]
    skipped.append(mapping("smart", "eu/a", 2))
    assert names(routed(*skipped)) == ["claude/a"]


def text_of(*messages: Any, **more: Any) -> bytes:
    return json.dumps({"model": "smart", "messages": messages, **more}).encode()


def test_thoughts_go_only_to_the_first_provider() -> None:
    text = text_of(
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [SIGNED, {"type": "text", "text": "Hello."}]},
        {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]},
        {"role": "user", "content": [{"type": "text", "text": "thinking?"}]},
        thinking={"type": "enabled", "budget_tokens": 1024},
    )
    route = routed(*in_order("claude/a", "eu/a", "claude/b", **FALLBACK), text=text)
    assert sent(route, 0, text) == text.replace(b'"smart"', b'"a"')
    assert sent(route, 2, text) == text.replace(b'"smart"', b'"b"')
    elsewhere = json.loads(sent(route, 1, text))
    assert elsewhere == {
        "model": "a",
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
            {"role": "user", "content": [{"type": "text", "text": "thinking?"}]},
        ],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }


def test_without_its_thoughts_a_call_of_tools_goes_on_without_thinking() -> None:
    text = text_of({"role": "assistant", "content": [SIGNED, CALL]}, RESULT, thinking={"type": "x"})
    route = routed(*in_order("claude/a", "eu/a", **FALLBACK), text=text)
    elsewhere = json.loads(sent(route, 1, text))
    assert elsewhere["messages"] == [{"role": "assistant", "content": [CALL]}, RESULT]
    assert "thinking" not in elsewhere
    assert "thinking" in json.loads(sent(route, 0, text))


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "thinking"}],
        ["thinking"],
        [{"role": "assistant", "content": [1, "thinking"]}],
    ],
)
def test_a_body_without_signed_thoughts_keeps_its_bytes(messages: list[Any]) -> None:
    text = text_of(*messages)
    route = routed(*in_order("claude/a", "eu/a", **FALLBACK), text=text)
    assert sent(route, 1, text) == text.replace(b'"smart"', b'"a"')


def test_odd_messages_are_left_to_the_provider() -> None:
    text = json.dumps({"model": "smart", "messages": "thinking"}).encode()
    assert len(routed(*in_order("claude/a", "eu/a", **FALLBACK), text=text).targets) == 2


def test_a_large_body_with_thoughts_stays_at_its_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    text = text_of({"role": "assistant", "content": [SIGNED]})
    monkeypatch.setattr(native, "MAX_STRIPPED_BYTES", len(text) - 1)
    assert names(routed(*in_order("claude/a", "eu/a", **FALLBACK), text=text)) == ["claude/a"]
    monkeypatch.setattr(native, "MAX_STRIPPED_BYTES", len(text))
    assert len(routed(*in_order("claude/a", "eu/a", **FALLBACK), text=text).targets) == 2


def test_only_a_custom_provider_may_say_that_it_has_the_endpoint() -> None:
    for provider_type in ("openai", "azure", "gemini", "ollama", "anthropic"):
        with pytest.raises(ClientError, match="custom") as caught:
            provider_config({"messages": True}, provider_type)
        assert caught.value.param == "config.messages"
    with pytest.raises(ClientError, match="true or false"):
        provider_config({"messages": "yes"}, "custom")


# Providers that translate.


def test_a_provider_that_translates_serves_messages_and_nothing_below() -> None:
    route = routed(*in_order("openai/a", "gpt/a"))
    assert names(route) == ["gpt/a"]
    assert route.targets[0].target.dialect == "messages+openai"
    with pytest.raises(ClientError, match="count_tokens") as caught:
        routed(*in_order("gpt/a", "llama/a"), path="/v1/messages/count_tokens")
    assert caught.value.code == "endpoint_not_supported"


def test_one_that_has_the_endpoint_translates_where_it_is_told_to() -> None:
    route = routed(*in_order("llama/a", "gpt/a"))
    assert [each.target.dialect for each in route.targets] == ["messages+ollama", "messages+openai"]
    native = routed(*in_order("local/a"))
    assert native.targets[0].target.dialect == "ollama"


def test_behind_a_translation_any_provider_may_follow() -> None:
    assert names(routed(*in_order("gpt/a", "claude/a", "gpt/b"))) == ["gpt/a", "claude/a", "gpt/b"]
    # Thoughts are signed before it.
    assert names(routed(*in_order("claude/a", "gpt/a"))) == ["claude/a"]
    both = [mapping("smart", "claude/a", **FALLBACK), mapping("smart", "gpt/a", 1)]
    assert names(routed(*both, mapping("smart", "eu/a", 2))) == ["claude/a", "gpt/a", "eu/a"]


UNSIGNED = {"type": "thinking", "thinking": "Hm.", "signature": ""}
SAID = {"type": "text", "text": "Hello."}


def test_a_translation_leaves_the_body_alone() -> None:
    text = text_of({"role": "assistant", "content": [SIGNED, SAID]})
    route = routed(*in_order("claude/a", "gpt/a", **FALLBACK), text=text)
    assert not route.targets[1].target.edits.override


def test_thoughts_of_a_translation_go_to_none_that_checks_signatures() -> None:
    text = text_of(
        {"role": "assistant", "content": [SIGNED, SAID]},
        {"role": "assistant", "content": [UNSIGNED, SAID]},
        {"role": "assistant", "content": [UNSIGNED]},
        {"role": "user", "content": "Hi"},
    )
    route = routed(*in_order("claude/a", "gpt/a", "claude/b", **FALLBACK), text=text)
    for index in (0, 2):
        assert json.loads(sent(route, index, text))["messages"] == [
            {"role": "assistant", "content": [SIGNED, SAID]},
            {"role": "assistant", "content": [SAID]},
            {"role": "user", "content": "Hi"},
        ]
    behind = routed(*in_order("gpt/a", "claude/a", **FALLBACK), text=text)
    assert json.loads(sent(behind, 1, text))["messages"][0]["content"] == [SAID]
    # Where none translates, bytes stay.
    alone = routed(*in_order("claude/a"), text=text)
    assert sent(alone, 0, text) == text.replace(b'"smart"', b'"a"')


def test_a_large_body_goes_to_the_first_provider_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    text = text_of({"role": "assistant", "content": [UNSIGNED, SAID]})
    monkeypatch.setattr(native, "MAX_STRIPPED_BYTES", len(text) - 1)
    route = routed(*in_order("claude/a", "gpt/a", "eu/a", **FALLBACK), text=text)
    assert names(route) == ["claude/a", "gpt/a"]
    assert sent(route, 0, text) == text.replace(b'"smart"', b'"a"')


def test_which_providers_may_translate() -> None:
    for provider_type in ("openai", "azure", "gemini", "ollama", "custom"):
        compiled = provider_config({"serve_messages": "translate"}, provider_type)
        assert compiled.translates_messages
        assert not provider_config({}, provider_type).translates_messages
    for wrong in ("yes", True, "native"):
        with pytest.raises(ClientError, match="`translate`") as caught:
            provider_config({"serve_messages": wrong}, "openai")
        assert caught.value.param == "config.serve_messages"
    with pytest.raises(ClientError, match="openai or azure") as caught:
        provider_config({"serve_messages": "translate"}, "anthropic")
    with pytest.raises(ClientError, match="nothing to translate") as caught:
        provider_config({"serve_messages": "translate", "messages": True}, "custom")
    assert caught.value.param == "config.serve_messages"
