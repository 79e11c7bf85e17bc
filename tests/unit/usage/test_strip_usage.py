"""proxy/usage/strip_usage.py: the injected usage is removed, and nothing else."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.usage import event_filter as module
from proxy.usage.event_filter import MAX_EVENT_BYTES
from proxy.usage.strip_usage import UsageStripper
from tests.support.json_values import VALUES
from tests.support.meter_cases import bytewise, chunked
from tests.support.sse_streams import LATE_CHUNK, STREAMS, chat_chunk, sse

DONE = b"data: [DONE]\n\n"


def through(*chunks: bytes) -> bytes:
    unasked = UsageStripper()
    return b"".join([*map(unasked.feed, chunks), unasked.end()])


def test_a_stream_of_openai() -> None:
    asked = sse(chat_chunk(b"One"), chat_chunk(b"two"), LATE_CHUNK, b"[DONE]")
    plain = sse(chat_chunk(b"One", None), chat_chunk(b"two", None), b"[DONE]")
    assert through(asked) == plain


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ('{"a":1,"usage":null}', '{"a":1}'),
        ('{"a": 1, "usage": null, "b": 2}', '{"a": 1, "b": 2}'),
        ('{"usage":null,"b":2}', '{"b":2}'),
        ('{ "usage" : null , "b":2}', '{ "b":2}'),
        ('{"usage":null}', "{}"),
        ('{"a":1,"usage":null,"o":"x"}', '{"a":1,"o":"x"}'),
        ('{"a":"\\ud800","usage":null}', '{"a":"\\ud800"}'),
        ('{"a":-Infinity,"usage":null}', '{"a":-Infinity}'),
        ('{"choices":[],"usage":null,"prompt_filter_results":[]}', None),
        # Not at the top level, not null, not the member: as it was.
        ('{"a":{"b":1,"usage":null}}', ...),
        ('{"a":{"b":1,"usage":null},"usage":{}}', ...),
        ('{"a":{"b":1,"usage":null},"us\\u0061ge":null}', ...),
        ('{"a":"\\"usage","u\\u0073age":null,"x":{"y":1,"usage":null}}', ...),
        ('{"usage":null,"usage":null}', ...),
        ('{"a":"\\",\\"usage\\":null"}', ...),
        ('{"a":"usage"}', ...),
        ('{"choices":[{"index":0}],"usage":{"total_tokens":1}}', ...),
        ('{"usage":{"total_tokens":1}}', ...),
        ('{"choices":[],"usage":7}', ...),
        ('{"choices":null,"usage":{}}', ...),
        ('["usage",null]', ...),
        ('{"a":1,"usage":null', ...),
        ('{"a":1,"usage":null}}', ...),
        ("[" * 5000 + '"usage"', ...),
        ('{"choices":[],"usage":{}}', ""),
        ('{"usage": {"total_tokens": 3}, "choices": [], "id": "x"}', ""),
    ],
)
@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r", ""])
def test_one_event(event: str, expected: Any, end: str) -> None:
    if expected is None:
        expected = event.replace('"usage":null,', "")
    elif expected is ...:
        expected = event
    before = "data: x" + (end or "\n\n")
    wanted = (before + (f"data: {expected}{end}" if expected else "")).encode()
    assert through(f"{before}data: {event}{end}".encode()) == wanted
    assert through(*bytewise(f"{before}data: {event}{end}".encode())) == wanted


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b'\xef\xbb\xbfdata:{"a":1,"usage":null}\n\n', b'\xef\xbb\xbfdata:{"a":1}\n\n'),
        (
            b'event: x\nid: 7\ndata: {"a":1,"usage":null}\n\n',
            b'event: x\nid: 7\ndata: {"a":1}\n\n',
        ),
        (b'event: x\nid: 7\ndata: {"choices":[],"usage":{}}\n\n' + DONE, DONE),
        # Comments are not part of the event before which they stand.
        (b': c\n\n: d\r\ndata: {"choices":[],"usage":{}}\n\n: e', b": c\n\n: d\r\n: e"),
        (b'\n\ndata: {"choices":[],"usage":{}}\n\n\n' + DONE, b"\n\n\n" + DONE),
        # Data over several lines, as it would have been without.
        (
            b'data: {\ndata:  "a": 1,\ndata:  "usage": null\ndata: }\n\n',
            b'data: {\ndata:  "a": 1\ndata: }\n\n',
        ),
        (b'data:{"a":1\r\ndata:,"usage":\r\ndata:null}\r\n\r\n', b'data:{"a":1\r\ndata:}\r\n\r\n'),
        (b'data: {"choices":\ndata\ndata: [],"usage":{}}\n\n' + DONE, DONE),
        # A line that is no data.
        (b'data: {"a":1}\nnote: ,"usage":null\n\n', b'data: {"a":1}\nnote: ,"usage":null\n\n'),
        (b'data: {"a":1\n,"usage":null}\n\n', b'data: {"a":1\n,"usage":null}\n\n'),
        (b'data: {"a":1\r,"usage":null}\r\n\r\n', b'data: {"a":1\r,"usage":null}\r\n\r\n'),
        (b'data : {"a":1,"usage":null}\n\n', b'data : {"a":1,"usage":null}\n\n'),
        (b"\r", b"\r"),
        (b"", b""),
    ],
)
def test_other_streams(stream: bytes, expected: bytes) -> None:
    assert through(stream) == expected
    assert through(*bytewise(stream)) == expected


def test_an_event_is_given_when_it_is_complete_and_not_before() -> None:
    unasked = UsageStripper()
    assert unasked.feed(b'data: {"a":1,') == b""
    assert unasked.feed(b'"usage":null}\n') == b""
    assert unasked.feed(b"\ndata: ") == b'data: {"a":1}\n\n'
    assert unasked.feed(b"x\r\n\r") == b"data: x\r\n\r"
    assert unasked.feed(b"\n") == b"\n"
    assert unasked.feed(b": pi") == b""
    assert unasked.feed(b"ng\n") == b": ping\n"
    assert unasked.at_event_boundary
    assert unasked.end() == b""


def test_a_large_event_passes_as_it_is() -> None:
    large = b'data: {"x":"' + b"x" * MAX_EVENT_BYTES
    rest = b'","usage":null}\r\n\r\n'
    usual = sse(chat_chunk(b"One"))
    unasked = UsageStripper()
    assert unasked.feed(usual + large[:1000]) == sse(chat_chunk(b"One", None))
    assert unasked.at_event_boundary
    assert unasked.feed(large[1000:]) == large
    assert not unasked.at_event_boundary
    assert b"".join(map(unasked.feed, bytewise(rest[:-1]))) == rest[:-1]
    assert unasked.at_event_boundary
    assert unasked.feed(rest[-1:] + usual) == rest[-1:] + sse(chat_chunk(b"One", None))
    assert through(large + b"y", b"z") == large + b"yz"


def injected(events: list[bytes], compact: bool) -> bytes:
    """A stream of JSON events as it comes when usage was asked for."""
    null = b',"usage":null' if compact else b', "usage": null'
    late = b'{"id":"c","choices":[],"usage":{"total_tokens":3}}'
    *chunks, last = events
    return sse(*(chunk[:-1] + null + b"}" for chunk in chunks), late, last)


TEXTS = st.text() | st.sampled_from(
    ['"usage":null', ',"usage":null}', "data: x\n\n", "\u2028\x85", "é"]
)
DELTAS = st.fixed_dictionaries({"delta": TEXTS | VALUES})
CHUNKS = st.fixed_dictionaries({"id": TEXTS, "choices": st.lists(DELTAS, max_size=3)}) | VALUES.map(
    lambda value: {"choices": [{"usage": value}]}
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    st.lists(CHUNKS, max_size=5),
    st.booleans(),
    st.booleans(),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.floats(0, 1), max_size=20),
)
def test_undoes_what_asking_does(
    chunks: list[Any], compact: bool, ascii_only: bool, end: bytes, cuts: list[float]
) -> None:
    separators = (",", ":") if compact else (", ", ": ")
    events = [
        json.dumps(chunk, separators=separators, ensure_ascii=ascii_only).encode(
            "utf-8", "surrogatepass"
        )
        for chunk in chunks
    ]
    events.append(b"[DONE]")
    asked = injected(events, compact).replace(b"\n", end)
    assert through(*chunked(asked, cuts)) == sse(*events).replace(b"\n", end)


PIECES = st.sampled_from(
    [
        *(stream for stream, _, _ in STREAMS.values()),
        *(b"\n", b"\r", b"\r\n", b": c", b"data: ", b"data:", b"\xef\xbb\xbf", b'{"a":1', b"}"),
        *(b',"usage":null', b'"usage": null,', b"{", b'"choices":[],"usage":{}}', b'"', b"\\u00"),
        sse(chat_chunk(), end=b"\r"),
        sse(LATE_CHUNK, end=b"\r\n"),
    ]
)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES, max_size=30), st.lists(st.floats(0, 1), max_size=30))
def test_borders_make_no_difference(pieces: list[bytes], cuts: list[float]) -> None:
    stream = b"".join(pieces)
    whole = through(stream)
    assert through(*chunked(stream, cuts)) == whole
    if len(stream) < 3000:
        assert through(*bytewise(stream)) == whole


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=50) | PIECES, max_size=20))
def test_hostile_streams_do_no_harm(chunks: list[bytes]) -> None:
    through(*chunks)


def test_what_goes_out_are_whole_events() -> None:
    """Wherever the borders are: a client never waits in the middle of one."""
    stream = sse(chat_chunk(b"One"), chat_chunk(b"two"), LATE_CHUNK, b"[DONE]", end=b"\r\n")
    for cut in range(len(stream)):
        unasked = UsageStripper()
        for part in pairwise([0, cut, len(stream)]):
            out = unasked.feed(stream[slice(*part)])
            assert not out or out.endswith((b"\r\n\r\n", b"\r\n\r")) or out == b"\n"


@pytest.mark.parametrize("begin", [b":", b"data: ", b'data: {"usage":null'])
def test_a_line_without_an_end_is_not_searched_again(
    monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    searched: list[int] = []
    first = module._first_lf_end

    def counted(text: bytes | bytearray, start: int) -> int:
        searched.append(len(text))
        return first(text, start)

    monkeypatch.setattr(module, "_first_lf_end", counted)
    filtered = UsageStripper()
    assert filtered.feed(begin) == b""
    searched.clear()
    sent = b"".join(filtered.feed(b"x" * 1000) for _ in range(2000))
    assert searched == []
    assert sent + filtered.feed(b"\n\n") == begin + b"x" * 2_000_000 + b"\n\n"
