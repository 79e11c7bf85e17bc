"""Requests under a limit of LLM tokens: read strictly, asked for their usage, else estimated."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from proxy.core.errors import QuotaExceeded, UpstreamError
from proxy.gateway.inflight import ShuttingDown
from proxy.gateway.limited_request import MAX_HELD_OUTPUT_TOKENS, LimitedRequest
from proxy.gateway.response_stream import Outcome
from proxy.policy.accounts import Account
from proxy.policy.policy import Policy
from proxy.providers.base import OutboundRequest
from tests.support.limiter_factories import Limited
from tests.support.relay_factories import PRINCIPAL, SSE, Access, FakeResponse, World, sized
from tests.support.sse_streams import LATE_CHUNK, chat_chunk, sse

ACCOUNTS = {
    "max_tokens_total": Account(kind="token", id="token-1", max_tokens_total=1000),
    "rate_limit_tpm": Account(kind="token", id="token-1", rate_limit_tpm=1000),
    "a project's": Account(kind="project", id="project-1", rate_limit_tpm=1000),
}
CHAT = b'{"model":"m","messages":[{"role":"user","content":"12345678"}]%b}'
STREAM = CHAT % b',"stream":true'
ASKING = CHAT % b',"stream":true,"stream_options":{"include_usage":true}'
ASKED = [sse(chat_chunk(b"One")), sse(chat_chunk(b"two")), sse(LATE_CHUNK), sse(b"[DONE]")]
PLAIN = [sse(chat_chunk(b"One", None)), sse(chat_chunk(b"two", None)), sse(b"[DONE]")]
SILENT = [orjson.dumps({"choices": [{"message": {"content": "1234567890"}}]})]


def world(response: Any, whose: str = "max_tokens_total", **policy: Any) -> World:
    principal = replace(PRINCIPAL, policy=Policy(**policy), accounts=(ACCOUNTS[whose],))
    return World(response, access=Access(principal=principal))


def chat(it: World, body: bytes = STREAM, path: str = "/v1/chat/completions", **more: Any) -> Any:
    return it.ask("POST", path, **sized(body), **more)


@pytest.mark.parametrize("whose", ACCOUNTS)
def test_a_stream_is_asked_for_its_usage(whose: str) -> None:
    it = world(FakeResponse(ASKED, headers=SSE), whose)
    result = chat(it)
    assert it.transport.bodies == [ASKING]
    assert result.chunks == [b"", *PLAIN]
    assert (it.event.usage_source, it.event.metadata["total_tokens"]) == ("reported", 29)
    assert it.access.settled == [29]


@pytest.mark.parametrize(
    ("members", "asks"),
    [
        (b',"stream":true,"stream_options":null', None),
        (b',"stream":true,"stream_options":{}', None),
        (b',"stream":true,"stream_options":{"include_usage":false}', None),
        (b',"stream":true,"stream_options":{"include_us\\u0061ge":null}', None),
        (b',"stream_opti\\u006fns":{},"stream":true', None),
        (b',"str\\u0065am":true', None),
        (b',"stream":true,"metadata":[' + b"[]," * 40_000 + b"1]", None),
        (b',"stream":true,"stream_options":{"include_usage":true}', False),
        (b',"stream":false', False),
        (b',"stream":null,"stream_options":null', False),
        (b"", False),
    ],
)
def test_whatever_it_looks_like(members: bytes, asks: bool | None) -> None:
    body = CHAT % members
    outbound = OutboundRequest("POST", b"/v1/chat/completions", [], body)
    made = LimitedRequest("chat/completions", outbound, orjson.loads(body)).usage_request
    if asks is False:
        assert made is None
    else:
        assert made is not None
        assert isinstance(made.body, bytes)
        sent = orjson.loads(made.body)
        assert sent["stream_options"] == {"include_usage": True}
        assert {**sent, "stream_options": 1} == {**orjson.loads(body), "stream_options": 1}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        (b',"stream":true,"stream":true', "stream"),
        (b',"stream":false,"str\\u0065am":true', "stream"),
        (b',"stream":1', "stream"),
        (b',"stream":"true"', "stream"),
        (b',"Stream":true', "Stream"),
        (b',"stream":true,"stream_options":{},"stream_options":{}', "stream_options"),
        (b',"stream":true,"stream_options":[]', "stream_options"),
        (b',"stream":true,"stream_options":{"include_usage":0}', "stream_options"),
        (b',"stream":true,"stream_options":{"Include_usage":true}', "stream_options"),
        (
            b',"stream":true,"stream_options":{"include_usage":true,"include_usage":false}',
            "stream_options",
        ),
        (
            b',"stream":true,"stream_options":{"include_usage":true,"include_us\\u0061ge":false}',
            "stream_options",
        ),
        (b',"stream":true,"stream_options":{},"metadata":[' + b"[]," * 40_000 + b"1]", None),
        (b',"max_tokens":1,"max_tokens":9', "max_tokens"),
    ],
)
@pytest.mark.parametrize("policy", [{}, {"reads": frozenset({"model"})}])
def test_what_two_readers_could_read_otherwise_is_refused(
    members: bytes, param: str | None, policy: dict[str, Any]
) -> None:
    it = world(FakeResponse(), **policy)
    it.endpoint._options = replace(it.endpoint._options, json_bytes=1 << 20, request_bytes=1 << 20)
    result = chat(it, CHAT % members)
    assert result.code == 400
    assert orjson.loads(result.body)["error"]["param"] == (param or "stream_options")
    assert it.transport.calls == []
    assert it.access.settled == []


def test_a_body_that_is_not_called_json_is_read_as_well() -> None:
    it = world(FakeResponse(ASKED, headers=SSE))
    it.ask("POST", "/v1/Chat//completions/", **sized(STREAM, headers=[]))
    assert it.transport.bodies == [ASKING]


def test_without_such_a_limit_nothing_is_read() -> None:
    it = World(FakeResponse(SILENT))
    chat(it, CHAT % b',"stream":1,"stream":2')
    assert it.event.usage_source == "none"
    assert it.access.settled == [0]


@pytest.mark.parametrize(
    ("path", "body", "estimated"),
    [
        ("/v1/chat/completions", CHAT % b"", (2, 3)),
        ("/v1/completions", b'{"prompt":"12345"}', (2, 3)),
        ("/v1/messages", CHAT % b"", (2, 3)),
        ("/v1/responses", b'{"input":"1234"}', (1, 3)),
        ("/v1/embeddings", b'{"input":"1234"}', (1, 3)),
    ],
)
def test_what_reports_nothing_is_charged_an_estimate(
    path: str, body: bytes, estimated: tuple[int, int]
) -> None:
    it = world(FakeResponse(SILENT))
    chat(it, body, path)
    event = orjson.loads(it.event.line())
    assert (event["usage_source"], event["estimate_method"]) == ("estimated", "bytes")
    found = event["metadata"]
    assert (found["estimated_prompt_tokens"], found["estimated_completion_tokens"]) == estimated
    assert "prompt_tokens" not in found
    assert it.access.settled == [sum(estimated)]


def test_a_stream_that_ignores_what_it_is_asked() -> None:
    it = world(FakeResponse(PLAIN, headers=SSE))
    assert chat(it).chunks == [b"", *PLAIN]
    assert it.access.settled == [2 + 2]
    assert it.event.usage_source == "estimated"


def test_a_client_that_leaves_pays_for_what_has_come() -> None:
    it = world(FakeResponse(PLAIN, headers=SSE))
    chat(it, stop_after=1)
    assert (it.event.outcome, it.access.settled) == (Outcome.CLIENT_GONE, [2 + 1])


BEGUN = b'{"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":1}}}'
DELTA = b'{"type":"content_block_delta","delta":{"type":"text_delta","text":"%b"}}'


@pytest.mark.parametrize(("text", "charged"), [(b"x" * 400, 2 + 100), (b"x", 9 + 1)])
def test_a_client_that_leaves_before_the_last_count(text: bytes, charged: int) -> None:
    it = world(FakeResponse([sse(BEGUN), sse(DELTA % text), sse(b"more")], headers=SSE))
    chat(it, path="/v1/messages", stop_after=2)
    assert it.event.usage_source == "partial"
    assert "estimated_prompt_tokens" not in it.event.metadata
    assert it.access.settled == [charged]


@pytest.mark.parametrize(
    ("response", "path"),
    [
        (FakeResponse(SILENT, status=400), "/v1/chat/completions"),
        (FakeResponse(SILENT), "/v1/images/generations"),
        (
            FakeResponse([b'{"usage":{"prompt_tokens":0,"completion_tokens":0}}']),
            "/v1/chat/completions",
        ),
    ],
)
def test_others_cost_what_they_report(response: FakeResponse, path: str) -> None:
    it = world(response)
    chat(it, CHAT % b"", path)
    assert it.event.usage_source != "estimated"
    assert "estimate_method" not in orjson.loads(it.event.line())
    assert it.access.settled == [0]


@pytest.mark.parametrize(
    ("endpoint", "members", "output"),
    [
        ("chat/completions", b"", MAX_HELD_OUTPUT_TOKENS),
        ("chat/completions", b',"max_tokens":7', 7),
        ("chat/completions", b',"max_tokens":7,"max_completion_tokens":9', 9),
        ("responses", b',"max_output_tokens":11', 11),
        ("chat/completions", b',"max_tokens":1000000', MAX_HELD_OUTPUT_TOKENS),
        ("chat/completions", b',"max_tokens":"7"', MAX_HELD_OUTPUT_TOKENS),
        ("chat/completions", b',"max_tokens":7,"n":3', 21),
        ("completions", b',"max_tokens":7,"n":1,"best_of":2', 14),
        ("chat/completions", b',"max_tokens":0,"n":-1', 0),
        ("embeddings", b"", 0),
    ],
)
def test_what_it_holds_in_advance(endpoint: str, members: bytes, output: int) -> None:
    body = CHAT % members
    made = LimitedRequest(endpoint, OutboundRequest("POST", b"", [], body), orjson.loads(body))
    assert (made.prompt_tokens, made.held) == (2, 2 + output)


@pytest.mark.parametrize("way", ["refused", "unreachable", "broken", "defect", "cut", "completed"])
def test_what_was_held_is_released_on_every_path(way: str) -> None:
    responses: dict[str, Any] = {
        "unreachable": lambda: UpstreamError(code="upstream_unreachable"),
        "broken": FakeResponse([b"{", UpstreamError()]),
        "defect": lambda: ZeroDivisionError(),
        "cut": FakeResponse([b"{", ShuttingDown()]),
    }
    limited = Limited()
    principal = replace(PRINCIPAL, accounts=(ACCOUNTS["rate_limit_tpm"],))
    quota = QuotaExceeded() if way == "refused" else None
    access = Access(principal=principal, quota=quota)
    it = World(responses.get(way) or FakeResponse(SILENT), access=access, limited=limited)
    chat(it, CHAT % b"")
    (level,) = limited.near.levels.values()
    charged = sum(access.settled)
    assert level == 1000 - charged
    assert (charged > 0) is (way in ("broken", "cut", "completed"))
    if way != "refused":
        assert access.held == []
