"""Which bodies are complete and say so; all others are not stored."""

import gzip
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.completeness import Rejection, body_verdict
from tests.support.complete_responses import (
    CALL_DELTAS,
    EVENTS,
    JSON,
    STREAMED,
    TEXT_BLOCK,
    THOUGHT_BLOCK,
    TOOL_BLOCK,
    WHOLE,
    Complete,
    call,
    chat,
    choice,
    chunks,
    dumped,
    events,
    message,
    message_events,
    output_message,
    response,
    response_of,
)
from tests.support.sse_streams import STREAMS, named, sse

CHATS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
ENCODED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": gzip.compress,
    "X-GZIP": gzip.compress,
    "deflate": zlib.compress,
}


def verdict(sample: Complete, encoding: str = "", status: int = 200) -> Rejection | None:
    return body_verdict(status, sample.content_type, encoding, sample.path, sample.body)


def of_json(path: str, body: bytes) -> Rejection | None:
    return body_verdict(200, JSON, "", path, body)


def of_stream(path: str, body: bytes) -> Rejection | None:
    return body_verdict(200, EVENTS, "", path, body)


SAMPLES = [
    *(pytest.param(sample, id=name) for name, sample in WHOLE.items()),
    *(pytest.param(sample, id=f"stream: {name}") for name, sample in STREAMED.items()),
]


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("sample", SAMPLES)
def test_complete_responses_are_stored(sample: Complete, encoding: str) -> None:
    body = ENCODED[encoding](sample.body)
    assert verdict(sample._replace(body=body), encoding) is None


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_cut_response_is_never_complete(sample: Complete) -> None:
    kept = [
        length
        for length in range(len(sample.body))
        if verdict(sample._replace(body=sample.body[:length])) is None
    ]
    assert not kept


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("sample", [WHOLE["chat"], STREAMED["chat"], STREAMED["message"]])
def test_a_cut_compression_is_never_complete(sample: Complete, encoding: str) -> None:
    body = ENCODED[encoding](sample.body)
    kept = [
        length
        for length in range(len(body))
        if verdict(sample._replace(body=body[:length]), encoding) is None
    ]
    assert not kept


@pytest.mark.parametrize("sample", SAMPLES)
def test_another_dialect_is_not_complete(sample: Complete) -> None:
    """A stream in place of a body, or of another endpoint."""
    other = EVENTS if sample.content_type == JSON else JSON
    assert verdict(sample._replace(content_type=other)) is not None


@given(st.sampled_from([*WHOLE.values(), *STREAMED.values()]), st.binary(), st.integers(0, 10**6))
def test_no_body_raises(sample: Complete, noise: bytes, place: int) -> None:
    at = place % (len(sample.body) + 1)
    body = sample.body[:at] + noise + sample.body[at + len(noise) :]
    verdict(sample._replace(body=body))
    verdict(sample._replace(body=noise), "gzip")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "delta",
                    "output",
                    "content",
                    "type",
                    "tool_calls",
                    "function",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(st.sampled_from([CHATS, RESPONSES, MESSAGES, "/v1/embeddings", "/v1/files"]), VALUES)
def test_no_shape_raises(path: str, value: Any) -> None:
    of_json(path, dumped(value))
    of_stream(path, sse(dumped(value), b"[DONE]"))
    body_verdict(400, JSON, "", path, dumped(value))


# Whole bodies.


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (chat(choice(None, content="Hi")), Rejection.INCOMPLETE),
        (chat(choice("content_filter", content="Hi")), Rejection.FILTERED),
        (chat(choice(content="a"), choice("content_filter", content="b")), Rejection.FILTERED),
        (chat(choice("error", content="Hi")), Rejection.ERROR),
        (chat(choice("abort", content="Hi")), Rejection.INCOMPLETE),
        (chat(choice(refusal="No.")), Rejection.FILTERED),
        (chat(choice(content="")), Rejection.EMPTY),
        (chat(choice(content=" \n")), Rejection.EMPTY),
        (chat(choice(content=[])), Rejection.EMPTY),
        (chat(choice(content="", reasoning_content="Hm")), Rejection.EMPTY),
        (chat(choice(content="a"), choice(content="")), Rejection.EMPTY),
        (chat(choices=[]), Rejection.EMPTY),
        (chat(choices=None), Rejection.EMPTY),
        (chat(error={"message": "x"}), Rejection.ERROR),
        (chat(choice("tool_calls", tool_calls=[call('{"a": ')])), Rejection.BROKEN_ARGUMENTS),
        (chat(choice("length", tool_calls=[call("")])), Rejection.BROKEN_ARGUMENTS),
        (chat(choice("tool_calls", tool_calls=[call("1")])), Rejection.BROKEN_ARGUMENTS),
        (chat(choice("tool_calls", tool_calls=[call(), call("{")])), Rejection.BROKEN_ARGUMENTS),
        (chat(choice(function_call={"arguments": "{"})), Rejection.BROKEN_ARGUMENTS),
        (b"", Rejection.UNREADABLE),
        (b"{}", Rejection.EMPTY),
        (b"null", Rejection.UNREADABLE),
        (b"[]", Rejection.UNREADABLE),
        (b"<html>", Rejection.UNREADABLE),
        (chat() + b"x", Rejection.UNREADABLE),
        (chat(choices=[1]), Rejection.UNREADABLE),
    ],
)
def test_chats_that_are_not_stored(body: bytes, reason: Rejection) -> None:
    assert of_json(CHATS, body) is reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (response(status="in_progress"), Rejection.INCOMPLETE),
        (response(status="queued", output=[]), Rejection.INCOMPLETE),
        (response(status="incomplete"), Rejection.INCOMPLETE),
        (response(incomplete_details={"reason": "max_output_tokens"}), Rejection.INCOMPLETE),
        (response(status="failed", error={"code": "x"}), Rejection.ERROR),
        (response(output=[]), Rejection.EMPTY),
        (response(output_message()), Rejection.EMPTY),
        (response(output_message({"type": "output_text", "text": ""})), Rejection.EMPTY),
        (response({"type": "reasoning", "summary": []}), Rejection.EMPTY),
        (response(output_message({"type": "refusal", "refusal": "No."})), Rejection.FILTERED),
        (
            response(output_message({"type": "output_text", "text": "a"}, status="incomplete")),
            Rejection.INCOMPLETE,
        ),
        (response({"type": "function_call", "arguments": "{"}), Rejection.BROKEN_ARGUMENTS),
        (response(output=None), Rejection.UNREADABLE),
        (b"{}", Rejection.INCOMPLETE),
    ],
)
def test_responses_that_are_not_stored(body: bytes, reason: Rejection) -> None:
    assert of_json(RESPONSES, body) is reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (message(stop_reason=None), Rejection.INCOMPLETE),
        (message(stop_reason="pause_turn"), Rejection.INCOMPLETE),
        (message(stop_reason="refusal"), Rejection.FILTERED),
        (message({"type": "text", "text": ""}), Rejection.EMPTY),
        (message({"type": "thinking", "thinking": "Hm"}), Rejection.EMPTY),
        (message(content=[]), Rejection.EMPTY),
        (message({"type": "tool_use", "input": "{"}), Rejection.BROKEN_ARGUMENTS),
        (dumped({"type": "error", "error": {"type": "overloaded_error"}}), Rejection.ERROR),
    ],
)
def test_messages_that_are_not_stored(body: bytes, reason: Rejection) -> None:
    assert of_json(MESSAGES, body) is reason


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/v1/completions", dumped({"choices": [{"text": "a"}]}), Rejection.INCOMPLETE),
        (
            "/v1/completions",
            dumped({"choices": [{"text": "", "finish_reason": "stop"}]}),
            Rejection.EMPTY,
        ),
        ("/v1/embeddings", dumped({"data": []}), Rejection.EMPTY),
        ("/v1/embeddings", dumped({"data": [{"embedding": []}]}), Rejection.EMPTY),
        ("/v1/embeddings", dumped({"data": [{"index": 0}]}), Rejection.UNREADABLE),
        ("/v1/moderations", dumped({"results": []}), Rejection.EMPTY),
        ("/v1/models", dumped({"data": []}), Rejection.EMPTY),
        ("/v1/models/m", b"{}", Rejection.EMPTY),
        ("/v1/models/m", b"[1]x", Rejection.UNREADABLE),
        ("/v1/files/f", dumped({"error": {}}), Rejection.ERROR),
    ],
)
def test_other_bodies_that_are_not_stored(path: str, body: bytes, reason: Rejection) -> None:
    assert of_json(path, body) is reason


def test_other_gets_are_only_complete() -> None:
    assert of_json("/v1/files", b"[]") is None
    assert of_json("/v1/files", dumped({"data": []})) is None
    assert body_verdict(200, "text/plain", "br", "/v1/files/f/content", b"a") is None
    assert body_verdict(200, "", "", "/v1/files/f/content", b"") is Rejection.EMPTY


TEXT = "x" * 300_000
MANY = [{"index": at, "embedding": [0.25] * 100} for at in range(300)]


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        (CHATS, chat(choice(content=TEXT)), None),
        (CHATS, chat(choice(content=TEXT), choice("content_filter")), Rejection.FILTERED),
        (CHATS, chat(choice(None, content=TEXT)), Rejection.INCOMPLETE),
        (CHATS, chat(choice(content=TEXT), choice(content="a"))[:-1], Rejection.UNREADABLE),
        (CHATS, chat(choice(content=TEXT), error={"a": TEXT}), Rejection.ERROR),
        (RESPONSES, response(output_message({"type": "output_text", "text": TEXT})), None),
        (RESPONSES, response(instructions=TEXT, status="failed"), Rejection.INCOMPLETE),
        (MESSAGES, message({"type": "text", "text": TEXT}), None),
        ("/v1/embeddings", dumped({"object": "list", "data": MANY}), None),
        ("/v1/embeddings", dumped({"object": "list", "data": MANY})[:-3], Rejection.UNREADABLE),
    ],
)
def test_large_bodies(path: str, body: bytes, reason: Rejection | None) -> None:
    assert len(body) > 64 * 1024
    assert of_json(path, body) is reason


def test_what_inflates_to_too_much_is_not_stored() -> None:
    bomb = gzip.compress(bytes(70 * 1024 * 1024))
    assert body_verdict(200, JSON, "gzip", CHATS, bomb) is Rejection.UNREADABLE
    assert body_verdict(200, JSON, "gzip", CHATS, chat()) is Rejection.UNREADABLE


# Streams.


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (chunks({"content": "Hi"}, done=False), Rejection.INCOMPLETE),
        # The upstream's gateway has ended the stream in good order; its model had not.
        (chunks({"content": "Hi"}, finish=None), Rejection.INCOMPLETE),
        (chunks({"content": "Hi"}, finish="content_filter"), Rejection.FILTERED),
        (chunks({"content": "Hi"}, finish="error"), Rejection.ERROR),
        (chunks({"content": ""}), Rejection.EMPTY),
        (chunks({"role": "assistant"}), Rejection.EMPTY),
        (chunks({"refusal": "No"}), Rejection.FILTERED),
        (chunks(*CALL_DELTAS[:-1], finish="tool_calls"), Rejection.BROKEN_ARGUMENTS),
        (sse(b"[DONE]"), Rejection.EMPTY),
        (b"", Rejection.INCOMPLETE),
        (b": ping\n\n", Rejection.INCOMPLETE),
        (chunks({"content": "Hi"}) + named(b"error", b"{}"), Rejection.ERROR),
        (sse(b'{"error":{"code":502},"choices":[]}') + chunks({"content": "Hi"}), Rejection.ERROR),
        (chunks({"content": "Hi"}) + b"data: {", Rejection.INCOMPLETE),
        (sse(b"{") + chunks({"content": "Hi"}), Rejection.UNREADABLE),
        (sse(b"1") + chunks({"content": "Hi"}), Rejection.UNREADABLE),
        (STREAMS["chat that nobody asked"][0], Rejection.INCOMPLETE),
        (STREAMS["an error"][0], Rejection.ERROR),
        (STREAMS["an error with usage"][0], Rejection.ERROR),
        (STREAMS["no blank line at the end"][0], Rejection.INCOMPLETE),
    ],
)
def test_chat_streams_that_are_not_stored(body: bytes, reason: Rejection) -> None:
    assert of_stream(CHATS, body) is reason


def test_each_choice_of_a_stream_must_end() -> None:
    def chunk(index: int, finish: str | None = None) -> bytes:
        delta = {} if finish else {"content": "Hi"}
        return dumped({"choices": [{"index": index, "delta": delta, "finish_reason": finish}]})

    parts = [chunk(0), chunk(1), chunk(1, "stop")]
    assert of_stream(CHATS, sse(*parts, b"[DONE]")) is Rejection.INCOMPLETE
    assert of_stream(CHATS, sse(*parts, chunk(0, "length"), b"[DONE]")) is None


def test_calls_without_an_index_are_calls_of_their_own() -> None:
    whole = {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"a":1}'}}]}
    assert of_stream(CHATS, chunks(whole, whole, finish="tool_calls")) is None


COMPLETED = {"type": "response.completed", "response": response_of()}
DELTA = {"type": "response.output_text.delta", "delta": "Hi"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (events(DELTA), Rejection.INCOMPLETE),
        (events(DELTA) + sse(b"[DONE]"), Rejection.INCOMPLETE),
        (STREAMS["response.incomplete"][0], Rejection.INCOMPLETE),
        (STREAMS["response.failed"][0], Rejection.ERROR),
        (events(COMPLETED, DELTA), Rejection.UNREADABLE),
        (events({"type": "error", "message": "x"}, COMPLETED), Rejection.ERROR),
        (events({"type": "response.completed"}), Rejection.UNREADABLE),
        (
            events({**COMPLETED, "response": response_of(status="failed")}),
            Rejection.INCOMPLETE,
        ),
        (
            events({**COMPLETED, "response": response_of(error={"code": "x"})}),
            Rejection.ERROR,
        ),
        (events({**COMPLETED, "response": response_of(output=[])}), Rejection.EMPTY),
    ],
)
def test_response_streams_that_are_not_stored(body: bytes, reason: Rejection) -> None:
    assert of_stream(RESPONSES, body) is reason


def test_a_response_stream_may_end_as_a_chat_does() -> None:
    assert of_stream(RESPONSES, events(DELTA, COMPLETED) + sse(b"[DONE]")) is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (message_events(stop_reason=None), Rejection.INCOMPLETE),
        (message_events(stop_reason="refusal"), Rejection.FILTERED),
        (message_events((TEXT_BLOCK[0], [])), Rejection.EMPTY),
        (message_events(THOUGHT_BLOCK), Rejection.EMPTY),
        (message_events((TOOL_BLOCK[0], TOOL_BLOCK[1][:2])), Rejection.BROKEN_ARGUMENTS),
        (message_events().replace(b"content_block_stop", b"ping"), Rejection.INCOMPLETE),
        (STREAMS["message that an error ends"][0], Rejection.ERROR),
    ],
)
def test_message_streams_that_are_not_stored(body: bytes, reason: Rejection) -> None:
    assert of_stream(MESSAGES, body) is reason


def test_streams_of_other_endpoints_are_not_stored() -> None:
    assert of_stream("/v1/embeddings", chunks({"content": "Hi"})) is Rejection.CONTENT_TYPE
    assert of_stream("/v1/responses/resp_1", events(COMPLETED)) is Rejection.CONTENT_TYPE


# Errors.


def failed(**error: Any) -> bytes:
    return dumped({"error": {"type": "invalid_request_error", "code": None, **error}})


@pytest.mark.parametrize("status", [400, 401])
def test_errors_of_the_request_are_stored(status: int) -> None:
    body = failed(message="Unknown parameter: 'a'.", code="unknown_parameter")
    assert body_verdict(status, JSON, "", CHATS, body) is None


@pytest.mark.parametrize(
    ("content_type", "body", "reason"),
    [
        (JSON, failed(code="content_policy_violation"), Rejection.ERROR),
        (JSON, failed(code="content_filter"), Rejection.ERROR),
        (JSON, failed(code="invalid_prompt"), Rejection.ERROR),
        (JSON, failed(code="billing_hard_limit_reached"), Rejection.ERROR),
        (
            JSON,
            failed(type="image_generation_user_error", code="moderation_blocked"),
            Rejection.ERROR,
        ),
        (JSON, failed(message="Your request was rejected by our safety system."), Rejection.ERROR),
        (JSON, failed(message="Your credit balance is too low"), Rejection.ERROR),
        (
            JSON,
            failed(innererror={"code": "ResponsibleAIPolicyViolation"}),
            Rejection.ERROR,
        ),
        (JSON, dumped({"error": "x"}), Rejection.UNREADABLE),
        (JSON, dumped({"detail": "x"}), Rejection.UNREADABLE),
        (JSON, b"", Rejection.UNREADABLE),
        ("text/html", b"<html>", Rejection.CONTENT_TYPE),
        (EVENTS, chunks({"content": "Hi"}), Rejection.CONTENT_TYPE),
    ],
)
def test_errors_that_may_pass_are_not_stored(
    content_type: str, body: bytes, reason: Rejection
) -> None:
    assert body_verdict(400, content_type, "", CHATS, body) is reason
