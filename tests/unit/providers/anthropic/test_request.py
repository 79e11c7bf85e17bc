"""A chat request as Anthropic's: golden files, one for each rule, and what the SDK's types take."""

import contextlib
import copy
from typing import Any

import pytest
from anthropic.types.message_create_params import (
    MessageCreateParamsNonStreaming,
    MessageCreateParamsStreaming,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from proxy.core.errors import ClientError
from proxy.providers.anthropic.request import TranslationOptions, messages_request
from proxy.providers.base import ModelFacts
from tests.unit.providers.anthropic.golden import cases, read_through

CASES = cases("requests")
_SAMPLING = ("temperature", "top_p", "top_k")
_BUFFERED: TypeAdapter[Any] = TypeAdapter(MessageCreateParamsNonStreaming)
_STREAMED: TypeAdapter[Any] = TypeAdapter(MessageCreateParamsStreaming)


def options(**given: Any) -> TranslationOptions:
    facts = dict(given.pop("facts", {}))
    for name in {"efforts", "thinking"}.intersection(facts):
        facts[name] = frozenset(facts[name])
    if "refused" in given:
        given["refused"] = frozenset(given["refused"])
    return TranslationOptions(model="claude", facts=ModelFacts(**facts), **given)


def assert_taken(body: dict[str, Any]) -> None:
    """Assert that the SDK's own types take a request.

    They are those of version 2026-10-21, which has no sampling parameters. The request is of
    2023-06-01, which has them.
    """
    copied = {name: value for name, value in body.items() if name not in _SAMPLING}
    kind = _STREAMED if body.get("stream") else _BUFFERED
    read_through(kind.validate_python(copied, extra="forbid"))


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    case = CASES[name]
    before = copy.deepcopy(case["chat"])
    if "error" in case:
        with pytest.raises(ClientError) as caught:
            messages_request(case["chat"], options(**case.get("options", {})))
        assert {"code": caught.value.code, "param": caught.value.param} == case["error"]
        assert f"`{caught.value.param}`" in str(caught.value)
    else:
        body, dropped = messages_request(case["chat"], options(**case.get("options", {})))
        assert body == case["body"]
        assert list(dropped) == case.get("dropped", [])
        assert_taken(body)
    assert case["chat"] == before


_TEXT = st.text(max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-1, 3) | _TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_TEXT, inner, max_size=2),
    max_leaves=4,
)
_URL = st.sampled_from(
    ["https://h/a.png", "data:image/png;base64,AA==", "data:,x", "data:x", "ftp://x", "", "a.pdf"]
)
_PART = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": _TEXT | _JSON}),
    st.fixed_dictionaries(
        {"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": _URL}) | _JSON}
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("file"),
            "file": st.fixed_dictionaries(
                {"file_data": _URL | _TEXT}, optional={"filename": _JSON}
            ),
        }
    ),
    _JSON,
)
_CONTENT = _TEXT | st.lists(_PART, max_size=3) | _JSON
_CALL = st.fixed_dictionaries(
    {"id": _TEXT | _JSON, "type": st.just("function")},
    optional={
        "function": st.fixed_dictionaries(
            {"name": _TEXT, "arguments": st.sampled_from(["", "{}", '{"a":1}', "[]", "x"]) | _JSON}
        )
        | _JSON
    },
)
_MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system", "developer"]) | _JSON},
    optional={
        "content": _CONTENT,
        "tool_calls": st.lists(_CALL, max_size=2) | _JSON,
        "tool_call_id": _TEXT,
        "refusal": _TEXT | _JSON,
        "thinking_blocks": st.lists(
            st.fixed_dictionaries(
                {"type": st.sampled_from(["thinking", "redacted_thinking"])},
                optional={"thinking": _JSON, "signature": _JSON, "data": _JSON},
            ),
            max_size=2,
        )
        | _JSON,
        "cache_control": st.just({"type": "ephemeral"}) | _JSON,
    },
)
_SCHEMA = st.recursive(
    st.sampled_from([{"type": "string"}, {"type": ["integer", "null"]}, {"enum": ["a"]}, {}]),
    lambda inner: (
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(_TEXT, inner, max_size=2)}
        )
        | st.fixed_dictionaries({"anyOf": st.lists(inner, max_size=2)})
    ),
    max_leaves=4,
)
_TOOL = st.fixed_dictionaries(
    {"type": st.just("function") | _JSON},
    optional={
        "function": st.fixed_dictionaries(
            {"name": _TEXT},
            optional={"description": _JSON, "parameters": _SCHEMA | _JSON, "strict": _JSON},
        )
    },
)
_CHAT = st.fixed_dictionaries(
    {"messages": st.lists(_MESSAGE, max_size=4) | _JSON},
    optional={
        "max_tokens": st.integers(-1, 9000) | _JSON,
        "max_completion_tokens": st.integers(1, 9000),
        "tools": st.lists(_TOOL, max_size=2) | _JSON,
        "tool_choice": st.sampled_from(["auto", "none", "required"])
        | st.fixed_dictionaries(
            {"type": st.sampled_from(["function", "allowed_tools"])},
            optional={"function": st.fixed_dictionaries({"name": _TEXT}), "mode": _TEXT},
        )
        | _JSON,
        "parallel_tool_calls": _JSON,
        "response_format": st.fixed_dictionaries(
            {"type": st.sampled_from(["json_schema", "json_object", "text"])},
            optional={"json_schema": st.fixed_dictionaries({"schema": _SCHEMA | _JSON})},
        )
        | _JSON,
        "reasoning_effort": st.sampled_from(["none", "minimal", "low", "high", "max"]) | _JSON,
        "thinking": st.just({"type": "enabled", "budget_tokens": 2000}) | _JSON,
        "temperature": _JSON,
        "top_p": st.floats(0, 2) | _JSON,
        "top_k": _JSON,
        "stop": _TEXT | st.lists(_TEXT, max_size=2) | _JSON,
        "stream": st.booleans() | _JSON,
        "user": _TEXT | _JSON,
        "service_tier": st.sampled_from(["auto", "default", "flex"]) | _JSON,
        "cache_control": st.just({"type": "ephemeral", "ttl": "1h"}) | _JSON,
        "n": _JSON,
        "seed": _JSON,
    },
)
_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "strict": st.booleans(),
        "max_tokens": st.integers(1, 9000),
        "facts": st.fixed_dictionaries(
            {},
            optional={
                "efforts": st.sampled_from([[], ["low", "high"], ["medium"]]),
                "thinking": st.sampled_from([["enabled", "disabled"], ["adaptive"], []]),
                "max_tokens": st.integers(1, 99_000),
            },
        ),
    },
)


@pytest.mark.slow
@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(_CHAT, _OPTIONS)
def test_any_chat_is_refused_or_taken_by_the_sdk(chat: Any, given: dict[str, Any]) -> None:
    before = copy.deepcopy(chat)
    with contextlib.suppress(ClientError):
        assert_taken(messages_request(chat, options(**given))[0])
    assert chat == before


def test_the_judge_reads_lists_too() -> None:
    bad = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": 1}]}]}
    with pytest.raises(ValidationError):
        assert_taken(bad)
