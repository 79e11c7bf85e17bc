"""The provider: which calls go out, how the key goes, and how responses come back."""

import dataclasses
import gzip
import json
from typing import Any

import pytest

from proxy.core.errors import ResponseBroken
from proxy.providers import PROVIDERS
from proxy.providers.anthropic.provider import MAX_REQUEST_BYTES
from proxy.providers.anthropic.translated import MAX_MESSAGE_BYTES
from proxy.providers.base import (
    HeaderList,
    ModelFacts,
    OutboundRequest,
    ResponseTransform,
    Target,
    Translation,
)
from proxy.providers.body import scan
from tests.support.provider_dialects import LINES, call, out, refused, sent, target
from tests.unit.providers.anthropic.golden import cases, raw

CLAUDE = target("anthropic", "https://h/", "claude-x")
CHAT = '{"model":"alias","messages":[{"role":"user","content":"Hi"}]}'
MESSAGES = '{ "model" : "alias", "max_tokens":5, "messages":[{"role":"user","content":"Hé"}] }'


def headers_of(prepared: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in prepared.request.headers}


# Calls.


def test_a_chat_is_translated() -> None:
    prepared = call(CLAUDE, "/v1/chat/completions?api-version=1", CHAT)
    assert prepared.url == "https://h/v1/messages"
    assert prepared.request.target == b"/v1/messages"
    assert json.loads(sent(prepared)) == {
        "model": "claude-x",
        "max_tokens": 8192,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }
    assert prepared.translation is not None
    assert prepared.translation.include_usage is False
    assert prepared.translation.error_status(b'{"error":{"type":"overloaded_error"}}') == 529


def test_what_is_known_of_the_model_counts() -> None:
    known = dataclasses.replace(CLAUDE, facts=ModelFacts(500, frozenset({"low"}), frozenset()))
    prepared = call(known, body=CHAT[:-1] + ',"reasoning_effort":"low"}')
    body = json.loads(sent(prepared))
    assert (body["max_tokens"], body["output_config"]) == (500, {"effort": "low"})
    assert prepared.dropped == ()


def test_the_request_to_report_usage_is_remembered() -> None:
    asking = CHAT[:-1] + ',"stream":true,"stream_options":{"include_usage":true}}'
    prepared = call(CLAUDE, body=asking)
    assert prepared.translation is not None
    assert prepared.translation.include_usage
    assert json.loads(sent(prepared))["stream"] is True


def test_headers_of_a_translated_call() -> None:
    lines = [
        *LINES,
        ("X-Api-Key", "client"),
        ("Authorization", "Bearer client"),
        ("Openai-Beta", "x"),
        ("Openai-Organization", "x"),
        ("X-Stainless-Lang", "python"),
        ("Anthropic-Version", "2026-10-21"),
        ("Anthropic-Beta", "a,b"),
    ]
    prepared = call(CLAUDE, body=CHAT, headers=lines)
    assert prepared.request.headers == [
        ("Host", "h"),
        ("Accept", "*/*"),
        ("User-Agent", "OpenAI/Python 2.1.0"),
        ("Anthropic-Beta", "a,b"),
        ("Anthropic-Version", "2023-06-01"),
        ("Accept-Encoding", "identity"),
        ("X-Api-Key", "sk-up"),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(sent(prepared)))),
    ]


def test_the_version_of_the_configuration() -> None:
    where = target("anthropic", "https://h", "claude-x", anthropic_version="2025-01-01")
    assert headers_of(call(where, body=CHAT))["anthropic-version"] == "2025-01-01"
    assert headers_of(call(where, "/v1/messages", MESSAGES))["anthropic-version"] == "2025-01-01"


def test_a_token_of_oauth_is_a_bearer() -> None:
    found = headers_of(call(CLAUDE, body=CHAT, key="sk-ant-oat01-x"))
    assert found["authorization"] == "Bearer sk-ant-oat01-x"
    assert "x-api-key" not in found


@pytest.mark.parametrize("path", ["/v1/messages?beta=true", "/v1/messages/count_tokens?beta=true"])
def test_native_calls_keep_their_bytes(path: str) -> None:
    lines = [
        *LINES,
        ("X-Api-Key", "client"),
        ("Anthropic-Version", "2026-10-21"),
        ("Anthropic-Beta", "a-1,b-2"),
        ("X-Stainless-Lang", "python"),
    ]
    prepared = call(CLAUDE, path, MESSAGES, headers=lines)
    assert prepared.url == f"https://h{path}"
    assert sent(prepared) == MESSAGES.replace('"alias"', '"claude-x"')
    assert prepared.translation is None
    assert prepared.request.headers == [
        ("Host", "h"),
        *LINES,
        ("Anthropic-Version", "2026-10-21"),
        ("Anthropic-Beta", "a-1,b-2"),
        ("X-Stainless-Lang", "python"),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(sent(prepared).encode()))),
        ("X-Api-Key", "sk-up"),
    ]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models?limit=1000", "/v1/models/claude-x"])
def test_models(path: str) -> None:
    prepared = call(CLAUDE, path)
    assert prepared.url == f"https://h{path}"
    assert headers_of(prepared)["anthropic-version"] == "2023-06-01"
    assert headers_of(prepared)["x-api-key"] == "sk-up"
    assert prepared.translation is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", CHAT),
        ("/v1/completions", CHAT),
        ("/v1/responses", CHAT),
        ("/v1/models", CHAT),
        ("/v1/chat/completions", None),
        ("/v1/messages", None),
        ("/v1/messages/batches", CHAT),
        ("/v1/modelsx", None),
        ("/other", None),
    ],
)
def test_what_it_does_not_have(path: str, body: str | None) -> None:
    assert refused(CLAUDE, path, body) == ("endpoint_not_supported", None)


@pytest.mark.parametrize("body", ["[]", ""])
def test_a_chat_must_be_an_object(body: str) -> None:
    assert refused(CLAUDE, body=body) == ("invalid_request", None)
    form = '--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n'
    code = refused(CLAUDE, body=form, content_type="multipart/form-data; boundary=x")
    assert code == ("invalid_request", None)


def test_a_chat_without_a_model() -> None:
    assert refused(target("anthropic"), body='{"messages":[]}') == ("invalid_request", "model")


def test_the_model_of_the_client_where_the_target_has_none() -> None:
    assert json.loads(sent(call(target("anthropic"), body=CHAT)))["model"] == "alias"


def test_a_body_beyond_what_it_takes() -> None:
    body = CHAT.replace("Hi", "x" * MAX_REQUEST_BYTES)
    assert refused(CLAUDE, body=body) == ("request_too_large", None)


def test_edits_of_a_mapping() -> None:
    edits = {"temperature": 0.5, "max_tokens": 77, "override": {"top_p": 0.9}, "drop": ["stop"]}
    where = target("anthropic", "https://h", "claude-x", edits)
    prepared = call(where, body=CHAT[:-1] + ',"stop":"x","top_p":0.1,"seed":1}')
    found = json.loads(sent(prepared))
    assert (found["temperature"], found["max_tokens"], found["top_p"]) == (0.5, 77, 0.9)
    assert "stop_sequences" not in found
    assert prepared.dropped == ("stop", "seed")


def test_strict_parameters() -> None:
    where = target("anthropic", "https://h", "claude-x", params="strict")
    assert refused(where, body=CHAT[:-1] + ',"seed":1}') == ("invalid_request", "seed")


def test_thinking_that_another_provider_signed_is_left_out() -> None:
    chat = json.dumps(
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": "Hi",
                    "thinking_blocks": [{"type": "thinking", "thinking": "Hm", "signature": "s"}],
                },
                {"role": "user", "content": "And?"},
            ]
        }
    )
    foreign = dataclasses.replace(CLAUDE, foreign=True)
    assert '"signature"' in sent(call(CLAUDE, body=chat))
    assert '"signature"' not in sent(call(foreign, body=chat))


def test_the_decoded_request_is_made_once() -> None:
    data = CHAT.encode()
    body = scan(data, "application/json")
    assert body is not None
    request = OutboundRequest("POST", b"/v1/chat/completions", [], data)
    provider = PROVIDERS["anthropic"]
    first = provider.prepare(request, CLAUDE, "k", body)
    document = body.document()
    assert document == json.loads(CHAT)
    assert provider.prepare(request, CLAUDE, "k", body).request == first.request
    assert body.document() is document
    assert document == json.loads(CHAT)


# Responses.

TRANSLATION = Translation(include_usage=True, error_status=lambda data: 500)
JSON = ("Content-Type", "application/json")


def transform(status: int, *headers: tuple[str, str], where: Target = CLAUDE) -> ResponseTransform:
    lines: HeaderList = [*headers, ("Content-Length", "9"), ("request-id", "req_1")]
    found = PROVIDERS["anthropic"].transform(
        where, "/v1/chat/completions", status, lines, TRANSLATION
    )
    assert found is not None
    names = {name.lower() for name, _ in found.headers}
    assert "content-length" not in names
    assert ("x-request-id", "req_1") in found.headers
    return found


@pytest.mark.parametrize("status", [200, 400, 529])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/models"])
def test_native_responses_pass(path: str, status: int) -> None:
    assert PROVIDERS["anthropic"].transform(CLAUDE, path, status, [JSON], None) is None


def test_a_message() -> None:
    case = cases("responses")["tool-use-without-text"]
    found = transform(200, JSON)
    assert found.status in (None, 200)
    assert not found.body.at_event_boundary
    made = json.loads(out(found, json.dumps(case["message"]).encode()))
    assert made["created"] > 1_700_000_000
    assert {**made, "created": 7} == case["completion"]


def test_a_stream() -> None:
    case = cases("streams")["usage-when-asked"]
    found = transform(200, ("Content-Type", "text/event-stream; charset=utf-8"))
    assert found.status is None
    assert found.body.at_event_boundary
    text = out(found, raw(case["events"])).decode()
    assert text.endswith("data: [DONE]\n\n")
    assert '"cached_tokens":2455' in text


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip"])
def test_compressed_responses(encoding: str) -> None:
    lines = [("Content-Encoding", encoding)]
    message = json.dumps(cases("responses")["text"]["message"]).encode()
    found = transform(200, JSON, *lines)
    assert b'"chat.completion"' in out(found, gzip.compress(message))
    events = raw(cases("streams")["text"]["events"])
    found = transform(200, ("Content-Type", "text/event-stream"), *lines)
    assert out(found, gzip.compress(events)).endswith(b"data: [DONE]\n\n")
    for each in (found,):
        assert "content-encoding" not in {name.lower() for name, _ in each.headers}
    with pytest.raises(ResponseBroken):
        out(transform(200, JSON, *lines), b"no gzip at all")


@pytest.mark.parametrize(
    ("status", "kind", "shown", "code"),
    [
        (400, "invalid_request_error", 400, "invalid_request_error"),
        (404, "not_found_error", 404, "model_not_found"),
        (429, "rate_limit_error", 429, "rate_limit_error"),
        (529, "overloaded_error", 503, "overloaded"),
    ],
)
def test_errors(status: int, kind: str, shown: int, code: str) -> None:
    body = json.dumps({"type": "error", "error": {"type": kind, "message": "So."}}).encode()
    found = transform(status, JSON, ("retry-after", "7"))
    assert found.status == shown
    assert ("retry-after", "7") in found.headers
    assert json.loads(out(found, body))["error"]["code"] == code


@pytest.mark.parametrize(
    ("status", "line", "shown"),
    [
        (200, ("Content-Type", "text/html"), 502),
        (403, ("Content-Type", "text/html"), 502),
        (429, ("Content-Type", "text/html"), 429),
        (520, ("Content-Type", "text/html"), 502),
        (500, ("Content-Type", "text/event-stream"), 502),
    ],
)
def test_a_page_is_never_shown(status: int, line: tuple[str, str], shown: int) -> None:
    found = transform(status, line, ("Content-Encoding", "br"))
    assert found.status == shown
    assert [value for name, value in found.headers if name == "Content-Type"] == [JSON[1]]
    text = out(found, b"<html>secret</html>")
    assert b"secret" not in text
    assert json.loads(text)["error"]["code"] == "upstream_broken"


@pytest.mark.parametrize("body", [b"{", b"[]", b""])
def test_a_message_that_cannot_be_read_breaks_the_response(body: bytes) -> None:
    with pytest.raises(ResponseBroken):
        out(transform(200, JSON), body)


def test_an_error_with_status_200() -> None:
    body = b'{"type":"error","error":{"type":"api_error","message":"So."}}'
    assert json.loads(out(transform(200, JSON), body))["error"]["message"] == "So."


def test_a_message_beyond_any_size_breaks_the_response() -> None:
    with pytest.raises(ResponseBroken, match="too large"):
        transform(200, JSON).body.feed(bytes(MAX_MESSAGE_BYTES + 1))
