"""proxy/usage/sniffed.py: a stream is filtered as one, and nothing else is touched or held."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.usage.sniffed import SniffedUnasked, unasked_filter
from proxy.usage.unasked import UnaskedUsage
from tests.usage.metering import bytewise, chunked
from tests.usage.samples import CHAT_BODY
from tests.usage.streams import LATE_CHUNK, chat_chunk, sse

STREAM = sse(chat_chunk(), LATE_CHUNK, b"[DONE]")


def filtered(it: SniffedUnasked | UnaskedUsage, pieces: list[bytes]) -> bytes:
    return b"".join([it.feed(piece) for piece in pieces]) + it.end()


@pytest.mark.parametrize(
    "before", [b"", b"\r\n\r\n", b"\xef\xbb\xbf", b": ping\n\n", b"event: x\n"]
)
@given(cuts=st.lists(st.floats(0, 1), max_size=9))
def test_a_stream_is_filtered(before: bytes, cuts: list[float]) -> None:
    expected = filtered(UnaskedUsage(), [before + STREAM])
    assert LATE_CHUNK not in expected
    assert filtered(SniffedUnasked(), chunked(before + STREAM, cuts)).replace(
        b"\xef\xbb\xbf", b""
    ) == expected.replace(b"\xef\xbb\xbf", b"")
    assert LATE_CHUNK not in filtered(SniffedUnasked(), bytewise(before + STREAM))


@pytest.mark.parametrize(
    "body", [CHAT_BODY, b"  \n " + CHAT_BODY, b"<html>", b"dat", b"", b" \n", b"plain" + STREAM]
)
def test_anything_else_passes_as_it_is(body: bytes) -> None:
    assert filtered(SniffedUnasked(), [body]) == body
    assert filtered(SniffedUnasked(), bytewise(body)) == body


def test_space_that_keeps_a_connection_open_is_not_held() -> None:
    it = SniffedUnasked()
    assert it.feed(b"\n") == b"\n"
    assert it.feed(b"  ") == b"  "
    assert not it.at_event_boundary
    assert it.feed(b"d") == b""
    assert it.feed(b"one") == b"done"
    assert it.feed(b"x") == b"x"


def test_where_an_event_of_our_own_may_stand() -> None:
    it = SniffedUnasked()
    assert not it.at_event_boundary
    it.feed(STREAM)
    assert it.at_event_boundary


@pytest.mark.parametrize(
    ("content_type", "sized", "kind"),
    [
        ("text/event-stream; charset=utf-8", False, UnaskedUsage),
        ("Text/Event-Stream", True, UnaskedUsage),
        ("", False, SniffedUnasked),
        ("text/plain", True, SniffedUnasked),
        ("application/json", False, SniffedUnasked),
        ("application/json; charset=utf-8", True, type(None)),
        ("application/problem+json", True, type(None)),
    ],
)
def test_unasked_filter(content_type: str, sized: bool, kind: type) -> None:
    assert type(unasked_filter(content_type, sized=sized)) is kind
