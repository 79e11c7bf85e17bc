"""ConnectionParser out of known lines, held against gunicorn's own parser."""

import gc
import itertools
import weakref
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.socket import socketpair
from gunicorn.config import Config
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from proxy.core.errors import ClientError
from proxy.server.request_parser import ConnectionParser, RequestHead, head_class

CONFIG = Config()
for _name, _value in {
    "http_parser": "python",
    "limit_request_line": 100,
    "limit_request_fields": 8,
    "limit_request_field_size": 6000,
    "permit_unconventional_http_method": True,
    "header_map": "refuse",
}.items():
    CONFIG.set(_name, _value)
KIND = head_class(CONFIG)
PEER = ("127.0.0.1", 1)
POST = (
    b"POST /v1/chat/completions?a=b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
    b"Authorization: Bearer sk-secret\r\nX-Stainless-Lang: python\r\nContent-Length: 2\r\n\r\n{}"
)


def connection(pieces: list[bytes], kind: type[RequestHead] = KIND) -> ConnectionParser:
    heads = ConnectionParser(kind, None, PEER)
    heads.unreader = IterUnreader(iter(pieces))
    return heads


def facts(request: Any) -> tuple[object, ...]:
    return (
        request.method,
        request.uri,
        request.path,
        request.query,
        request.fragment,
        request.version,
        request.headers,
        request.should_close(),
        type(request.body.reader).__name__,
        getattr(request.body.reader, "length", None),
        request._expected_100_continue,
    )


def outcome(parse: Any) -> tuple[object, ...]:
    try:
        return facts(parse())
    except Exception as error:  # noqa: BLE001
        return (type(error).__name__,)


def coded(request: Any) -> bool:
    """What we refuse and gunicorn takes: a transfer coding beside chunked."""
    return any(n == "TRANSFER-ENCODING" and v.lower() != "chunked" for n, v in request.headers)


class Patient(Request):  # type: ignore[misc]
    """gunicorn's own, with the names that have underscores."""

    def _apply_header_policy(self, name: str, value: str, *args: Any, **more: Any) -> Any:
        return (
            (name, value)
            if "_" in name
            else super()._apply_header_policy(name, value, *args, **more)
        )


def gunicorn_s(data: bytes) -> tuple[object, ...]:
    """And what is refused beyond it; what that is in detail is shown in test_checks.py."""
    held: list[Any] = []

    def parse() -> Any:
        held.append(Patient(CONFIG, IterUnreader(iter([data])), PEER))
        return held[0]

    result = outcome(parse)
    if not held:
        return result
    request = held[0]
    hosts = [value for name, value in request.headers if name == "HOST"]
    if "#" in request.uri or (not hosts and request.version >= (1, 1)):
        return ("ClientError",)
    if request.uri.startswith("http:") and hosts != ["h"]:
        return ("ClientError",)
    return ("UnsupportedTransferCoding",) if coded(request) else result


def ours(data: bytes) -> tuple[object, ...]:
    def parse() -> RequestHead:
        request = connection([data]).parse_next(5)
        # The body tells the client to go on itself, once it is read.
        request._expected_100_continue = request.body._continue_due
        return request

    return outcome(parse)


LINES = st.sampled_from(
    [
        b"Host: h",
        b"host: other",
        b"Content-Type: application/json",
        b"content-type:x",
        b"Content-Length: 2",
        b"Content-Length: 02",
        b"Content-Length: +2",
        b"Content-Length: \xb2",
        b"Content-Length: -1",
        b"Content-Length: 1" + b"0" * 20,
        b"Content-Length:",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: xchunked",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Connection: Upgrade",
        b"Expect: 100-continue",
        b"Expect: more",
        b"X-Long: " + b"x" * 6000,
        b"X_Under: score",
        b"X-Forwarded-Proto: https",
        b"X-Space : a",
        b" folded",
        b"\tfolded",
        b"No colon",
        b": no name",
        b"X-A: 1",
        b"X-A: 2",
        b"X-Bare: a\nb",
        b"X-Return: a\rb",
        b"X-Null: a\x00b",
        b"X-Latin: \xe9",
        b"X-\xe9: 1",
        b"",
    ]
)
FIRSTS = st.sampled_from(
    [
        b"GET /v1/models HTTP/1.1",
        b"POST /v1/chat/completions HTTP/1.1",
        b"POST /v1/x?key=1 HTTP/1.1",
        b"GET /v1/x#f HTTP/1.0",
        b"OPTIONS * HTTP/1.1",
        b"GET * HTTP/1.1",
        b"CONNECT h:80 HTTP/1.1",
        b"GET http://h/v1/x HTTP/1.1",
        b"get /x HTTP/1.1",
        b"GET  /x HTTP/1.1",
        b"GET /x HTTP/1.1 ",
        b"GET /x HTTP/2.0",
        b"GET /\xe9 HTTP/1.1",
        b"GET /" + b"x" * 100 + b" HTTP/1.1",
        b"GET /x",
        b"",
        b"\r\nGET /x HTTP/1.1",
        b"GET /x\nHTTP/1.1",
    ]
)
ENDS = st.sampled_from([b"\r\n\r\n", b"\n\n", b"\r\n", b"\n\r\n", b"\r\n\r\n{}", b"\r\n\r\nGET / "])


@pytest.mark.slow
@settings(max_examples=600)
@given(FIRSTS, st.lists(LINES, max_size=10), ENDS)
@example(b"GET /x HTTP/1.1", [b"X-A: 1"] * 9, b"\r\n\r\n")
@example(b"GET /x HTTP/1.1", [b"Content-Length: " + b"1" * 5000], b"\r\n\r\n")
@example(b"GET http://h/v1/x HTTP/1.1", [b"host: other", b"Content-Length: +2"], b"\r\n\r\n")
def test_it_accepts_what_gunicorn_accepts(first: bytes, lines: list[bytes], end: bytes) -> None:
    # Of these two gunicorn goes by the first, and we by `close`: see the next test.
    assume(not {b"Connection: keep-alive", b"Connection: close"} <= set(lines))
    data = b"\r\n".join([first, *lines]) + end
    expected = gunicorn_s(data)
    for _ in range(2):  # and again, now that its lines are known
        got = ours(data)
        if len(expected) == 1 and got == ("ClientError",) != expected:
            # Of two faults, ours may be found first.
            head = data.partition(b"\r\n\r\n")[0].lower()
            of_another_host = b"http://h/" in first and b"\r\nhost: h\r\n" not in head + b"\r\n"
            assert b"#" in first or b"\r\nhost:" not in head or of_another_host
        elif b"http://h/v1/x" in first and len(expected) > 1:
            assert got == (expected[0], "/v1/x", *expected[2:])
        else:
            assert got == expected


@pytest.mark.parametrize(
    ("lines", "closes"),
    [
        (b"", False),
        (b"Connection: close\r\n", True),
        (b"Connection: TE, close\r\n", True),
        (b"Connection: TE\r\nConnection: Close\r\n", True),
        (b"Connection: keep-alive\r\nConnection: close\r\n", True),
        (b"Connection: X-Close\r\n", False),
        (b"Connection: keep-alive, TE\r\n", False),
    ],
)
def test_close_may_stand_among_others(lines: bytes, closes: bool) -> None:
    """gunicorn's own looks at a line that has nothing else (RFC 9112 §9.6)."""
    request = connection([b"GET /v1/x HTTP/1.1\r\nHost: h\r\n" + lines + b"\r\n"]).parse_next(5)
    assert request.should_close() is closes


def test_nothing_of_a_finished_request_is_held() -> None:
    heads = connection([POST])
    request = heads.parse_next(5)
    body = weakref.ref(request.body)
    del request
    heads.reset()
    gc.disable()
    try:
        assert body() is None  # by counting references alone
    finally:
        gc.enable()


@given(st.lists(st.integers(0, len(POST)), max_size=6))
def test_it_may_come_in_any_pieces(cuts: list[int]) -> None:
    places = sorted({0, len(POST), *cuts})
    pieces = [POST[a:b] for a, b in itertools.pairwise(places)]
    request = connection(pieces).parse_next(5)
    assert facts(request)[:-1] == facts(connection([POST]).parse_next(5))[:-1]
    assert b"".join(iter(lambda: request.body.read_arrived(10), b"")) == b"{}"


def test_one_after_the_other() -> None:
    heads = connection([POST + POST[:50], POST[50:]])
    for _ in range(2):
        request = heads.parse_next(5)
        assert request.by_name["HOST"] == "h"
        assert request.body.first_values["HOST"] == "h"
        assert request.body.read_arrived(10) == b"{}"
        assert request.body.ended
    assert not heads.pipelined
    with pytest.raises(StopIteration):
        heads.parse_next(5)


def test_secrets_are_remembered_by_their_connection_alone() -> None:
    kind = head_class(CONFIG)
    heads = connection([POST.replace(b"POST ", b"PUT ")], kind)
    heads.parse_next(5)
    remembered = b"\n".join([*kind.known.fields, *kind.known._firsts])
    assert b"X-Stainless-Lang: python" in remembered
    assert b"secret" not in remembered
    assert b"a=b" not in remembered
    assert b"Authorization: Bearer sk-secret" in heads.own


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.server.request_parser._MAX_LINES", 10)
    kind = head_class(CONFIG)

    def requests() -> Iterator[bytes]:
        for n in range(50):
            yield b"GET /%d HTTP/1.1\r\nHost: h%d\r\nX-Own: %d\r\n\r\n" % (n, n, n)

    heads = ConnectionParser(kind, None, PEER)
    heads.unreader = IterUnreader(requests())
    for n in range(50):
        assert heads.parse_next(5).headers == [("HOST", f"h{n}"), ("X-OWN", str(n))]
    assert len(kind.known.fields) <= 10
    assert len(kind.known._firsts) <= 10
    assert len(heads.own) <= 12


def test_a_head_that_never_ends_is_bounded() -> None:
    kind = head_class(CONFIG)
    kind.limit_request_fields = 100_000
    lines = (b"X-A: %d\r\n" % n for n in itertools.count())
    heads = ConnectionParser(kind, None, PEER)
    heads.unreader = IterUnreader(itertools.chain([b"GET / HTTP/1.1\r\n"], lines))
    with pytest.raises(Exception, match="max buffer headers"):
        heads.parse_next(60)


def test_a_slow_head_is_408() -> None:
    client, server = socketpair()
    with client, server:
        client.sendall(b"GET / HTTP/1.1\r\nHost")
        heads = ConnectionParser(KIND, server, PEER)
        with pytest.raises(ClientError) as refused:
            heads.parse_next(0.05)
        assert refused.value.code == "request_timeout"
        client.sendall(POST)
        with gevent.Timeout(5):
            request = ConnectionParser(KIND, server, PEER).parse_next(5)
    assert request.method == "POST"
