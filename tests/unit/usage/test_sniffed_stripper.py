"""proxy/usage/sniffed_stripper.py: a stream is filtered as one, and nothing else is touched or
held."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.usage.sniffed_stripper import SniffedStripper, unasked_filter
from proxy.usage.strip_usage import UsageStripper
from tests.support.meter_cases import bytewise, chunked
from tests.support.sse_streams import LATE_CHUNK, chat_chunk, sse
from tests.support.usage_samples import CHAT_BODY

STREAM = sse(chat_chunk(), LATE_CHUNK, b"[DONE]")


def filtered(it: SniffedStripper | UsageStripper, pieces: list[bytes]) -> bytes:
    return b"".join([it.feed(piece) for piece in pieces]) + it.end()


@pytest.mark.parametrize(
    "before", [b"", b"\r\n\r\n", b"\xef\xbb\xbf", b": ping\n\n", b"event: x\n"]
)
@given(cuts=st.lists(st.floats(0, 1), max_size=9))
def test_a_stream_is_filtered(before: bytes, cuts: list[float]) -> None:
    expected = filtered(UsageStripper(), [before + STREAM])
    assert LATE_CHUNK not in expected
    assert filtered(SniffedStripper(), chunked(before + STREAM, cuts)).replace(
        b"\xef\xbb\xbf", b""
    ) == expected.replace(b"\xef\xbb\xbf", b"")
    assert LATE_CHUNK not in filtered(SniffedStripper(), bytewise(before + STREAM))


@pytest.mark.parametrize(
    "body", [CHAT_BODY, b"  \n " + CHAT_BODY, b"<html>", b"dat", b"", b" \n", b"plain" + STREAM]
)
def test_anything_else_passes_as_it_is(body: bytes) -> None:
    assert filtered(SniffedStripper(), [body]) == body
    assert filtered(SniffedStripper(), bytewise(body)) == body


def test_space_that_keeps_a_connection_open_is_not_held() -> None:
    it = SniffedStripper()
    assert it.feed(b"\n") == b"\n"
    assert it.feed(b"  ") == b"  "
    assert not it.at_event_boundary
    assert it.feed(b"d") == b""
    assert it.feed(b"one") == b"done"
    assert it.feed(b"x") == b"x"


def test_where_an_event_of_our_own_may_stand() -> None:
    it = SniffedStripper()
    assert not it.at_event_boundary
    it.feed(STREAM)
    assert it.at_event_boundary


@pytest.mark.parametrize(
    ("content_type", "sized", "kind"),
    [
        ("text/event-stream; charset=utf-8", False, UsageStripper),
        ("Text/Event-Stream", True, UsageStripper),
        ("", False, SniffedStripper),
        ("text/plain", True, SniffedStripper),
        ("application/json", False, SniffedStripper),
        ("application/json; charset=utf-8", True, type(None)),
        ("application/problem+json", True, type(None)),
    ],
)
def test_unasked_filter(content_type: str, sized: bool, kind: type) -> None:
    assert type(unasked_filter(content_type, sized=sized)) is kind
