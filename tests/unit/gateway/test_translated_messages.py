"""A message of Anthropic's that a provider of chats serves, through the endpoint."""

import json
from typing import Any

import pytest

from tests.support.relay_factories import SSE, FakeResponse, Result, World
from tests.support.routed_requests import metered, post, routed_world
from tests.support.routing_records import provider

MESSAGE = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
USAGE = {
    "prompt_tokens": 103,
    "completion_tokens": 9,
    "total_tokens": 112,
    "prompt_tokens_details": {"cached_tokens": 100},
}
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 7,
    "model": "gpt",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello"},
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return f"data: {json.dumps({'id': 'chatcmpl-1', 'choices': choices, **more})}\n\n".encode()


START = chunk({"role": "assistant", "content": ""})
TEXT = chunk({"content": "Hello"})
END = chunk({}, "stop")
COUNTS = chunk(None, usage=USAGE)
DONE = b"data: [DONE]\n\n"


def world(response: FakeResponse) -> World:
    return routed_world(
        response, provider("a", "openai", max_retries=0, serve_messages="translate"), "gpt"
    )


def ask(
    made: World, body: dict[str, Any], path: str = "/v1/messages?beta=true", **headers: str
) -> Result:
    return post(made, path, body, **headers)


def test_a_message() -> None:
    made = world(FakeResponse([json.dumps(COMPLETION).encode()]))
    result = ask(made, {**MESSAGE, "top_k": 1}, anthropic_beta="a,b")
    assert result.code == 200
    message = json.loads(result.body)
    assert (message["type"], message["content"][0]["text"]) == ("message", "Hello")
    assert message["usage"] == {
        "input_tokens": 3,
        "cache_read_input_tokens": 100,
        "output_tokens": 9,
    }
    assert result.one("X-Proxy-Dropped-Params") == "top_k"
    assert result.one("Content-Type") == "application/json"
    assert not result.all("Content-Length")
    call = made.transport.calls[0].request
    assert call.target == b"/v1/chat/completions"
    assert not [name for name, _ in call.headers if name.lower().startswith("anthropic")]
    assert metered(made) == (103, 9, 100)


def test_a_stream() -> None:
    made = world(FakeResponse([START, TEXT + END, COUNTS + DONE], headers=SSE))
    result = ask(made, {**MESSAGE, "stream": True})
    assert result.error is None
    assert result.code == 200
    assert result.body.startswith(b"event: message_start\n")
    assert result.body.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert b"[DONE]" not in result.body
    sent = json.loads(made.transport.bodies[0])
    assert sent["stream_options"] == {"include_usage": True}
    assert metered(made) == (103, 9, 100)


def test_a_stream_that_ends_early() -> None:
    made = world(FakeResponse([START, TEXT], headers=SSE))
    result = ask(made, {**MESSAGE, "stream": True})
    assert b"Hello" in result.body
    assert b"message_stop" not in result.body
    assert made.event.outcome == "aborted"


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("status", "code", "shown", "kind"),
    [
        (503, "overloaded", 503, "overloaded_error"),
        (400, "invalid_request_error", 400, "invalid_request_error"),
        (500, None, 500, "api_error"),
    ],
)
def test_an_error_before_output_has_anthropics_shape(
    streamed: bool, status: int, code: str | None, shown: int, kind: str
) -> None:
    error = {"error": {"type": code or "server_error", "message": "So.", "code": code}}
    if streamed:
        frame = f"data: {json.dumps(error)}\n\n".encode()
        response = FakeResponse([START, frame], headers=SSE)
    else:
        response = FakeResponse([json.dumps(error).encode()], status=status, reason="Bad")
    made = world(response)
    result = ask(made, {**MESSAGE, "stream": streamed})
    assert result.code == shown
    found = json.loads(result.body)
    assert (found["type"], found["error"]) == ("error", {"type": kind, "message": "So."})
    assert result.one("Content-Type") == "application/json"


def test_an_error_behind_output_is_an_event() -> None:
    error = b'data: {"error":{"type":"server_error","message":"So."}}\n\n'
    made = world(FakeResponse([START, TEXT, error], headers=SSE))
    result = ask(made, {**MESSAGE, "stream": True})
    last = result.body.decode().split("\n\n")[-2]
    assert last.startswith("event: error\n")
    assert json.loads(last.partition("data: ")[2])["error"]["message"] == "So."
    assert b"message_stop" not in result.body


def test_tokens_are_not_counted() -> None:
    result = ask(world(FakeResponse()), MESSAGE, "/v1/messages/count_tokens")
    assert result.code == 404
    found = json.loads(result.body)
    assert (found["type"], found["error"]["type"]) == ("error", "not_found_error")
    assert found["error"]["code"] == "endpoint_not_supported"


def test_what_is_refused_is_named() -> None:
    upload = {"type": "container_upload", "file_id": "f"}
    body = {**MESSAGE, "messages": [{"role": "user", "content": [upload]}]}
    result = ask(world(FakeResponse()), body)
    assert result.code == 400
    found = json.loads(result.body)["error"]
    assert (found["type"], found["param"]) == ("invalid_request_error", "messages[0].content[0]")


def test_a_chat_of_the_same_provider_is_relayed() -> None:
    text = json.dumps(COMPLETION).encode()
    result = ask(world(FakeResponse([text])), MESSAGE, "/v1/chat/completions")
    assert result.body == text
