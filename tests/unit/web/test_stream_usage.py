"""``stream_usage: inject`` on its way through the endpoint; the parts have tests of their own."""

import gzip
from dataclasses import replace
from typing import Any

import pytest

from proxy.gateway.inflight import ShuttingDown
from proxy.gateway.response_stream import Outcome
from proxy.policy.policy import Policy
from tests.support.relay_factories import (
    JSON,
    JSON_BODY,
    PRINCIPAL,
    SSE,
    Access,
    FakeResponse,
    World,
    sized,
)
from tests.support.sse_streams import LATE_CHUNK, chat_chunk, sse

BODY = b'{"model":"m","stream":true}'
ASKING = b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}'
ASKED = [sse(chat_chunk(b"One")), sse(chat_chunk(b"two")), sse(LATE_CHUNK), sse(b"[DONE]")]
PLAIN = [sse(chat_chunk(b"One", None)), sse(chat_chunk(b"two", None)), sse(b"[DONE]")]


def world(response: Any, *, inject: bool = True) -> World:
    return World(
        response, access=Access(principal=replace(PRINCIPAL, policy=Policy(inject_usage=inject)))
    )


def chat(world: World, body: bytes = BODY, **more: Any) -> Any:
    request = sized(body, headers=[*JSON_BODY, ("Accept-Encoding", "gzip")])
    return world.ask("POST", "/v1/chat/completions", **request, **more)


def sent_lines(world: World, name: str) -> list[str]:
    (call,) = world.transport.calls
    return [value for key, value in call.request.headers if key.lower() == name]


def test_asked_metered_and_taken_out() -> None:
    it = world(FakeResponse(ASKED, headers=SSE))
    result = chat(it)
    assert it.transport.bodies == [ASKING]
    assert sent_lines(it, "content-length") == [str(len(ASKING))]
    assert sent_lines(it, "accept-encoding") == ["identity"]
    assert result.chunks == [b"", *PLAIN]
    event = it.event
    assert (event.usage_source, event.outcome) == ("reported", Outcome.COMPLETED)
    assert event.metadata["total_tokens"] == 29
    assert (event.bytes_in, event.bytes_out) == (len(BODY), len(b"".join(PLAIN)))
    assert event.stream is True


@pytest.mark.parametrize(
    ("inject", "body"), [(False, BODY), (True, ASKING), (True, b'{"stream":true')]
)
def test_who_does_not_want_it_or_asks_itself_gets_what_came(inject: bool, body: bytes) -> None:
    it = world(FakeResponse(ASKED, headers=SSE), inject=inject)
    assert chat(it, body).chunks == [b"", *ASKED]
    assert it.transport.bodies == [body]
    assert sent_lines(it, "accept-encoding") == ["gzip"]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (JSON, b'{"choices":[],"usage":null}\n\n'),
        ([*SSE, ("Content-Encoding", "gzip")], gzip.compress(b"".join(ASKED))),
    ],
)
def test_what_cannot_be_read_passes_as_it_comes(
    headers: list[tuple[str, str]], body: bytes
) -> None:
    length = ("Content-Length", str(len(body)))
    it = world(FakeResponse([body[:9], body[9:]], headers=[*headers, length]))
    result = chat(it)
    assert result.chunks == [b"", body[:9], body[9:]]
    assert result.one("content-length") == length[1]


@pytest.mark.parametrize("kind", ["", "text/plain; charset=utf-8", "application/json"])
def test_a_stream_under_a_wrong_media_type_is_asked_and_filtered(kind: str) -> None:
    headers = [("Content-Type", kind)] if kind else []
    it = world(FakeResponse(ASKED, headers=headers))
    result = chat(it)
    assert result.body == b"".join(PLAIN)
    assert (it.event.usage_source, it.event.stream) == ("reported", True)
    # What was not made to ask is metered, and passes as it comes.
    it = world(FakeResponse(ASKED, headers=headers), inject=False)
    assert chat(it).chunks == [b"", *ASKED]
    assert (it.event.usage_source, it.event.stream) == ("reported", True)


def test_a_response_with_the_type_of_a_stream_that_is_none() -> None:
    body = b'{"model":"m","usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'
    it = world(FakeResponse([body], headers=SSE), inject=False)
    assert chat(it).body == body
    assert (it.event.usage_source, it.event.stream) == ("reported", False)


def test_no_closing_event_in_a_response_of_a_known_length() -> None:
    for kind in ("text/plain", "text/event-stream"):
        headers = [("Content-Type", kind), ("Content-Length", "5000")]
        it = world(FakeResponse([ASKED[0], ShuttingDown()], headers=headers), inject=False)
        assert chat(it).chunks == [b"", ASKED[0]]
        assert it.event.outcome is Outcome.ABORTED


def test_the_upstreams_error_keeps_its_length() -> None:
    length = ("Content-Length", "6")
    it = world(
        FakeResponse([b"<html>"], status=502, headers=[("Content-Type", "text/html"), length])
    )
    assert chat(it).one("content-length") == "6"


def test_a_length_that_no_longer_fits_is_not_sent() -> None:
    length = ("Content-Length", str(len(b"".join(ASKED))))
    result = chat(world(FakeResponse([b"".join(ASKED)], headers=[*SSE, length])))
    assert result.body == b"".join(PLAIN)
    assert result.all("content-length") == []
    unasked = chat(world(FakeResponse([b"".join(ASKED)], headers=[*SSE, length]), inject=False))
    assert unasked.all("content-length") == [length[1]]


def test_an_event_cut_at_a_stop_is_left_out_and_the_error_stands_alone() -> None:
    it = world(FakeResponse([ASKED[0] + ASKED[1][:50], ShuttingDown()], headers=SSE))
    result = chat(it)
    assert result.chunks[:2] == [b"", PLAIN[0]]
    assert result.chunks[2].startswith(b"event: error\ndata: ")
    assert isinstance(result.error, ShuttingDown)
    assert it.event.outcome is Outcome.ABORTED
    # Without, half an event had gone out, and nothing could stand behind it.
    result = chat(
        world(FakeResponse([ASKED[0] + ASKED[1][:50], ShuttingDown()], headers=SSE), inject=False)
    )
    assert len(result.chunks) == 2


def test_a_client_that_leaves() -> None:
    it = world(FakeResponse(ASKED, headers=SSE))
    chat(it, stop_after=2)
    assert (it.event.outcome, it.event.usage_source) == (Outcome.CLIENT_GONE, "none")
    drains = replace(PRINCIPAL, policy=Policy(inject_usage=True, drain_on_disconnect=True))
    it = World(FakeResponse(ASKED, headers=SSE), access=Access(principal=drains))
    chat(it, stop_after=2)
    assert (it.event.outcome, it.event.usage_source) == (Outcome.CLIENT_GONE, "reported")
