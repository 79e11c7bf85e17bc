"""A request of Anthropic's as a chat: golden files, and what OpenAI's SDK takes."""

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from pydantic import TypeAdapter, ValidationError

from proxy.core.errors import ClientError
from proxy.providers.anthropic.from_messages import chat_request
from tests.unit.providers.anthropic.golden import cases, read_through

CASES = cases("from_messages")
_BUFFERED: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsNonStreaming)
_STREAMED: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsStreaming)


def translated(request: Any, **options: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    if "refused" in options:
        options["refused"] = frozenset(options["refused"])
    return chat_request(request, "gpt", **options)


def assert_taken(body: dict[str, Any]) -> None:
    """Assert that the SDK's own types take a request."""
    kind = _STREAMED if body.get("stream") else _BUFFERED
    read_through(kind.validate_python(body, extra="forbid"))


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    case = CASES[name]
    before = copy.deepcopy(case["request"])
    if "error" in case:
        with pytest.raises(ClientError) as caught:
            translated(case["request"], **case.get("options", {}))
        assert {"code": caught.value.code, "param": caught.value.param} == case["error"]
        assert f"`{caught.value.param}`" in str(caught.value)
    else:
        body, dropped = translated(case["request"], **case.get("options", {}))
        assert body == case["chat"]
        assert list(dropped) == case.get("dropped", [])
        assert_taken(body)
    assert case["request"] == before


_TEXT = st.text(max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-1, 3) | _TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_TEXT, inner, max_size=2),
    max_leaves=4,
)
_SOURCE = (
    st.fixed_dictionaries(
        {"type": st.sampled_from(["base64", "url", "text", "content", "file"])},
        optional={
            "media_type": _TEXT | _JSON,
            "data": _TEXT | _JSON,
            "url": _TEXT,
            "content": _TEXT | _JSON,
        },
    )
    | _JSON
)
_PLAIN = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": _TEXT | _JSON}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["image", "document"]), "source": _SOURCE},
        optional={"title": _TEXT | _JSON},
    ),
    st.fixed_dictionaries({"type": st.just("search_result"), "content": _JSON}),
    _JSON,
)
_BLOCK = st.one_of(
    _PLAIN,
    st.fixed_dictionaries(
        {"type": st.just("tool_use"), "id": _TEXT, "name": _TEXT},
        optional={"input": st.dictionaries(_TEXT, _JSON, max_size=2) | _JSON},
    ),
    st.fixed_dictionaries(
        {"type": st.just("tool_result"), "tool_use_id": _TEXT | _JSON},
        optional={"content": _TEXT | st.lists(_PLAIN, max_size=2) | _JSON, "is_error": _JSON},
    ),
    st.fixed_dictionaries({"type": st.sampled_from(["thinking", "redacted_thinking"])}),
)
_CONTENT = _TEXT | st.lists(_BLOCK, max_size=3) | _JSON
_MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]) | _JSON, "content": _CONTENT}
)
_TOOL = st.fixed_dictionaries(
    {"name": _TEXT},
    optional={
        "type": st.sampled_from(["custom", "bash_20250124"]) | _JSON,
        "description": _TEXT | _JSON,
        "input_schema": st.dictionaries(_TEXT, _JSON, max_size=2) | _JSON,
        "strict": st.booleans() | _JSON,
    },
)
_REQUEST = st.fixed_dictionaries(
    {"messages": st.lists(_MESSAGE, max_size=4) | _JSON},
    optional={
        "system": _CONTENT,
        "max_tokens": st.integers(0, 9000) | _JSON,
        "metadata": st.fixed_dictionaries({"user_id": st.text(max_size=80)}) | _JSON,
        "tools": st.lists(_TOOL, max_size=2) | _JSON,
        "tool_choice": st.fixed_dictionaries(
            {"type": st.sampled_from(["auto", "any", "none", "tool"])},
            optional={"name": _TEXT, "disable_parallel_tool_use": _JSON},
        )
        | _JSON,
        "output_config": st.fixed_dictionaries(
            {},
            optional={
                "effort": st.sampled_from(["low", "medium", "high", "xhigh", "max"]) | _JSON,
                "format": st.fixed_dictionaries({"type": st.just("json_schema"), "schema": _JSON}),
            },
        )
        | _JSON,
        "thinking": st.just({"type": "enabled", "budget_tokens": 2000}) | _JSON,
        "temperature": st.floats(0, 1) | _JSON,
        "top_p": st.floats(0, 1) | _JSON,
        "top_k": _JSON,
        "stop_sequences": st.lists(_TEXT, max_size=2) | _JSON,
        "stream": st.booleans() | _JSON,
        "service_tier": _JSON,
        "mcp_servers": _JSON,
    },
)


@pytest.mark.slow
@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(_REQUEST, st.booleans())
def test_any_request_is_refused_or_taken_by_the_sdk(request: Any, strict: bool) -> None:
    before = copy.deepcopy(request)
    with contextlib.suppress(ClientError):
        assert_taken(translated(request, strict=strict)[0])
    assert request == before


def test_the_judge_reads_lists_too() -> None:
    with pytest.raises(ValidationError):
        assert_taken({"model": "m", "messages": [{"role": "user", "content": [{"type": 1}]}]})


@pytest.mark.parametrize("levels", [39, 40, 400])
def test_a_schema_of_many_levels_is_a_hint(levels: int) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"anyOf": [schema]}
    config = {"format": {"type": "json_schema", "schema": schema}}
    body, _ = translated({"messages": [{"role": "user", "content": "a"}], "output_config": config})
    found = body["response_format"]["json_schema"]
    assert (found["schema"], found["strict"]) == (schema, False)


def test_what_is_refused_names_no_content() -> None:
    """A prompt must not stand in an error, which is logged."""
    secret = {"type": "tool_use", "id": "t", "name": "f", "input": "secret"}
    with pytest.raises(ClientError) as caught:
        translated({"messages": [{"role": "assistant", "content": [secret]}]})
    assert "secret" not in json.dumps([str(caught.value), caught.value.param])
