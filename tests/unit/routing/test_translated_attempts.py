"""Translated attempts: what a client of OpenAI's gets when Anthropic fails, early or late."""

import json
from typing import Any

import pytest

from proxy.core.errors import ResponseBroken
from proxy.gateway.body_transform import TransformedBody
from proxy.providers.anthropic.provider import AnthropicProvider
from proxy.providers.base import OutboundRequest
from proxy.providers.body import scan
from proxy.routing.attempt_loop import Routed
from tests.support.attempts import (
    EVENTS,
    ScriptedResponse,
    World,
    stream,
)
from tests.support.routing_records import catalog, key, mapping, provider

BODY = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"Hi"}]}'


def frame(kind: str, **event: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **event})}\n\n".encode()


START = frame("message_start", message={"id": "msg_1", "model": "claude", "usage": {}})
BLOCK = frame("content_block_start", index=0, content_block={"type": "text", "text": ""})
STOP = frame("message_delta", delta={"stop_reason": "end_turn"}) + frame("message_stop")


def text(words: str) -> bytes:
    delta = {"type": "text_delta", "text": words}
    return BLOCK + frame("content_block_delta", index=0, delta=delta)


def error(kind: str) -> bytes:
    return frame("error", error={"type": kind, "message": "So it is."})


def failing(status: int, kind: str, **headers: str) -> ScriptedResponse:
    lines = [("Content-Type", "application/json")]
    lines += [(name.replace("_", "-"), value) for name, value in headers.items()]
    body = json.dumps({"type": "error", "error": {"type": kind, "message": "So it is."}})
    return ScriptedResponse(status, lines, body.encode())


def world(*names: str, **config: Any) -> World:
    rows: list[Any] = []
    for index, name in enumerate(names):
        rows += [provider(name, **config), key(name, "1"), mapping("m", f"{name}/claude", index)]
    made = World(catalog(*rows))
    made.kind = AnthropicProvider()
    return made


def run(made: World) -> Routed:
    request = OutboundRequest("POST", b"/v1/chat/completions", [], BODY)
    body = scan(BODY, "application/json")
    return made.run(streams=True, request=request, body=body)


class Nobody:
    """Observes nothing."""

    def feed(self, chunk: bytes) -> None: ...

    def steps(self, chunk: bytes) -> Any: ...

    def finish(self, complete: bool) -> None: ...


def received(routed: Routed) -> tuple[int, str, bool]:
    """The status, the body, and whether it came to its end, as the client gets them."""
    transform = routed.transform
    assert transform is not None
    status = routed.response.status if transform.status is None else transform.status
    source = TransformedBody(routed.response, transform.body, Nobody())
    chunks = []
    try:
        while not source.complete and (chunk := source.read()):
            chunks.append(chunk)
    except ResponseBroken:
        return status, b"".join(chunks).decode(), False
    return status, b"".join(chunks).decode(), True


def test_an_overload_before_output_falls_back_and_leaves_nothing() -> None:
    made = world("a", "b", max_retries=0)
    made.script["a"] = [stream(START, error("overloaded_error"))]
    made.script["b"] = [stream(START, text("Hi"), STOP)]
    status, body, complete = received(run(made))
    assert (status, complete) == (200, True)
    assert body.count('"role":"assistant"') == 1
    assert "error" not in body
    assert body.endswith("data: [DONE]\n\n")
    assert made.reasons() == ["stream_error", None]


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("overloaded_error", 503, "overloaded"),
        ("api_error", 502, "api_error"),
        ("rate_limit_error", 429, "rate_limit_error"),
        ("invalid_request_error", 400, "invalid_request_error"),
        ("not_found_error", 404, "model_not_found"),
    ],
)
def test_a_lone_target_reports_an_error_before_output_as_a_status(
    kind: str, status: int, code: str
) -> None:
    made = world("a", max_retries=0)
    made.script["a"] = [stream(START, error(kind))]
    routed = run(made)
    found, body, complete = received(routed)
    assert (found, complete) == (status, True)
    assert json.loads(body)["error"]["code"] == code
    assert routed.transform is not None
    assert ("Content-Type", "application/json") in routed.transform.headers
    assert EVENTS not in routed.transform.headers


def test_an_overload_as_a_status_is_a_503_with_its_wait() -> None:
    made = world("a", max_retries=0)
    made.script["a"] = [failing(529, "overloaded_error", retry_after="9")]
    routed = run(made)
    status, body, _ = received(routed)
    assert (status, json.loads(body)["error"]["code"]) == (503, "overloaded")
    assert routed.transform is not None
    assert ("retry-after", "9") in routed.transform.headers


def test_an_error_behind_output_ends_the_response_without_a_fallback() -> None:
    made = world("a", "b", max_retries=0)
    made.script["a"] = [stream(START, text("Hi"), error("overloaded_error"))]
    made.script["b"] = [stream(START, text("never"), STOP)]
    status, body, complete = received(run(made))
    assert (status, complete) == (200, False)
    assert body.split("\n\n")[-2].startswith('data: {"error":')
    assert "never" not in body
    assert "[DONE]" not in body


@pytest.mark.parametrize("last", [[text("Hi")], [text("Hi"), b""]])
def test_a_stream_that_ends_early_breaks_off(last: list[bytes]) -> None:
    made = world("a", max_retries=0)
    made.script["a"] = [stream(START, *last)]
    _, body, complete = received(run(made))
    assert '"content":"Hi"' in body
    assert not complete
    assert "[DONE]" not in body


def test_signed_thinking_goes_to_the_first_provider_alone() -> None:
    signed = {"type": "thinking", "thinking": "Hm", "signature": "s"}
    turn = {"role": "assistant", "content": "Hi", "thinking_blocks": [signed]}
    data = json.dumps({"model": "m", "messages": [turn]}).encode()
    made = world("a", "b", max_retries=1)
    made.script["a"] = [failing(500, "api_error"), failing(500, "api_error")]
    made.script["b"] = [failing(500, "api_error"), failing(500, "api_error")]
    request = OutboundRequest("POST", b"/v1/chat/completions", [], data)
    made.run(request=request, body=scan(data, "application/json"))
    assert [b'"signature"' in each.body for each in made.requests] == [True, True, False, False]  # type: ignore[operator]


def test_a_parameter_that_the_model_refuses_is_left_out_once_and_remembered() -> None:
    data = b'{"model":"m","temperature":0.2,"messages":[{"role":"user","content":"Hi"}]}'
    made = world("a", max_retries=0)
    refusal = json.dumps(
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "`temperature` is deprecated for this model.",
            },
        }
    ).encode()
    json_line = [("Content-Type", "application/json")]
    message = ScriptedResponse(200, json_line, b'{"content":[]}')
    made.script["a"] = [ScriptedResponse(400, json_line, refusal), message, message]
    for sent in ([True, False], [False]):
        made.requests.clear()
        request = OutboundRequest("POST", b"/v1/chat/completions", [], data)
        routed = made.run(request=request, body=scan(data, "application/json"))
        assert routed.response.status == 200
        assert routed.dropped == ("temperature",)
        assert [b'"temperature"' in each.body for each in made.requests] == sent  # type: ignore[operator]
        assert made.reasons() == [None]
    assert made.responses[0].closed
