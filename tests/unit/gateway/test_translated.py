"""A chat of OpenAI's that Anthropic serves, through the endpoint: what each side sees."""

import json
from typing import Any

import pytest

from tests.support.relay_factories import SSE, FakeResponse, Result, World
from tests.support.routed_requests import metered, post, routed_world
from tests.support.routing_records import provider

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
USAGE = {"input_tokens": 3, "cache_read_input_tokens": 100, "output_tokens": 5}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "usage": USAGE,
}


def frame(kind: str, **event: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **event})}\n\n".encode()


START = frame("message_start", message={**MESSAGE, "content": []})
TEXT = frame("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"})
END = frame("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 9})
STOP = frame("message_stop")


def world(response: FakeResponse) -> World:
    return routed_world(response, provider("a", "anthropic", max_retries=0), "claude-x")


def ask(
    made: World, body: dict[str, Any], path: str = "/v1/chat/completions", **headers: str
) -> Result:
    return post(made, path, body, **headers)


def test_a_message() -> None:
    made = world(FakeResponse([json.dumps(MESSAGE).encode()]))
    result = ask(made, {**CHAT, "seed": 1})
    assert result.code == 200
    assert json.loads(result.body)["choices"][0]["message"]["content"] == "Hello"
    assert result.one("X-Proxy-Dropped-Params") == "seed"
    assert result.one("Content-Type") == "application/json"
    assert not result.all("Content-Length")
    assert made.transport.calls[0].request.target == b"/v1/messages"
    assert metered(made) == (103, 5, 100)


def test_a_stream() -> None:
    made = world(FakeResponse([START, TEXT + END, STOP], headers=SSE))
    result = ask(made, {**CHAT, "stream": True})
    assert result.error is None
    assert result.code == 200
    assert result.body.endswith(b"data: [DONE]\n\n")
    assert b'"usage"' not in result.body
    assert metered(made) == (103, 9, 100)


def test_a_stream_that_ends_early() -> None:
    made = world(FakeResponse([START, TEXT, END], headers=SSE))
    result = ask(made, {**CHAT, "stream": True})
    assert isinstance(result.error, ConnectionResetError)
    assert b'"content":"Hello"' in result.body
    assert b"[DONE]" not in result.body
    assert made.event.outcome == "aborted"


@pytest.mark.parametrize("streamed", [True, False])
def test_an_overload_is_a_503(streamed: bool) -> None:
    error = {"error": {"type": "overloaded_error", "message": "So."}}
    if streamed:
        response = FakeResponse([START, frame("error", **error)], headers=SSE)
    else:
        text = json.dumps({"type": "error", **error}).encode()
        response = FakeResponse([text], status=529, reason="Overloaded")
    made = world(response)
    result = ask(made, {**CHAT, "stream": streamed})
    assert result.status == "503 Service Unavailable"
    assert json.loads(result.body)["error"]["code"] == "overloaded"
    assert result.one("Content-Type") == "application/json"
    # The attempt whose stream began may be billed, so it is an event of its own.
    assert [event.status_code for event in made.events] == ([200, 503] if streamed else [503])


def test_a_native_message_passes_as_it_is() -> None:
    text = json.dumps(MESSAGE).encode()
    made = world(FakeResponse([text]))
    result = ask(made, CHAT, "/v1/messages?beta=true", anthropic_beta="a,b")
    assert result.body == text
    call = made.transport.calls[0].request
    assert call.target == b"/v1/messages?beta=true"
    assert made.transport.bodies == [json.dumps({**CHAT, "model": "claude-x"}).encode()]
    sent = {name.lower(): value for name, value in call.headers}
    assert (sent["anthropic-beta"], sent["x-api-key"]) == ("a,b", "secret-1")
    assert "authorization" not in sent
    assert metered(made) == (103, 5, 100)


def test_embeddings_are_not_supported() -> None:
    result = ask(world(FakeResponse()), {"model": "m", "input": "x"}, "/v1/embeddings")
    assert result.code == 404
    assert json.loads(result.body)["error"]["code"] == "endpoint_not_supported"
