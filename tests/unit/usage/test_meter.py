from __future__ import annotations

import gzip

import pytest

from proxy.usage import event_stream as module
from proxy.usage.counts import Usage
from proxy.usage.meter import UsageMeter
from proxy.usage.reading import Reading
from tests.support.meter_cases import COMPRESSED, JSON, SSE, bytewise, finished, meter
from tests.support.sse_streams import (
    LATE_CHUNK,
    LOOK_ALIKE,
    STOP_CHUNK,
    STREAMS,
    chat_chunk,
    response_stream,
    sse,
)
from tests.support.usage_samples import (
    BODIES,
    BODY_COUNTED,
    CHAT,
    CHAT_BODY,
    CHAT_COUNTED,
    CHAT_USAGE,
    RESPONSE_COUNTED,
    RESPONSE_USAGE,
)


@pytest.mark.parametrize("encoding", COMPRESSED)
@pytest.mark.parametrize("name", STREAMS)
def test_streams(name: str, encoding: str) -> None:
    stream, usage, source = STREAMS[name]
    data = COMPRESSED[encoding](stream)
    expected = Reading(None if usage == Usage() else usage, source)  # type: ignore[arg-type]
    assert meter(data, encoding=encoding) == expected
    assert meter(*bytewise(data), encoding=encoding) == expected


@pytest.mark.parametrize("encoding", COMPRESSED)
@pytest.mark.parametrize("name", BODIES)
def test_bodies(name: str, encoding: str) -> None:
    body, usage = BODIES[name]
    data = COMPRESSED[encoding](body)
    source = "reported" if usage.has_counts else "none"  # all have what their kind has
    expected = Reading(None if usage == Usage() else usage, source)  # type: ignore[arg-type]
    assert meter(data, kind=JSON, encoding=encoding) == expected
    assert meter(*bytewise(data), kind=JSON, encoding=encoding) == expected


def test_a_cut_stream() -> None:
    cumulative = [
        sse(chat_chunk(usage=CHAT_USAGE.replace(b":10,", b":%d," % n))) for n in range(1, 5)
    ]
    cut = meter(*cumulative, complete=False)
    assert cut.source == "partial"
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 4
    assert meter(sse(chat_chunk()), complete=False) == Reading(CHAT, "none")
    # Cut between the counts and `[DONE]`: nothing of the counts is missing.
    late = meter(sse(chat_chunk(), STOP_CHUNK, LATE_CHUNK), complete=False)
    assert late == Reading(CHAT_COUNTED, "reported")
    # Cut inside the counts, or before their blank line: they have not come.
    assert meter(sse(chat_chunk(), LATE_CHUNK)[:-2], complete=False) == Reading(CHAT, "none")


def test_a_cut_response_stream() -> None:
    stream = response_stream(b"completed")
    assert meter(stream, complete=False) == Reading(RESPONSE_COUNTED, "reported")
    cut = meter(stream[:-1], complete=False)
    assert cut.source == "none"
    assert cut.usage is not None
    assert cut.usage.model == RESPONSE_COUNTED.model


def test_a_cut_body() -> None:
    assert meter(CHAT_BODY[:-60], kind=JSON, complete=False) == Reading(CHAT_COUNTED, "reported")
    middle = CHAT_BODY.index(b'"total_tokens":29')
    assert meter(CHAT_BODY[:middle], kind=JSON, complete=False) == Reading(CHAT, "none")
    assert meter(gzip.compress(CHAT_BODY)[:-12], kind=JSON, encoding="gzip", complete=False).usage


def test_a_response_event_of_a_megabyte_in_small_chunks() -> None:
    image = b'{"type":"image_generation_call","result":"' + b"iVBORw0K" * 200_000 + b'"}'
    stream = response_stream(b"completed").replace(b'"output":[', b'"output":[' + image + b",")
    chunks = [stream[i : i + 1000] for i in range(0, len(stream), 1000)]
    assert meter(*chunks) == Reading(RESPONSE_COUNTED, "reported")
    assert meter(*chunks, most=100_000) == Reading(RESPONSE_COUNTED, "reported")
    assert meter(stream, most=100) == Reading(RESPONSE_COUNTED, "reported")


def test_a_large_body_is_read_while_it_passes() -> None:
    body = b'{"data":[' + b"0.123456789," * 200_000 + b'0],"model":"m","usage":{"prompt_tokens":1}}'
    assert meter(body, kind=JSON) == Reading(Usage("m", prompt_tokens=1), "reported")
    assert meter(CHAT_BODY, kind=JSON, most=300) == Reading(BODY_COUNTED, "reported")


@pytest.mark.parametrize(
    ("kind", "encoding", "read"),
    [
        ("text/event-stream", "", True),
        ("Text/Event-Stream;charset=UTF-8", "identity", True),
        (" text/event-stream ; a=b", " GZIP ", True),
        ("text/event-stream", "x-gzip", True),
        ("text/event-stream", "br", False),
        ("text/event-stream", "gzip, gzip", False),
        # By its first bytes.
        ("text/event-streams", "", True),
        ("text/plain; charset=utf-8", "", True),
        ("application/octet-stream", "", True),
        ("application/json", "gzip", True),
        ("", "", True),
        ("audio/mpeg", "", False),
        ("multipart/mixed", "", False),
    ],
)
def test_which_streams_are_read(kind: str, encoding: str, read: bool) -> None:
    stream = STREAMS["chat"][0]
    data = gzip.compress(stream) if "gzip" in encoding.lower() else stream
    expected = Reading(CHAT_COUNTED, "reported") if read else Reading(None, "none")
    assert meter(data, kind=kind, encoding=encoding) == expected


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        ("application/json", True),
        ("APPLICATION/JSON; charset=utf-8", True),
        ("application/vnd.api+json", True),
        ("application/problem+json;a=b", True),
        ("text/json", True),
        ("text/html; charset=utf-8", True),
        ("text/event-stream", True),
        ("", True),
        ("application/octet-stream", False),
        ("application/x-ndjson", False),
        ("application/jsonl", False),
        ("audio/mpeg", False),
    ],
)
def test_which_bodies_are_read(kind: str, read: bool) -> None:
    for body in (CHAT_BODY, b"\xef\xbb\xbf" + CHAT_BODY, b" \r\n" + CHAT_BODY):
        assert (meter(body, kind=kind).source == "reported") is read
        assert (meter(*bytewise(body), kind=kind).source == "reported") is read


@pytest.mark.parametrize("kind", ["", "text/plain", JSON])
def test_a_stream_is_one_whatever_its_media_type(kind: str) -> None:
    it = UsageMeter(kind)
    assert not it.is_event_stream
    assert not it.at_event_boundary
    for byte in bytewise(STREAMS["chat with CR and a BOM"][0]):
        it.feed(byte)
    assert it.is_event_stream
    assert it.at_event_boundary
    assert finished(it) == Reading(CHAT_COUNTED, "reported")
    other = UsageMeter(kind)
    other.feed(b"<html>data: x\n\n")
    other.feed(STREAMS["chat"][0])
    assert not other.is_event_stream
    assert finished(other) == Reading(None, "none")


def test_a_body_is_none_whatever_its_media_type() -> None:
    it = UsageMeter(SSE)
    assert it.is_event_stream
    it.feed(b"")
    it.feed(CHAT_BODY)
    assert not it.is_event_stream
    assert not it.at_event_boundary
    assert finished(it) == Reading(BODY_COUNTED, "reported")


@pytest.mark.parametrize(
    ("usage", "source"),
    [
        (b'{"prompt_tokens":5}', "partial"),
        (b'{"completion_tokens":5,"prompt_tokens":null}', "partial"),
        (b'{"total_tokens":5}', "partial"),
        (b'{"prompt_tokens":5,"completion_tokens":0}', "reported"),
    ],
)
def test_a_generation_with_one_side_is_partial(usage: bytes, source: str) -> None:
    for head in (b'"choices":[]', b'"object":"response","output":[]', b'"type":"message"'):
        assert meter(b'{%s,"usage":%s}' % (head, usage), kind=JSON).source == source
    assert meter(b'{"object":"list","data":[],"usage":%s}' % usage, kind=JSON).source == "reported"


@pytest.mark.parametrize(
    ("kind", "encoding", "data", "boundary"),
    [
        (SSE, "", b"", True),
        (SSE, "", sse(chat_chunk()), True),
        (SSE, "", sse(*[chat_chunk()] * 20), True),
        (SSE, "", sse(chat_chunk())[:-1], False),
        (SSE, "", sse(*[chat_chunk()] * 20) + b"da", False),
        (SSE, "gzip", gzip.compress(sse(chat_chunk())), False),
        (SSE, "br", b"", False),
        (JSON, "", CHAT_BODY, False),
        ("text/plain", "", b"", False),
    ],
)
def test_at_event_boundary(kind: str, encoding: str, data: bytes, boundary: bool) -> None:
    it = UsageMeter(kind, encoding)
    it.feed(data)
    assert it.at_event_boundary is boundary


def test_chunks_without_usage_are_never_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    it = UsageMeter(SSE)
    it.feed(sse(chat_chunk()))
    monkeypatch.setattr(module, "orjson", None)
    for chunk in (chat_chunk(), chat_chunk(usage=b" null"), chat_chunk(usage=None), LOOK_ALIKE):
        it.feed(sse(chunk))
        for byte in bytewise(sse(chunk, chunk)):
            it.feed(byte)
    monkeypatch.undo()
    assert it.at_event_boundary
    it.feed(sse(LATE_CHUNK))
    assert finished(it) == Reading(CHAT_COUNTED, "reported")


def test_a_stream_that_never_names_its_model_is_not_parsed_for_ever() -> None:
    nameless = sse(b'{"type":"transcript.text.delta","delta":"I"}')
    it = UsageMeter(SSE)
    for _ in range(20):
        it.feed(nameless)
    it.feed(sse(chat_chunk()))
    assert finished(it) == Reading(None, "none")


def test_large_first_events_are_not_parsed_for_a_name() -> None:
    picture = sse(b'{"model":"m","b64_json":"' + b"a" * 100_000 + b'"}')
    assert meter(*[picture] * 9, sse(chat_chunk())) == Reading(None, "none")
    assert meter(picture, sse(chat_chunk())) == Reading(CHAT, "none")


def test_a_bomb_or_broken_gzip_ends_the_metering_and_keeps_the_name() -> None:
    beginning = sse(chat_chunk(usage=CHAT_USAGE))
    bomb = gzip.compress(beginning + b"\n" * 50_000_000)
    it = UsageMeter(SSE, "gzip")
    it.feed(bomb)
    it.feed(bomb)
    reading = finished(it)
    assert reading.source == "none"
    assert reading.usage is not None
    assert reading.usage.model == CHAT.model
    assert meter(gzip.compress(bytes(50_000_000)), kind=JSON, encoding="gzip").source == "none"
    assert meter(b"no gzip", sse(LATE_CHUNK), encoding="gzip") == Reading(None, "none")


def test_finish_may_be_called_again() -> None:
    it = UsageMeter(SSE)
    it.feed(STREAMS["chat"][0])
    assert finished(it, False) == finished(it, True) == finished(it, True)


def test_the_last_of_several_responses_counts() -> None:
    zeros = RESPONSE_USAGE.replace(b"36", b"0").replace(b"87", b"0").replace(b"123", b"0")
    reading = meter(response_stream(b"incomplete", zeros))
    assert reading.source == "reported"
    assert reading.usage is not None
    assert reading.usage.total_tokens == 0  # told, and therefore no None


@pytest.mark.parametrize("encoding", COMPRESSED)
@pytest.mark.parametrize("name", STREAMS)
def test_steps_see_what_feed_sees(name: str, encoding: str) -> None:
    stream, _, _ = STREAMS[name]
    data = COMPRESSED[encoding](stream)
    by_steps = UsageMeter(SSE, encoding)
    for _ in by_steps.steps(data):
        pass
    assert finished(by_steps) == meter(data, encoding=encoding)


@pytest.mark.slow
def test_a_step_is_small_whatever_a_chunk_inflates_to() -> None:
    """Here a chunk of 4 KiB to 4 MiB."""
    data = gzip.compress(b"data:\n\n" * 500_000)
    metered = UsageMeter(SSE, "gzip")
    assert sum(1 for _ in metered.steps(data)) > 500


def test_steps_end_where_nothing_can_be_read() -> None:
    metered = UsageMeter(SSE, "gzip")
    assert list(metered.steps(b"no gzip at all")) == []
    assert list(metered.steps(b"more of it")) == []
    assert finished(metered).source == "none"


@pytest.mark.parametrize("kind", [JSON, "text/plain"])
def test_a_body_that_inflates_to_several_pieces(kind: str) -> None:
    body = b'{"a":"%s","usage":{"prompt_tokens":1,"completion_tokens":2}}' % (b"word " * 200_000)
    seen = meter(gzip.compress(body), kind=kind, encoding="gzip")
    assert seen.usage is not None
    assert seen.usage.completion_tokens == 2
