"""A provider of chats for clients of Anthropic's: its calls and responses."""

import dataclasses
import gzip
import json
from typing import Any

import pytest

from proxy.core.errors import ClientError, ResponseBroken
from proxy.providers import PROVIDERS
from proxy.providers.anthropic.messages_provider import MessagesProvider
from proxy.providers.base import HeaderList, OutboundRequest, ResponseTransform, Target, Translation
from proxy.providers.body import scan
from proxy.providers.openai import OpenAIProvider
from tests.support.provider_dialects import LINES, call, out, refused, sent, target
from tests.unit.providers.anthropic.golden import cases

MESSAGES = (
    '{"model":"alias","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"top_k":5,'
    '"temperature":0.5}'
)
CHAT = {
    "model": "gpt",
    "messages": [{"role": "user", "content": "Hi"}],
    "max_completion_tokens": 9,
    "temperature": 0.5,
}
PATH = "/v1/messages"


def at(kind: str, base_url: str = "https://h", model: str | None = "gpt", **more: Any) -> Target:
    found = target(kind, base_url, model, serve_messages="translate", **more)
    return dataclasses.replace(found, from_messages=True)


OPENAI = at("openai")


# Calls.


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("openai", "https://h/v1/chat/completions"),
        ("custom", "https://h/v1/chat/completions"),
        ("azure", "https://h/openai/v1/chat/completions"),
        ("gemini", "https://h/v1beta/openai/chat/completions"),
        ("ollama", "https://h/v1/chat/completions"),
    ],
)
def test_a_message_is_a_chat_at_each_kind(kind: str, url: str) -> None:
    prepared = call(at(kind), PATH + "?beta=true", MESSAGES)
    assert prepared.url == url
    found = json.loads(sent(prepared))
    if kind == "ollama":
        found["max_completion_tokens"] = found.pop("max_tokens")
    assert found == CHAT
    assert prepared.dropped == ("top_k",)
    assert prepared.translation is not None
    assert prepared.translation.streams is False
    assert prepared.translation.error_status(b'{"error":{"code":"overloaded"}}') == 503


def test_a_deployment_of_a_dated_azure() -> None:
    prepared = call(at("azure", api_version="2024-10-21"), PATH, MESSAGES)
    assert (
        prepared.url == "https://h/openai/deployments/gpt/chat/completions?api-version=2024-10-21"
    )
    assert [value for name, value in prepared.request.headers if name == "api-key"] == ["sk-up"]


def test_headers() -> None:
    lines = [
        *LINES,
        ("X-Api-Key", "client"),
        ("Authorization", "Bearer client"),
        ("X-Stainless-Lang", "python"),
        ("Anthropic-Version", "2023-06-01"),
        ("ANTHROPIC-BETA", "a,b"),
        ("anthropic-dangerous-direct-browser-access", "true"),
        ("X-App", "cli"),
    ]
    prepared = call(OPENAI, PATH, MESSAGES, headers=lines)
    assert prepared.request.headers == [
        ("Host", "h"),
        ("Accept", "*/*"),
        ("User-Agent", "OpenAI/Python 2.1.0"),
        ("X-App", "cli"),
        ("Accept-Encoding", "identity"),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(sent(prepared)))),
        ("Authorization", "Bearer sk-up"),
    ]


def test_a_stream_asks_for_its_usage() -> None:
    prepared = call(OPENAI, PATH, MESSAGES[:-1] + ',"stream":true}')
    assert prepared.translation is not None
    assert prepared.translation.streams
    found = json.loads(sent(prepared))
    assert (found["stream"], found["stream_options"]) == (True, {"include_usage": True})


def test_edits_of_a_mapping_are_in_the_dialect_of_its_provider() -> None:
    edits = {
        "max_completion_tokens": 77,
        "reasoning_effort": "low",
        "override": {"top_p": 0.9},
        "drop": ["stop"],
    }
    where = dataclasses.replace(
        target("openai", "https://h", "gpt", edits, serve_messages="translate"), from_messages=True
    )
    prepared = call(where, PATH, MESSAGES[:-1] + ',"top_p":0.1,"stop_sequences":["x"]}')
    found = json.loads(sent(prepared))
    assert (found["max_completion_tokens"], found["reasoning_effort"]) == (9, "low")
    assert found["top_p"] == 0.9
    assert "stop" not in found
    assert prepared.dropped == ("top_k", "stop")


def test_strict_parameters() -> None:
    assert refused(at("openai", params="strict"), PATH, MESSAGES) == ("invalid_request", "top_k")


def test_what_its_provider_of_chats_refuses() -> None:
    where = at("ollama", params="strict")
    body = json.loads(MESSAGES)
    del body["top_k"]
    body |= {"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "any"}}
    assert refused(where, PATH, json.dumps(body)) == ("invalid_request", "tool_choice")
    kept = call(at("ollama"), PATH, json.dumps(body))
    assert kept.dropped == ("tool_choice",)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages/count_tokens", MESSAGES),
        ("/v1/messages/batches", MESSAGES),
        ("/v1/chat/completions", MESSAGES),
        ("/v1/messages", None),
    ],
)
def test_other_endpoints(path: str, body: str | None) -> None:
    request = OutboundRequest("GET" if body is None else "POST", path.encode(), [], b"")
    with pytest.raises(ClientError) as caught:
        PROVIDERS[OPENAI.dialect].prepare(request, OPENAI, "k", scan(b"{}", "application/json"))
    assert caught.value.code == "endpoint_not_supported"


def refusal(path: str, body: str, where: Target = OPENAI, **more: Any) -> tuple[str, str | None]:
    data = body.encode()
    request = OutboundRequest("POST", path.encode(), [], data)
    with pytest.raises(ClientError) as caught:
        PROVIDERS[where.dialect].prepare(
            request, where, "k", scan(data, more.get("content_type", "application/json"))
        )
    return caught.value.code, caught.value.param


def test_what_is_no_object() -> None:
    assert refusal(PATH, "[]") == ("invalid_request", None)
    assert refusal(PATH, "") == ("invalid_request", None)


def test_no_model() -> None:
    assert refusal(PATH, '{"messages":[]}', at("openai", model=None)) == (
        "invalid_request",
        "model",
    )
    prepared = call(at("openai", model=None), PATH, MESSAGES)
    assert json.loads(sent(prepared))["model"] == "alias"


def test_a_parameter_that_the_model_refuses_is_left_out_for_an_hour() -> None:
    now = 0.0
    provider = MessagesProvider(OpenAIProvider(), lambda: now)
    body = json.loads(MESSAGES) | {"thinking": {"type": "adaptive"}}
    data = json.dumps(body).encode()
    request = OutboundRequest("POST", b"/v1/messages", [], data)

    def prepared() -> Any:
        return provider.prepare(request, OPENAI, "k", scan(data, "application/json"))

    first = prepared()
    refusal = {
        "message": "Unsupported value: 'temperature' does not support 0.5 with this model.",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": "unsupported_value",
    }
    assert first.translation.note_refusal(json.dumps({"error": refusal}).encode())
    second = prepared()
    assert "temperature" not in json.loads(second.request.body)
    assert second.dropped == ("top_k", "temperature")
    effort = {"error": {"message": "Function tools with reasoning_effort are not supported."}}
    assert second.translation.note_refusal(json.dumps(effort).encode())
    assert prepared().dropped == ("top_k", "thinking", "temperature")
    # What is not sent is not believed to be refused.
    assert not prepared().translation.note_refusal(json.dumps({"error": refusal}).encode())
    now = 3601.0
    assert prepared().dropped == ("top_k",)


# Responses.

JSON = ("Content-Type", "application/json")
SSE = ("Content-Type", "text/event-stream")


def transform(
    status: int, *headers: tuple[str, str], where: Target = OPENAI, streams: bool = False
) -> ResponseTransform:
    lines: HeaderList = [*headers, ("Content-Length", "9"), ("x-request-id", "req_1")]
    translation = Translation(include_usage=True, error_status=lambda _: 500, streams=streams)
    found = PROVIDERS[where.dialect].transform(where, PATH, status, lines, translation)
    assert found is not None
    names = {name.lower() for name, _ in found.headers}
    assert "content-length" not in names
    assert ("request-id", "req_1") in found.headers
    return found


def raw(chunks: list[Any]) -> bytes:
    frames = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([*frames, "data: [DONE]\n\n"]).encode()


def events(text: bytes) -> list[Any]:
    return [json.loads(line[6:]) for line in text.decode().split("\n") if line.startswith("data")]


@pytest.mark.parametrize("kind", ["openai", "gemini", "ollama"])
def test_a_completion(kind: str) -> None:
    case = cases("to_messages")["text-and-two-tools"]
    found = transform(200, JSON, where=at(kind))
    assert found.status in (None, 200)
    assert not found.body.at_event_boundary
    made = json.loads(out(found, json.dumps(case["completion"]).encode()))
    assert made == case["message"]


@pytest.mark.parametrize("kind", ["openai", "gemini", "ollama"])
def test_a_stream(kind: str) -> None:
    case = cases("to_messages_streams")["text-then-tool"]
    found = transform(200, SSE, where=at(kind), streams=True)
    assert found.status in (None, 200)
    assert found.body.at_event_boundary
    assert events(out(found, raw(case["chunks"]))) == case["events"]


def test_the_error_of_an_ollama_in_a_stream() -> None:
    found = transform(200, SSE, where=at("ollama"), streams=True)
    error = {"type": "api_error", "message": "out of memory"}
    (event,) = events(found.body.feed(b'data: {"error":"out of memory"}\n\n'))
    assert event["error"] == error


def test_a_whole_completion_where_a_stream_was_asked_for() -> None:
    case = cases("to_messages")["text-and-two-tools"]
    found = transform(200, JSON, streams=True)
    assert [value for name, value in found.headers if name == "Content-Type"] == [
        "text/event-stream; charset=utf-8"
    ]
    made = events(out(found, json.dumps(case["completion"]).encode()))
    assert [event["type"] for event in made[-2:]] == ["message_delta", "message_stop"]
    assert made[-2]["delta"]["stop_reason"] == "tool_use"
    blocks = [event["content_block"] for event in made if event["type"] == "content_block_start"]
    assert [block["type"] for block in blocks] == ["text", "tool_use", "tool_use"]
    assert [block.get("id") for block in blocks] == [None, "call_1", "call_2"]
    error = json.dumps({"error": {"message": "So.", "type": "server_error"}}).encode()
    (event,) = events(out(transform(200, JSON, streams=True), error))
    assert event["error"] == {"type": "api_error", "message": "So."}


def test_a_response_without_an_id_gets_one_of_its_own() -> None:
    completion = json.dumps({"choices": [{"message": {"content": "a"}}]}).encode()
    first, second = (json.loads(out(transform(200, JSON), completion)) for _ in range(2))
    assert first["id"].startswith("msg_")
    assert first["id"] != second["id"]
    assert first["model"] == "gpt"


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip"])
def test_compressed_responses(encoding: str) -> None:
    lines = [("Content-Encoding", encoding)]
    completion = json.dumps(cases("to_messages")["text"]["completion"]).encode()
    found = transform(200, JSON, *lines)
    assert b'"message"' in out(found, gzip.compress(completion))
    assert "content-encoding" not in {name.lower() for name, _ in found.headers}
    found = transform(200, SSE, *lines, streams=True)
    text = gzip.compress(raw(cases("to_messages_streams")["text"]["chunks"]))
    assert events(out(found, text))[-1] == {"type": "message_stop"}
    assert "content-encoding" not in {name.lower() for name, _ in found.headers}
    with pytest.raises(ResponseBroken):
        out(transform(200, JSON, *lines), b"no gzip at all")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (404, "not_found_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (529, "overloaded_error"),
    ],
)
def test_errors(status: int, kind: str) -> None:
    body = json.dumps({"error": {"type": "x", "message": "So.", "code": None}}).encode()
    found = transform(status, JSON, ("retry-after", "7"))
    assert found.status == status
    assert ("retry-after", "7") in found.headers
    error = {"type": kind, "message": "So."}
    assert json.loads(out(found, body)) == {"type": "error", "error": error}


def test_an_error_of_gemini() -> None:
    error = {"code": 400, "message": "Bad.", "status": "INVALID_ARGUMENT"}
    found = transform(400, JSON, where=at("gemini"))
    made = json.loads(out(found, json.dumps([{"error": error}]).encode()))
    assert made["error"] == {"type": "invalid_request_error", "message": "Bad."}


@pytest.mark.parametrize(
    ("status", "line", "shown"),
    [
        (200, ("Content-Type", "text/html"), 502),
        (403, ("Content-Type", "text/html"), 502),
        (429, ("Content-Type", "text/html"), 429),
        (500, SSE, 502),
    ],
)
def test_a_page_is_never_shown(status: int, line: tuple[str, str], shown: int) -> None:
    found = transform(status, line, ("Content-Encoding", "br"))
    assert found.status == shown
    assert [value for name, value in found.headers if name == "Content-Type"] == [JSON[1]]
    text = out(found, b"<html>secret</html>")
    assert b"secret" not in text
    assert json.loads(text)["type"] == "error"


@pytest.mark.parametrize("body", [b"{", b"[]", b"", b"{}"])
@pytest.mark.parametrize("streams", [True, False])
def test_a_completion_that_cannot_be_read_breaks_the_response(body: bytes, streams: bool) -> None:
    with pytest.raises(ResponseBroken):
        out(transform(200, JSON, streams=streams), body)
