"""The official `anthropic` client with models of OpenAI's, through the real server."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest

from tests.support.claude_house import ClaudeHouse, claude_house, named
from tests.support.fake_upstream import Upstream
from tests.support.mock_anthropic import THOUGHT
from tests.support.mock_provider import cut, error_event, status

ASK: dict[str, Any] = {
    "model": "talking-1",
    "max_tokens": 2000,
    "messages": [{"role": "user", "content": "Hi"}],
}
TOOL: dict[str, Any] = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
THINKING = {"type": "enabled", "budget_tokens": 1024}
TEXT = "One two three."


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream
) -> Iterator[ClaudeHouse]:
    with claude_house(tmp_path_factory.mktemp("chats"), session_upstream.url) as house:
        yield house


@pytest.fixture
def house(made: ClaudeHouse) -> ClaudeHouse:
    made.fresh()
    return made


@pytest.fixture
def client(house: ClaudeHouse) -> Iterator[anthropic.Anthropic]:
    with house.anthropic() as client:
        yield client


def asking(model: str, **more: Any) -> dict[str, Any]:
    return {**ASK, "model": model, **more}


def counts(event: dict[str, Any]) -> tuple[Any, ...]:
    metadata = event["metadata"]
    return tuple(metadata[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens"))


def test_a_message(house: ClaudeHouse, client: anthropic.Anthropic) -> None:
    asked = asking("talking-1", system="Be kind.", metadata={"user_id": "u1"})
    response = client.messages.with_raw_response.create(
        **asked,
        extra_headers={"X-Request-ID": "message", "anthropic-beta": "a,b"},
        extra_query={"beta": "true"},
        extra_body={"top_k": 5},
    )
    message = response.parse()
    assert message.content[0].text == TEXT
    assert (message.stop_reason, message.model) == ("end_turn", "gpt-1")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (9, 3)
    assert message._request_id == "req_mock"
    assert response.headers["x-proxy-provider"] == "gpt"
    assert response.headers["x-proxy-dropped-params"] == "top_k"
    (sent,) = house.gpt.received
    assert sent.target == "/v1/chat/completions"
    assert json.loads(sent.body) == {
        "model": "gpt-1",
        "messages": [{"role": "system", "content": "Be kind."}, *ASK["messages"]],
        "max_completion_tokens": 2000,
        "user": "u1",
    }
    assert sent.values("authorization") == ["Bearer sk-upstream-6"]
    names = {name.lower() for name, _ in sent.headers}
    assert not {name for name in names if name.startswith(("anthropic-", "x-stainless-"))}
    assert "x-api-key" not in names
    assert house.token not in repr(sent)
    event = house.event("message")
    assert (event["endpoint"], event["status_code"]) == ("/v1/messages", 200)
    assert (event["provider"], event["usage_source"]) == ("gpt", "reported")
    assert counts(event) == (9, 3, 12)


def test_a_stream(house: ClaudeHouse, client: anthropic.Anthropic) -> None:
    with client.messages.stream(**ASK, **named("streamed")) as stream:
        assert list(stream.text_stream) == ["One ", "two ", "three."]
        message = stream.get_final_message()
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (9, 3)
    event = house.event("streamed")
    assert (event["stream"], event["outcome"]) == (True, "completed")
    assert counts(event) == (9, 3, 12)


@pytest.mark.parametrize("streamed", [False, True])
def test_tools(house: ClaudeHouse, client: anthropic.Anthropic, streamed: bool) -> None:
    asked = asking("talking-1", tools=[TOOL])
    if streamed:
        with client.messages.stream(**asked) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**asked)
    assert message.stop_reason == "tool_use"
    (call,) = message.content
    assert (call.name, call.input) == ("weather", {"city": "Oslo"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Rain."}
    turns = [
        *ASK["messages"],
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result, {"type": "text", "text": "And?"}]},
    ]
    client.messages.create(**{**asked, "messages": turns})
    _, called, answer, question = json.loads(house.gpt.received[-1].body)["messages"]
    assert json.loads(called["tool_calls"][0]["function"]["arguments"]) == {"city": "Oslo"}
    assert (answer["tool_call_id"], answer["content"]) == (call.id, "Rain.")
    assert called["tool_calls"][0]["id"] == call.id
    assert question == {"role": "user", "content": "And?"}


@pytest.mark.parametrize(
    ("code", "raised", "kind"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
    ],
)
def test_errors_before_the_response(
    house: ClaudeHouse,
    client: anthropic.Anthropic,
    code: int,
    raised: type[anthropic.APIStatusError],
    kind: str,
) -> None:
    for stream in (False, True):
        model = f"bad-{code}-{stream}"
        house.gpt.for_model(model, status(code))
        with pytest.raises(raised) as caught:
            client.messages.create(**asking(f"gpt/{model}"), stream=stream)
        assert caught.value.status_code == code
        assert caught.value.type == kind
        assert "mock openai" in str(caught.value)


def test_an_error_before_the_first_output_is_never_seen(
    house: ClaudeHouse, client: anthropic.Anthropic
) -> None:
    house.gpt.next(error_event(503))
    with client.messages.stream(**asking("gpt/late")) as stream:
        assert "".join(stream.text_stream) == TEXT
    assert len(house.gpt.received) == 2


def test_an_error_after_output(house: ClaudeHouse, client: anthropic.Anthropic) -> None:
    house.gpt.next(error_event(503, after=1))
    words: list[str] = []
    with (
        pytest.raises(anthropic.APIStatusError, match="mock openai") as caught,
        client.messages.stream(**asking("gpt/later")) as stream,
    ):
        words.extend(stream.text_stream)
    assert words == ["One "]
    assert caught.value.type == "api_error"
    assert len(house.gpt.received) == 1


def test_a_stream_that_is_cut_never_looks_complete(
    house: ClaudeHouse, client: anthropic.Anthropic
) -> None:
    house.gpt.next(cut(after=2))
    kinds: list[str] = []
    with (
        pytest.raises(httpx2.RemoteProtocolError),
        client.messages.create(**asking("gpt/cut"), stream=True) as events,
    ):
        kinds.extend(event.type for event in events)
    assert "message_stop" not in kinds
    assert kinds.count("content_block_delta") == 2


def test_what_cannot_be_translated_is_refused(
    house: ClaudeHouse, client: anthropic.Anthropic
) -> None:
    source = {"type": "file", "file_id": "file_1"}
    turn = {"role": "user", "content": [{"type": "image", "source": source}]}
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**{**ASK, "messages": [turn]})
    error: Any = caught.value.body
    assert error["error"]["param"] == "messages[0].content[0].source"
    assert not house.gpt.received


def test_tokens_are_not_counted(house: ClaudeHouse, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.count_tokens(model="talking-1", messages=ASK["messages"])
    error: Any = caught.value.body
    assert error["error"]["code"] == "endpoint_not_supported"
    assert not house.gpt.received


# Between a provider of messages and one of chats.


@pytest.mark.parametrize("failure", [status(529), error_event(529)])
def test_from_claude_to_a_chat(
    house: ClaudeHouse, client: anthropic.Anthropic, failure: Any
) -> None:
    message = client.messages.create(**asking("wide-1"), thinking=THINKING)
    assert message.content[0].thinking == THOUGHT
    turns = [
        *ASK["messages"],
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": "Go on."},
    ]
    house.claude.always(failure)
    model = f"wide-{id(failure)}"
    with client.messages.stream(**asking(model, messages=turns), thinking=THINKING) as stream:
        assert "".join(stream.text_stream) == TEXT
        assert stream.response.headers["x-proxy-provider"] == "gpt"
    (sent,) = house.gpt.received
    body = json.loads(sent.body)
    assert body["reasoning_effort"] == "high"
    assert body["messages"][1] == {"role": "assistant", "content": TEXT}


@pytest.mark.parametrize("failure", [status(503), error_event(503)])
def test_from_a_chat_to_claude(
    house: ClaudeHouse, client: anthropic.Anthropic, failure: Any
) -> None:
    house.gpt.always(failure)
    unsigned = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    turns = [
        *ASK["messages"],
        {"role": "assistant", "content": [unsigned, {"type": "text", "text": "Well."}]},
        {"role": "user", "content": "Go on."},
    ]
    with client.messages.stream(**asking(f"narrow-{id(failure)}", messages=turns)) as stream:
        assert "".join(stream.text_stream) == TEXT
        assert stream.response.headers["x-proxy-provider"] == "claude"
    (sent,) = house.claude.received
    content = json.loads(sent.body)["messages"][1]["content"]
    assert content == [{"type": "text", "text": "Well."}]
