"""The official `openai` client with Claude's models, through the real server."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.claude_house import CLAUDE_KEYS, ClaudeHouse, claude_house, named
from tests.support.fake_upstream import Upstream
from tests.support.mock_anthropic import THOUGHT
from tests.support.mock_provider import error_event, status

ASK: dict[str, Any] = {"model": "smart", "messages": [{"role": "user", "content": "Hi"}]}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
TEXT = "One two three."


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream
) -> Iterator[ClaudeHouse]:
    with claude_house(tmp_path_factory.mktemp("claude"), session_upstream.url) as house:
        yield house


@pytest.fixture
def house(made: ClaudeHouse) -> ClaudeHouse:
    made.fresh()
    return made


@pytest.fixture
def client(house: ClaudeHouse) -> Iterator[openai.OpenAI]:
    with house.openai_client() as client:
        yield client


def chat(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{**ASK, **more})


def raw(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.with_raw_response.create(**{**ASK, **more})


def joined(chunks: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_a_chat(house: ClaudeHouse, client: openai.OpenAI) -> None:
    found = chat(
        client,
        messages=[{"role": "system", "content": "Be kind."}, *ASK["messages"]],
        max_tokens=99,
        **named("chat"),
    )
    (choice,) = found.choices
    assert (choice.message.content, choice.finish_reason) == (TEXT, "stop")
    assert found.id == "msg_mock"
    usage = found.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (29, 12, 41)
    assert usage.prompt_tokens_details.cached_tokens == 16
    (sent,) = house.claude.received
    assert sent.target == "/v1/messages"
    assert sent.values("x-api-key") == [CLAUDE_KEYS[0]]
    assert sent.values("authorization") == []
    body = json.loads(sent.body)
    assert (body["model"], body["max_tokens"]) == ("claude-large", 99)
    assert body["system"] == [{"type": "text", "text": "Be kind."}]
    event = house.event("chat")
    counted = event["metadata"]
    assert (counted["prompt_tokens"], counted["completion_tokens"]) == (29, 12)
    assert (counted["cached_tokens"], counted["cache_write_tokens"]) == (16, 4)
    assert (event["provider"], event["usage_source"]) == ("claude", "reported")


def test_a_stream(house: ClaudeHouse, client: openai.OpenAI) -> None:
    chunks = list(
        chat(client, stream=True, stream_options={"include_usage": True}, **named("streamed"))
    )
    assert joined(chunks) == TEXT
    assert [chunk.choices[0].delta.role for chunk in chunks if chunk.choices].count(
        "assistant"
    ) == 1
    finishes = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert finishes[-1] == "stop"
    assert set(finishes[:-1]) == {None}
    *most, last = chunks
    assert (last.choices, last.usage.prompt_tokens, last.usage.total_tokens) == ([], 29, 41)
    assert all(chunk.usage is None for chunk in most)
    event = house.event("streamed")
    assert (event["stream"], event["outcome"]) == (True, "completed")
    assert event["metadata"]["prompt_tokens"] == 29


def test_a_stream_without_usage(house: ClaudeHouse, client: openai.OpenAI) -> None:
    chunks = list(chat(client, stream=True, **named("unasked")))
    assert joined(chunks) == TEXT
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert house.event("unasked")["metadata"]["total_tokens"] == 41, "metered anyhow"


@pytest.mark.parametrize("streamed", [False, True])
def test_tools(house: ClaudeHouse, client: openai.OpenAI, streamed: bool) -> None:
    if streamed:
        with client.chat.completions.stream(**ASK, tools=[TOOL]) as stream:
            choice = stream.get_final_completion().choices[0]
    else:
        choice = chat(client, tools=[TOOL], tool_choice="required").choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "weather",
        {"city": "Oslo"},
    )
    turns = [
        *ASK["messages"],
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": "weather", "arguments": call.function.arguments},
                }
            ],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "Rain."},
    ]
    assert chat(client, tools=[TOOL], messages=turns).choices[0].message.content == TEXT
    sent = json.loads(house.claude.received[-1].body)["messages"]
    assert sent[1]["content"][0]["input"] == {"city": "Oslo"}
    assert sent[2]["content"][0]["tool_use_id"] == sent[1]["content"][0]["id"]


def test_thoughts_stand_apart_and_come_back(house: ClaudeHouse, client: openai.OpenAI) -> None:
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    message = chat(client, max_tokens=4000, extra_body=thinking).choices[0].message
    assert message.content == TEXT
    assert message.reasoning_content == THOUGHT
    turns = [*ASK["messages"], message, {"role": "user", "content": "Go on."}]
    chat(client, max_tokens=4000, extra_body=thinking, messages=turns)
    (block, *_) = json.loads(house.claude.received[-1].body)["messages"][1]["content"]
    assert block["signature"] == house.claude.signature


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("code", [429, 529])
def test_from_openai_to_claude(
    house: ClaudeHouse, client: openai.OpenAI, streamed: bool, code: int
) -> None:
    name = f"{code}-{streamed}"
    house.openai.always(status(code))
    response = raw(client, model=f"steady-{name}", stream=streamed)
    assert response.headers["x-proxy-provider"] == "claude"
    found = response.parse()
    text = joined(found) if streamed else found.choices[0].message.content
    assert text == TEXT
    assert house.openai.received
    assert json.loads(house.claude.received[-1].body)["model"] == f"claude-{name}"


@pytest.mark.parametrize("streamed", [False, True])
def test_from_claude_to_openai(house: ClaudeHouse, client: openai.OpenAI, streamed: bool) -> None:
    house.claude.always(status(529))
    response = raw(client, model=f"clever-{streamed}", stream=streamed)
    assert response.headers["x-proxy-provider"] == "openai"
    found = response.parse()
    text = joined(found) if streamed else found.choices[0].message.content
    assert text == TEXT
    sent = json.loads(house.openai.received[-1].body)
    assert (sent["model"], "max_tokens" in sent) == (f"openai-{streamed}", False), (
        "nothing of Claude's"
    )


def test_an_error_before_the_first_output_goes_on_elsewhere(
    house: ClaudeHouse, client: openai.OpenAI
) -> None:
    house.claude.always(error_event(529))
    response = raw(client, model="clever-2", stream=True)
    assert response.headers["x-proxy-provider"] == "openai"
    chunks = list(response.parse())
    assert joined(chunks) == TEXT
    roles = [chunk.choices[0].delta.role for chunk in chunks if chunk.choices]
    assert roles.count("assistant") == 1


def test_an_error_after_output_ends_the_stream(house: ClaudeHouse, client: openai.OpenAI) -> None:
    house.claude.always(error_event(529, after=1))
    words: list[str] = []
    stream = chat(client, model="clever-3", stream=True)
    with pytest.raises(openai.APIError) as caught:
        words.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(words) == "One "
    assert (caught.value.code, caught.value.type) == ("overloaded", "server_error")
    assert not house.openai.received


@pytest.mark.parametrize(
    ("code", "shown", "kind", "name"),
    [
        (400, 400, "invalid_request_error", "invalid_request_error"),
        (429, 429, "rate_limit_error", "rate_limit_error"),
        (529, 503, "server_error", "overloaded"),
    ],
)
def test_errors_are_openais(
    house: ClaudeHouse, client: openai.OpenAI, code: int, shown: int, kind: str, name: str
) -> None:
    house.claude.for_model(f"m-{code}", status(code, retry_after=7))
    with pytest.raises(openai.APIStatusError) as caught:
        chat(client, model=f"claude/m-{code}")
    error = caught.value
    assert (error.status_code, error.type, error.code) == (shown, kind, name)
    assert "x-proxy-request-id" in error.response.headers
    if code != 400:
        assert error.response.headers["retry-after"] == "7"


def test_what_is_dropped_is_named(house: ClaudeHouse, client: openai.OpenAI) -> None:
    response = raw(client, seed=1, logit_bias={"1": 1})
    dropped = response.headers["x-proxy-dropped-params"].split(", ")
    assert sorted(dropped) == ["logit_bias", "seed"]
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, n=2)
    assert caught.value.param == "n"


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        ("claude/claude-large", "high", ({"effort": "high"}, None)),
        ("claude/claude-large", "xhigh", ({"effort": "high"}, None)),
        ("claude/claude-large", "none", (None, {"type": "disabled"})),
        ("claude/claude-small", "medium", (None, {"type": "enabled", "budget_tokens": 2048})),
        ("claude/claude-small", "max", (None, {"type": "enabled", "budget_tokens": 4095})),
    ],
)
def test_effort_goes_as_the_model_takes_it(
    house: ClaudeHouse, client: openai.OpenAI, model: str, effort: Any, expected: Any
) -> None:
    response = raw(client, model=model, reasoning_effort=effort, temperature=1)
    assert "x-proxy-dropped-params" not in response.headers
    thinks = expected[1] is not None and expected[1]["type"] == "enabled"
    message = response.parse().choices[0].message
    assert getattr(message, "reasoning_content", None) == (THOUGHT if thinks else None)
    sent = json.loads(house.claude.received[-1].body)
    assert (sent.get("output_config"), sent.get("thinking")) == expected


def test_effort_of_a_model_that_nothing_is_known_of(
    house: ClaudeHouse, client: openai.OpenAI
) -> None:
    response = raw(client, model="claude/another", reasoning_effort="high")
    assert response.headers["x-proxy-dropped-params"] == "reasoning_effort"
    assert json.loads(house.claude.received[-1].body)["max_tokens"] == 8192


@pytest.mark.parametrize(
    ("model", "streamed", "most"),
    [
        ("claude-small", False, 4096),
        ("claude-small", True, 4096),
        ("claude-large", False, 16_384),
        ("claude-large", True, 32_000),
    ],
)
def test_a_chat_without_a_bound_has_the_models(
    house: ClaudeHouse, client: openai.OpenAI, model: str, streamed: bool, most: int
) -> None:
    found = chat(client, model=f"claude/{model}", stream=streamed)
    text = joined(found) if streamed else found.choices[0].message.content
    assert text == TEXT
    assert json.loads(house.claude.received[-1].body)["max_tokens"] == most


@pytest.mark.parametrize("path", ["embeddings", "responses"])
def test_endpoints_that_claude_lacks(house: ClaudeHouse, client: openai.OpenAI, path: str) -> None:
    asked: Any = client.embeddings if path == "embeddings" else client.responses
    with pytest.raises(openai.NotFoundError) as caught:
        asked.create(model="smart", input="Hi")
    assert caught.value.code == "endpoint_not_supported"
    assert not house.claude.received
