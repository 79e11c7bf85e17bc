"""Which lines pass: hop-by-hop and private ones do not, everything else does, as it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.headers import (
    content_of,
    downstream_headers,
    is_plain,
    metered,
    unbuffered,
    upgrade_headers,
    upstream_headers,
    without_length,
    without_origin,
)
from tests.support.response_heads import HEADERS

NEUTRAL = st.lists(st.tuples(st.sampled_from(["X-A", "COOKIE", "ACCEPT"]), st.text(max_size=5)))


def test_upstream_drops_and_keeps() -> None:
    lines = [
        ("HOST", "proxy.test"),
        ("AUTHORIZATION", "Bearer sk-access"),
        ("CONNECTION", "keep-alive, X-Hop ,close"),
        ("CONNECTION", "x-other"),
        ("X-HOP", "1"),
        ("X-OTHER", "1"),
        ("KEEP-ALIVE", "timeout=5"),
        ("PROXY-AUTHORIZATION", "Basic x"),
        ("PROXY-CONNECTION", "keep-alive"),
        ("TE", "trailers"),
        ("TRAILER", "X-T"),
        ("TRANSFER-ENCODING", "chunked"),
        ("UPGRADE", "h2c"),
        ("HTTP2-SETTINGS", "x"),
        ("EXPECT", "100-continue"),
        ("CONTENT-LENGTH", "3"),
        ("FORWARDED", "for=1.2.3.4"),
        ("X-FORWARDED-FOR", "1.2.3.4"),
        ("X-FORWARDED-PROTO", "https"),
        ("X-REAL-IP", "1.2.3.4"),
        ("CF-CONNECTING-IP", "1.2.3.4"),
        ("TRUE-CLIENT-IP", "1.2.3.4"),
        ("COOKIE", "a=1"),
        ("COOKIE", "b=2"),
        ("ACCEPT-ENCODING", "br, gzip"),
        ("OPENAI-ORGANIZATION", "org-1"),
        ("X-STAINLESS-LANG", "python"),
    ]
    assert upstream_headers(lines) == [
        ("Cookie", "a=1"),
        ("Cookie", "b=2"),
        ("Accept-Encoding", "gzip"),
        ("Openai-Organization", "org-1"),
        ("X-Stainless-Lang", "python"),
    ]


def test_a_key_of_the_client_s_own_keeps_its_place() -> None:
    lines = [("A", "1"), ("AUTHORIZATION", " b "), ("X-API-KEY", "c"), ("HOST", "h")]
    kept = [("A", "1"), ("Authorization", " b "), ("X-Api-Key", "c")]
    assert upstream_headers(lines, keep_authorization=True) == kept
    assert upstream_headers(lines) == [kept[0], kept[2]]
    protocols = ("SEC-WEBSOCKET-PROTOCOL", "realtime,openai-insecure-api-key.k ,  x")
    sent = upgrade_headers([lines[1], protocols], keep_authorization=True)
    assert sent[:2] == [("Authorization", " b "), ("Sec-Websocket-Protocol", protocols[1])]


def test_downstream_drops_and_keeps() -> None:
    lines = [
        ("Server", "cloudflare"),
        ("date", "now"),
        ("Connection", "X-Hop"),
        ("x-hop", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Transfer-Encoding", "chunked"),
        ("trailer", "x"),
        ("Set-Cookie", "a"),
        ("x-request-id", "req_1"),
        ("Set-Cookie", "b"),
        ("Content-Length", "3"),
        ("CONTENT-TYPE", "text/event-stream"),
    ]
    assert downstream_headers(lines) == [
        ("Set-Cookie", "a"),
        ("x-request-id", "req_1"),
        ("Set-Cookie", "b"),
        ("Content-Length", "3"),
        ("CONTENT-TYPE", "text/event-stream"),
    ]


def test_headers_about_the_upstream_s_own_origin_do_not_pass() -> None:
    words = [
        ("Alt-Svc", 'h3=":443"; ma=86400'),
        ("strict-transport-security", "max-age=31536000; includeSubDomains; preload"),
        ("NEL", "{}"),
        ("Report-To", "{}"),
        ("Reporting-Endpoints", 'a="https://a.test"'),
        ("Clear-Site-Data", '"*"'),
        ("Public-Key-Pins", "x"),
    ]
    others = [("X-Content-Type-Options", "nosniff"), ("CF-Ray", "1"), ("Set-Cookie", "a")]
    lines = [others[0], *words, *others[1:]]
    assert downstream_headers(lines) == others
    switched = [("Connection", "Upgrade"), ("Upgrade", "websocket"), *lines]
    assert without_origin(switched) == [*switched[:2], *others]


def test_an_event_stream_is_not_to_be_buffered() -> None:
    ours = ("X-Accel-Buffering", "no")
    assert unbuffered([("A", "1")]) == [("A", "1"), ours]
    assert unbuffered([("x-accel-buffering", "yes"), ("A", "1")]) == [("A", "1"), ours]


@given(HEADERS)
def test_unnamed_lines_pass_downstream_unchanged(lines: list[tuple[str, str]]) -> None:
    dropped = {"server", "date", "te", "trailer", "upgrade", "keep-alive"}
    kept = [(name, value) for name, value in lines if name.lower() not in dropped]
    assert downstream_headers(kept) == kept


@given(NEUTRAL)
def test_order_and_duplicates_pass_upstream(lines: list[tuple[str, str]]) -> None:
    assert upstream_headers(lines) == [(name.title(), value) for name, value in lines]


@pytest.mark.parametrize(
    ("asked", "passed"),
    [
        ("gzip, deflate, br, zstd", "gzip, deflate"),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", "gzip;q=0.8"),
        ("GZIP ; q=1", "GZIP ; q=1"),
        ("x-gzip", "x-gzip"),
        ("identity", "identity"),
        ("gzip;q=0", "gzip;q=0"),
        ("br", "identity"),
        ("*", "identity"),
        ("", "identity"),
        (" , ,", "identity"),
    ],
)
def test_encodings_we_can_meter(asked: str, passed: str) -> None:
    assert metered(asked) == passed


def test_title_case() -> None:
    came = [("X-REQUEST-ID", "1"), ("IDEMPOTENCY-KEY", "2")]
    assert upstream_headers(came) == [("X-Request-Id", "1"), ("Idempotency-Key", "2")]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], ("", "")),
        ([("content-TYPE", "a/b; c"), ("CONTENT-encoding", "gzip")], ("a/b; c", "gzip")),
        ([("X-Content-Type", "a/b")], ("", "")),
    ],
)
def test_the_content_type_and_encoding_of_a_response(
    lines: list[tuple[str, str]], expected: tuple[str, str]
) -> None:
    assert content_of(lines) == expected


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_plain_content(encoding: str) -> None:
    assert is_plain(encoding)


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
def test_encoded_content(encoding: str) -> None:
    assert not is_plain(encoding)


def test_without_length() -> None:
    lines = [("content-length", "5"), ("X-A", "1"), ("Content-Length", "5"), ("X-A", "2")]
    assert without_length(lines) == [("X-A", "1"), ("X-A", "2")]
