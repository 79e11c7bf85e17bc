"""Anthropic's own clients through the real server: the official SDK, and bytes as they are sent."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import gevent
import pytest
import requests

from tests.support.claude_house import CLAUDE_KEYS, ClaudeHouse, claude_house, named
from tests.support.fake_upstream import Upstream
from tests.support.mock_anthropic import COUNTED, THOUGHT, USAGE
from tests.support.mock_provider import error_event, silence, status
from tests.support.wait import wait_until

ASK: dict[str, Any] = {
    "model": "smart",
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
COUNTS = {
    "prompt_tokens": 29,
    "completion_tokens": 12,
    "total_tokens": 41,
    "cached_tokens": 16,
    "cache_write_tokens": 4,
}


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream
) -> Iterator[ClaudeHouse]:
    settings = {"REVOCATION_INTERVAL": "0.2", "ALLOW_PRIVATE_UPSTREAMS": "on"}
    folder = tmp_path_factory.mktemp("claude")
    with claude_house(folder, session_upstream.url, **settings) as house:
        yield house


@pytest.fixture
def house(made: ClaudeHouse) -> ClaudeHouse:
    made.fresh()
    return made


@pytest.fixture
def client(house: ClaudeHouse) -> Iterator[anthropic.Anthropic]:
    with house.anthropic() as client:
        yield client


def body_of(**changes: Any) -> bytes:
    return json.dumps({**ASK, **changes}).encode()


def counts(event: dict[str, Any]) -> dict[str, Any]:
    return {name: event["metadata"].get(name) for name in COUNTS}


def code_of(error: anthropic.APIStatusError) -> str:
    body: Any = error.body
    assert set(body) == {"type", "error", "request_id"}, body
    return str(body["error"]["code"])


# What passes.


@pytest.mark.parametrize("place", ["api_key", "auth_token"])
def test_a_message(house: ClaudeHouse, place: str) -> None:
    with house.anthropic(**{place: house.token}) as client:
        response = client.messages.with_raw_response.create(**ASK, **named(f"message-{place}"))
    message = response.parse()
    assert message.content[0].text == TEXT
    assert message.usage.model_dump(exclude_none=True) == USAGE
    assert message._request_id == "req_mock"
    assert response.headers["x-proxy-provider"] == "claude"
    assert response.headers["anthropic-ratelimit-requests-remaining"] == "49"
    (sent,) = house.claude.received
    assert json.loads(sent.body) == {**ASK, "model": "claude-large"}
    assert sent.values("x-api-key") == [CLAUDE_KEYS[0]]
    assert sent.values("authorization") == []
    assert house.token not in repr(sent)
    event = house.event(f"message-{place}")
    assert counts(event) == COUNTS
    assert (event["endpoint"], event["status_code"]) == ("/v1/messages", 200)
    assert (event["provider"], event["usage_source"]) == ("claude", "reported")


def test_a_stream(house: ClaudeHouse, client: anthropic.Anthropic) -> None:
    with client.messages.stream(**ASK, **named("streamed")) as stream:
        assert "".join(stream.text_stream) == TEXT
        message = stream.get_final_message()
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == 12
    event = house.event("streamed")
    assert (event["stream"], event["outcome"]) == (True, "completed")
    assert counts(event) == COUNTS


def test_every_event_arrives_as_it_was_sent(house: ClaudeHouse) -> None:
    body = body_of(stream=True, thinking=THINKING)
    key = {"x-api-key": CLAUDE_KEYS[0], "anthropic-version": "2023-06-01"}
    direct = requests.post(
        f"{house.claude.url}/v1/messages",
        data=body.replace(b'"smart"', b'"claude-large"'),
        headers=key,
        timeout=30,
    )
    assert house.post("/v1/messages", body).content == direct.content
    assert direct.content.endswith(b'data: {"type": "message_stop"}\n\n')


def test_tools(house: ClaudeHouse, client: anthropic.Anthropic) -> None:
    for streamed in (False, True):
        asked = {**ASK, "tools": [TOOL]}
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
            {"role": "user", "content": [result]},
        ]
        final = client.messages.create(**{**asked, "messages": turns})
        assert final.content[0].text == TEXT


def test_signed_thoughts_come_back(house: ClaudeHouse, client: anthropic.Anthropic) -> None:
    with client.messages.stream(**ASK, thinking=THINKING) as stream:
        message = stream.get_final_message()
    thought, _ = message.content
    assert (thought.thinking, thought.signature) == (THOUGHT, house.claude.signature)
    turns = [
        *ASK["messages"],
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": "Go on."},
    ]
    client.messages.create(**{**ASK, "messages": turns}, thinking=THINKING)
    sent = json.loads(house.claude.received[-1].body)
    assert sent["messages"][1]["content"][0]["signature"] == house.claude.signature


def test_models(house: ClaudeHouse, client: anthropic.Anthropic) -> None:
    listed = [model.id for model in client.models.list()]
    assert "smart" in listed
    assert "claude/claude-small" in listed
    assert client.models.retrieve("moving-9").display_name == "moving-9"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("no-such-model")


def test_counting_tokens_costs_none(house: ClaudeHouse) -> None:
    limited = house.mint(max_tokens_total=100_000)
    with house.anthropic(limited) as client:
        counted = client.messages.count_tokens(
            model="smart", messages=ASK["messages"], **named("counted")
        )
    assert counted.input_tokens == COUNTED
    (sent,) = house.claude.received
    assert sent.target == "/v1/messages/count_tokens"
    assert json.loads(sent.body)["model"] == "claude-large"
    event = house.event("counted")
    assert (event["usage_source"], event["metadata"].get("total_tokens")) == ("none", None)


def test_bytes_of_the_body_and_betas_stay(house: ClaudeHouse) -> None:
    body = (
        b'{ "max_tokens":9 , "model" : "smart" , "messages":[{"role":"user",'
        b'"content":"caf\\u00e9 caf\xc3\xa9"}],"temperature":1.0,"x":1e2 }'
    )
    found = house.post(
        "/v1/messages?beta=true",
        body,
        anthropic_version="2026-10-21",
        anthropic_beta="interleaved-thinking-2025-05-14,claude-code-20250219",
        X_App="cli",
    )
    assert found.status_code == 200, found.text
    (sent,) = house.claude.received
    assert sent.target == "/v1/messages?beta=true"
    assert sent.body == body.replace(b'"smart"', b'"claude-large"')
    assert sent.values("anthropic-version") == ["2026-10-21"]
    assert sent.values("anthropic-beta") == ["interleaved-thinking-2025-05-14,claude-code-20250219"]
    assert sent.values("x-app") == ["cli"]
    assert sent.values("x-api-key") == [CLAUDE_KEYS[0]]


# What fails upstream.


@pytest.mark.parametrize(
    ("code", "raised", "kind"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (413, anthropic.RequestTooLargeError, "request_too_large"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (529, anthropic.OverloadedError, "overloaded_error"),
    ],
)
def test_errors_of_anthropic_are_its_own(
    house: ClaudeHouse,
    client: anthropic.Anthropic,
    code: int,
    raised: type[anthropic.APIStatusError],
    kind: str,
) -> None:
    house.claude.for_model(f"m-{code}", status(code))
    with pytest.raises(raised) as caught:
        client.messages.create(**{**ASK, "model": f"claude/m-{code}"})
    assert caught.value.status_code == code
    assert caught.value.body == house.claude.error(code)
    assert caught.value.type == kind


def test_a_key_at_its_limit_gives_way_to_the_next(
    house: ClaudeHouse, client: anthropic.Anthropic
) -> None:
    house.claude.for_key(CLAUDE_KEYS[0], status(429, retry_after=30))
    asked = {**ASK, "model": "claude/at-its-limit"}
    response = client.messages.with_raw_response.create(**asked)
    assert response.headers["x-proxy-attempts"] == "2"
    assert house.claude.keys_used == list(CLAUDE_KEYS)
    first, second = house.claude.received
    assert first.body == second.body


def test_a_dead_key_is_no_dead_access_token(
    house: ClaudeHouse, client: anthropic.Anthropic
) -> None:
    with pytest.raises(anthropic.InternalServerError) as caught:
        client.messages.create(**{**ASK, "model": "dead"})
    assert caught.value.status_code == 502
    assert code_of(caught.value) == "upstream_auth_failed"
    assert caught.value.type == "api_error"


def test_an_error_before_the_first_output_is_never_seen(
    house: ClaudeHouse, client: anthropic.Anthropic
) -> None:
    house.claude.next(error_event(529))
    with client.messages.stream(**{**ASK, "model": "claude/late"}) as stream:
        assert "".join(stream.text_stream) == TEXT
    assert len(house.claude.received) == 2


def test_an_error_after_output_passes(house: ClaudeHouse, client: anthropic.Anthropic) -> None:
    house.claude.next(error_event(529, after=1))
    words = []
    with (
        pytest.raises(anthropic.APIStatusError) as caught,
        client.messages.stream(**{**ASK, "model": "claude/later"}) as stream,
    ):
        words += stream.text_stream
    assert caught.value.body == house.claude.error(529)
    assert len(house.claude.received) == 1


def test_another_provider_only_where_it_is_allowed(
    house: ClaudeHouse, client: anthropic.Anthropic
) -> None:
    house.claude.always(status(529))
    with pytest.raises(anthropic.OverloadedError):
        client.messages.create(**{**ASK, "model": "staying-1"})
    assert not house.eu.received
    response = client.messages.with_raw_response.create(**{**ASK, "model": "moving-1"})
    assert response.headers["x-proxy-provider"] == "eu"


def test_thoughts_do_not_go_to_another_provider(
    house: ClaudeHouse, client: anthropic.Anthropic
) -> None:
    message = client.messages.create(**{**ASK, "model": "moving-2"}, thinking=THINKING)
    house.claude.always(status(529))
    turns = [
        *ASK["messages"],
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": "Go on."},
    ]
    asked = {**ASK, "model": "moving-2", "messages": turns, "thinking": THINKING}
    assert client.messages.create(**asked).content[-1].text == TEXT
    assert house.claude.signature in house.claude.received[-1].body.decode()
    (sent,) = house.eu.received
    assert house.claude.signature not in sent.body.decode()
    assert json.loads(sent.body)["messages"][1]["content"] == [{"type": "text", "text": TEXT}]


# What the proxy refuses.


def test_refusals_raise_the_usual_exceptions(house: ClaudeHouse) -> None:
    with house.anthropic("sk-" + "A" * 22) as stranger:
        with pytest.raises(anthropic.AuthenticationError) as unknown:
            stranger.messages.create(**ASK)
        assert code_of(unknown.value) == "token_not_found"
        assert unknown.value.type == "authentication_error"
        assert unknown.value.request_id == unknown.value.response.headers["x-proxy-request-id"]
    with house.anthropic() as client:
        for model in ("openai/gpt-4", "steady-1"):
            house.fresh()
            if model == "steady-1":  # of its two targets, one has the endpoint
                assert client.messages.create(**{**ASK, "model": model}).content[0].text == TEXT
                continue
            with pytest.raises(anthropic.NotFoundError) as caught:
                client.messages.create(**{**ASK, "model": model})
            assert code_of(caught.value) == "endpoint_not_supported"
            assert caught.value.type == "not_found_error"
        assert not house.openai.received
        with pytest.raises(anthropic.NotFoundError) as nameless:
            client.messages.create(**{**ASK, "model": "no-such-model"})
        assert code_of(nameless.value) == "model_not_found"


@pytest.mark.parametrize(
    ("rule", "allowed", "refused", "code"),
    [
        ({"allowed_models": ["smart"]}, {}, {"model": "moving-1"}, "model_not_allowed"),
        (
            {"allowed_params": {"max_tokens": ["2000"], "system": [], "tools": []}},
            {"metadata": {"user_id": "u"}},
            {"max_tokens": 2001},
            "param_not_allowed",
        ),
        ({"allowed_params": {"system": []}}, {}, {"system": "Be kind."}, "param_not_allowed"),
        ({"allowed_params": {"tools": []}}, {}, {"tools": [TOOL]}, "param_not_allowed"),
        (
            {"allowed_params": {"metadata": []}},
            {"system": "Be kind."},
            {"metadata": {"user_id": "u"}},
            "param_not_allowed",
        ),
    ],
)
def test_rules_hold(
    house: ClaudeHouse,
    rule: dict[str, Any],
    allowed: dict[str, Any],
    refused: dict[str, Any],
    code: str,
) -> None:
    with house.anthropic(house.mint(**rule)) as client:
        client.messages.create(**{**ASK, **allowed})
        with pytest.raises((anthropic.PermissionDeniedError, anthropic.BadRequestError)) as caught:
            client.messages.create(**{**ASK, **refused})
        assert code_of(caught.value) == code
        if "allowed_models" in rule:
            with pytest.raises(anthropic.PermissionDeniedError):
                client.messages.count_tokens(model="moving-1", messages=ASK["messages"])


def test_the_rule_about_endpoints(house: ClaudeHouse) -> None:
    with house.anthropic(house.mint(allowed_endpoints=["/v1/messages"])) as client:
        client.messages.create(**ASK)
        with pytest.raises(anthropic.NotFoundError) as caught:
            client.messages.count_tokens(model="smart", messages=ASK["messages"])
        assert code_of(caught.value) == "endpoint_not_found"


def test_tokens_count(house: ClaudeHouse) -> None:
    minted = house.proxy.mint(house.project_id, max_tokens_total=60)

    def used() -> int:
        return int(house.proxy.manage("GET", f"/tokens/{minted['id']}").json()["tokens_used"])

    with house.anthropic(minted["token"]) as client:
        client.messages.count_tokens(model="smart", messages=ASK["messages"])
        client.messages.create(**ASK)
        wait_until(lambda: used() == COUNTS["total_tokens"])
        with client.messages.stream(**ASK) as stream:
            stream.get_final_message()
        wait_until(lambda: used() == 2 * COUNTS["total_tokens"])
        with pytest.raises(anthropic.RateLimitError) as caught:
            client.messages.create(**ASK)
        assert code_of(caught.value) == "quota_exceeded"
        assert caught.value.type == "rate_limit_error"


def test_asking_for_usage_leaves_messages_alone(house: ClaudeHouse) -> None:
    project = house.make("projects", {"name": "asks", "providers": ["*"], "stream_usage": "inject"})
    token = house.proxy.mint(project["id"])["token"]
    body = body_of(stream=True)
    found = house.post("/v1/messages", body, x_api_key=token)
    assert found.status_code == 200
    assert house.claude.received[-1].body == body.replace(b'"smart"', b'"claude-large"')
    assert found.content.endswith(b'data: {"type": "message_stop"}\n\n')


def test_a_stream_that_is_cut_says_why(house: ClaudeHouse) -> None:
    minted = house.proxy.mint(house.project_id)
    house.claude.next(silence(after=1))
    with house.anthropic(minted["token"]) as client:
        stream = client.messages.create(**ASK, stream=True, **named("cut"))
        for event in stream:
            if event.type == "content_block_delta":
                break
        revoking = gevent.spawn(house.proxy.manage, "DELETE", f"/tokens/{minted['id']}")
        with pytest.raises(anthropic.APIStatusError) as caught:
            list(stream)
        revoking.join()
    assert code_of(caught.value) == "token_inactive"
    body: Any = caught.value.body
    assert body["error"]["type"] == "authentication_error"
    assert house.event("cut")["error_code"] == "token_inactive"


# A project with a key of its own.


def test_a_projects_own_key_is_relayed(house: ClaudeHouse) -> None:
    own = {"name": "own", "api_key": CLAUDE_KEYS[1], "base_url": house.claude.base_url}
    token = house.proxy.mint(house.make("projects", own)["id"])["token"]
    body = body_of(model="claude-own")
    with house.anthropic(token) as client:
        assert client.messages.create(**{**ASK, "model": "claude-own"}).content[0].text == TEXT
        house.claude.next(status(529))
        with pytest.raises(anthropic.OverloadedError) as overloaded:
            client.messages.create(**ASK)
        assert overloaded.value.body == house.claude.error(529)
    found = house.post("/v1/messages?beta=true", body, x_api_key=token, anthropic_version="x-1")
    assert found.status_code == 200
    sent = house.claude.received[-1]
    assert (sent.target, sent.body) == ("/v1/messages?beta=true", body)
    assert sent.values("anthropic-version") == ["x-1"]
    assert house.claude.keys_used == [CLAUDE_KEYS[1]] * 3
    with house.anthropic("sk-" + "B" * 22) as client:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            client.messages.create(**ASK)
        assert code_of(refused.value) == "token_not_found"
