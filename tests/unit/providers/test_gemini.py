"""Gemini: Google's errors and tool calls become OpenAI's; what OpenAI does not have stays."""

import json
from typing import Any

import pytest

from proxy.providers import PROVIDERS
from tests.support.provider_dialects import LINES, answered, call, refused, sent, target

GEMINI = target("gemini", "https://g/v1beta/openai/", "gemini-2.5-flash")


def test_a_chat_goes_out() -> None:
    body = '{"model":"g","seed":1,"messages":[{"tool_calls":[{"extra_content":{"google":{}}}]}]}'
    prepared = call(GEMINI, "/v1/chat/completions?x=%41", body)
    assert prepared.url == "https://g/v1beta/openai/chat/completions?x=%41"
    # What it lacks it refuses itself; a thought signature must come back to it.
    assert sent(prepared) == body.replace('"g"', '"gemini-2.5-flash"', 1)
    assert prepared.dropped == ()


def test_the_key_is_a_bearer_and_the_response_plain() -> None:
    lines = [*LINES, ("X-Goog-Api-Key", "client"), ("Authorization", "Bearer client")]
    assert call(GEMINI, "/v1/models", headers=lines).request.headers == [
        ("Host", "g"),
        *(line for line in LINES if line[0] != "Accept-Encoding"),
        ("Accept-Encoding", "identity"),
        ("Authorization", "Bearer sk-up"),
    ]


def test_what_is_not_below_v1() -> None:
    assert refused(GEMINI, "/v1beta/models") == ("endpoint_not_supported", None)


def error(code: int, status: str, message: str = "It is so.", **more: Any) -> str:
    return json.dumps([{"error": {"code": code, "message": message, "status": status, **more}}])


@pytest.mark.parametrize(
    ("status", "google", "kind", "code"),
    [
        (429, "RESOURCE_EXHAUSTED", "rate_limit_error", "rate_limit_exceeded"),
        (401, "UNAUTHENTICATED", "authentication_error", "invalid_api_key"),
        (403, "PERMISSION_DENIED", "permission_error", "permission_denied"),
        (400, "INVALID_ARGUMENT", "invalid_request_error", "invalid_argument"),
        (400, "FAILED_PRECONDITION", "invalid_request_error", "failed_precondition"),
        (404, "NOT_FOUND", "not_found_error", "model_not_found"),
        (503, "UNAVAILABLE", "server_error", "overloaded"),
        (500, "INTERNAL", "server_error", "internal"),
        (504, "DEADLINE_EXCEEDED", "server_error", "timeout"),
        (409, "ALREADY_EXISTS", "invalid_request_error", "already_exists"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/models"])
def test_errors(status: int, google: str, kind: str, code: str, path: str) -> None:
    wanted = f'{{"message":"It is so.","type":"{kind}","param":null,"code":"{code}"}}'
    for upstream in (error(status, google), error(status, google)[1:-1]):
        found = answered(GEMINI, upstream, path, status, step=3)
        assert found == f'{{"error":{wanted}}}'


def test_a_bad_key_with_status_400() -> None:
    upstream = error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.")
    found = json.loads(answered(GEMINI, upstream, status=400))["error"]
    assert (found["type"], found["code"]) == ("authentication_error", "invalid_api_key")


def test_details_stay() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"}]
    upstream = error(429, "RESOURCE_EXHAUSTED", details=details)
    assert json.loads(answered(GEMINI, upstream, status=429))["error"]["details"] == details


@pytest.mark.parametrize(
    "body", ["[]", "[1]", '{"error":"x"}', '{"error":{"message":"x","type":"t"}}', "[{", '"x"', ""]
)
def test_other_errors_pass(body: str) -> None:
    assert answered(GEMINI, body, status=500) == body


def test_an_error_in_a_stream() -> None:
    upstream = chunk({"content": "x"}) + f"data: {error(503, 'UNAVAILABLE')}\n\n"
    assert answered(GEMINI, upstream) == chunk({"content": "x"}) + (
        'data: {"error":{"message":"It is so.","type":"server_error","param":null,'
        '"code":"overloaded"}}\n\n'
    )


def chunk(
    delta: dict[str, Any], finish: str | None = None, choice: int = 0, end: str = "\n\n"
) -> str:
    found = {"index": choice, "delta": delta, "finish_reason": finish}
    return "data: " + json.dumps({"id": "c", "choices": [found], "created": 1}) + end


def piece(
    call_id: str | None, arguments: str, name: str | None = None, **more: Any
) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return ({"id": call_id} if call_id is not None else {}) | {"function": function} | more


def calls_of(stream: str) -> list[tuple[int, int, str | None, str, str | None]]:
    """Choice, index, id, arguments and the end of each piece of a tool call."""
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    return [
        (
            choice["index"],
            each["index"],
            each.get("id"),
            each["function"]["arguments"],
            choice["finish_reason"],
        )
        for event in events
        for choice in event["choices"]
        for each in choice["delta"].get("tool_calls", ())
    ]


@pytest.mark.parametrize("step", [0, 1, 11])
def test_tool_calls_are_numbered_by_id(step: int) -> None:
    """No index, arguments that are split, and `stop` at the end (open-webui/computer#224)."""
    upstream = (
        chunk({"role": "assistant", "tool_calls": [piece("a", '{"x"', "f")]})
        + chunk({"tool_calls": [piece("a", ":1}")]}, end="\r\n\r\n")
        + chunk({"tool_calls": [piece("b", "{}", "g"), piece("c", "{}", "g")]})
        + chunk({"tool_calls": [piece("b", "")]}, "stop")
        + "data: [DONE]\n\n"
    )
    found = answered(GEMINI, upstream, step=step)
    assert calls_of(found) == [
        (0, 0, "a", '{"x"', None),
        (0, 0, "a", ":1}", None),
        (0, 1, "b", "{}", None),
        (0, 2, "c", "{}", None),
        (0, 1, "b", "", "tool_calls"),
    ]
    assert found.endswith("data: [DONE]\n\n")
    assert found.count("\r\n\r\n") == 1


@pytest.mark.parametrize(
    ("pieces", "indexes"),
    [
        # Ids are empty or missing: a name begins a call, and what has none goes on.
        ([piece("", "{}", "f"), piece("", "{}", "g")], [0, 1]),
        ([piece(None, "{", "f"), piece(None, "}"), piece(None, "{}", "g")], [0, 0, 1]),
        # All calls have index 0.
        ([piece("a", "{}", "f", index=0), piece("b", "{}", "f", index=0)], [0, 1]),
        ([piece("a", "{", "f", index=0), piece("b", "{}", "f", index=0), piece(None, "}", index=0)],
         [0, 1, 1]),
        # As OpenAI does it.
        ([piece("a", "{", "f", index=0), piece(None, "}", index=0), piece("b", "", "f", index=1)],
         [0, 0, 1]),
        ([piece("a", "{", "f", index=None), piece("a", "}", index=None)], [0, 0]),
    ],
)  # fmt: skip
def test_numbers(pieces: list[dict[str, Any]], indexes: list[int]) -> None:
    upstream = "".join(chunk({"tool_calls": [each]}) for each in pieces)
    assert [index for _, index, *_ in calls_of(answered(GEMINI, upstream))] == indexes
    together = chunk({"tool_calls": pieces})
    assert [index for _, index, *_ in calls_of(answered(GEMINI, together))] == indexes


def test_each_choice_has_its_own_numbers() -> None:
    upstream = (
        chunk({"tool_calls": [piece("a", "{}", "f")]})
        + chunk({"tool_calls": [piece("b", "{}", "f")]}, choice=1)
        + chunk({"content": "x"}, "stop", choice=2)
    )
    found = answered(GEMINI, upstream)
    assert [each[:2] for each in calls_of(found)] == [(0, 0), (1, 0)]
    assert found.endswith(chunk({"content": "x"}, "stop", choice=2))


def test_a_numbered_stream_passes_byte_for_byte() -> None:
    upstream = (
        "event: x\nid: 1\n"
        + chunk({"tool_calls": [piece("a", "{}", "f", index=0)]})
        + chunk({"content": "é"}, "tool_calls")
        + "data: not json\n\n"
        + "data: [DONE]\n\n"
    )
    assert answered(GEMINI, upstream) == upstream


def test_unknown_members_stay() -> None:
    signed = piece("a", "{}", "f", extra_content={"google": {"thought_signature": "AbC=="}})
    found = answered(GEMINI, chunk({"tool_calls": [signed]}, "stop"))
    event = json.loads(found[6:])
    assert event == {
        "id": "c",
        "created": 1,
        "choices": [
            {
                "index": 0,
                "delta": {"tool_calls": [signed | {"index": 0}]},
                "finish_reason": "tool_calls",
            }
        ],
    }


def test_a_whole_response() -> None:
    upstream = {
        "model": "models/gemini-2.5-flash",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"tool_calls": [piece("a", "{}", "f", extra_content={"google": 1})]},
            }
        ],
    }
    found = json.loads(answered(GEMINI, json.dumps(upstream)))
    upstream["model"] = "gemini-2.5-flash"
    upstream["choices"][0]["finish_reason"] = "tool_calls"  # type: ignore[index]
    assert found == upstream
    plain = '{ "model":"g", "choices":[{"message":{"content":"x"},"finish_reason":"stop"}] }'
    assert answered(GEMINI, plain) == plain


MODELS = (
    '{"object": "list", "data": [{"id": "models/gemini-2.5-pro", "owned_by": "google",'
    ' "display": "\\"id\\": \\"models/x"}, {"id":"models/text-embed"}, {"id":"m/models/x"}]}'
)


def test_models_lose_their_prefix() -> None:
    found = answered(GEMINI, MODELS, "/v1/models", step=9)
    assert found == MODELS.replace('"models/g', '"g').replace('"models/text', '"text')
    one = answered(GEMINI, '{"id":"models/gemini-2.5-pro"}', "/v1/models/gemini-2.5-pro")
    assert one == '{"id":"gemini-2.5-pro"}'


@pytest.mark.parametrize(
    ("path", "status", "head"),
    [
        ("/v1/embeddings", 200, [("Content-Type", "application/json")]),
        ("/v1/chat/completions", 200, [("Content-Type", "text/html")]),
        ("/v1/chat/completions", 502, [("Content-Type", "text/html")]),
        ("/v1/chat/completions", 200,
         [("Content-Type", "application/json"), ("Content-Encoding", "gzip")]),
    ],
)  # fmt: skip
def test_what_passes(path: str, status: int, head: list[tuple[str, str]]) -> None:
    assert PROVIDERS["gemini"].transform(GEMINI, path, status, head) is None
