"""The matrix: every way for an upstream to answer × every kind of request, direct against relayed.

What may differ is what ``docs/relay.md`` names, and nothing else; each difference has its line in
:func:`_comparable`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.support.comparable_response import HOP, OURS
from tests.support.fake_upstream import Upstream
from tests.support.odd_responses import BREAKING, BREAKING_LATER, INVALID, PASSING
from tests.support.proxy_access import Access
from tests.support.raw_client import RawClient, RawResponse
from tests.support.raw_requests import error_of
from tests.support.server import UPSTREAM_KEY, ProxyServer

_FORM = (
    b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n"
    + bytes(range(256)) * 40
    + b"\r\n--b--\r\n"
)
_CHUNKS = b"5;x=y\r\nhello\r\n" + b"1000\r\n" + b"\0" * 4096 + b"\r\n0\r\nX-Trailer: 1\r\n\r\n"
_JSON = b'{"model": "m", "messages": []}'


@dataclass(frozen=True)
class Kind:
    """A kind of request: what follows its target, and a body that is sent by the piece."""

    method: str
    head: bytes
    body: tuple[bytes, ...] = ()
    #: The body as the upstream has to see it.
    meant: bytes = b""


KINDS = {
    "get": Kind("GET", b" HTTP/1.1\r\nHost: t\r\n"),
    "head": Kind("HEAD", b" HTTP/1.1\r\nHost: t\r\n"),
    "json": Kind(
        "POST",
        b" HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 30\r\n",
        (_JSON,),
        _JSON,
    ),
    "multipart": Kind(
        "POST",
        b" HTTP/1.1\r\nHost: t\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: %d\r\n" % len(_FORM),
        (_FORM[:50], _FORM[50:9000], _FORM[9000:]),
        _FORM,
    ),
    "chunked": Kind(
        "POST",
        b" HTTP/1.1\r\nHost: t\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n",
        (_CHUNKS[:3], _CHUNKS[3:100], _CHUNKS[100:]),
        b"hello" + b"\0" * 4096,
    ),
    "http-1.0": Kind("GET", b" HTTP/1.0\r\n"),
}
METERED = [
    name
    for name in PASSING
    if name.startswith(("json", "gzip", "deflate", "raw-deflate", "sse"))
    and name not in ("json-broken", "sse-many-lines", "sse-error-frame", "sse-bom")
]
ALL_KINDS = pytest.mark.parametrize("kind", list(KINDS))


class Matrix:
    def __init__(self, proxy: ProxyServer, upstream: Upstream, access: Access) -> None:
        self.proxy = proxy
        self.upstream = upstream
        self._keys = {proxy.port: access.token, upstream.port: UPSTREAM_KEY}

    def ask(
        self, port: int, kind: str, name: str, midway: Callable[[RawClient], None] = lambda _: None
    ) -> RawResponse:
        """``midway`` is called when the head of the answer is there."""
        asked = KINDS[kind]
        with RawClient(port) as client:
            client.send(
                f"{asked.method} /v1/behave/{name}?a=%2F&a=".encode()
                + asked.head
                + f"Authorization: Bearer {self._keys[port]}\r\n\r\n".encode()
            )
            for piece in asked.body:
                client.send(piece)
            return client.read_response(asked.method, lambda: midway(client))

    def both(self, kind: str, name: str) -> tuple[RawResponse, RawResponse]:
        """Direct and relayed."""
        return self.ask(self.upstream.port, kind, name), self.ask(self.proxy.port, kind, name)


@pytest.fixture
def matrix(proxy: ProxyServer, upstream: Upstream, access: Access) -> Matrix:
    return Matrix(proxy, upstream, access)


def _comparable(answer: RawResponse, method: str) -> tuple[str, list[tuple[str, str]], bytes, bool]:
    # The version is the hop's.
    status = answer.status_line.partition(" ")[2].rstrip(" ")
    headers = [(k, v) for k, v in answer.headers if k.lower() not in HOP | OURS]
    if answer.status == 204:
        # Framing, and forbidden here (RFC 9110 §8.6).
        headers = [(k, v) for k, v in headers if k.lower() != "content-length"]
    return status, headers, b"" if method == "HEAD" else answer.body, answer.clean


@ALL_KINDS
@pytest.mark.parametrize("name", list(PASSING))
def test_a_valid_answer_is_the_upstreams(matrix: Matrix, name: str, kind: str) -> None:
    method = KINDS[kind].method
    direct, relayed = matrix.both(kind, name)
    assert _comparable(relayed, method) == _comparable(direct, method)
    # No framing is doubled, and none is needed where there is no body.
    framing = relayed.values("Content-Length") + relayed.values("Transfer-Encoding")
    assert len(framing) <= 1
    assert len(relayed.values("Content-Encoding")) <= 1
    # What the client meant arrived.
    assert [request.body for request in matrix.upstream.received] == [KINDS[kind].meant] * 2
    sent, passed = matrix.upstream.received
    assert (passed.method, passed.target) == (sent.method, sent.target)
    (event,) = matrix.proxy.events(1)
    assert (event["outcome"], event["status_code"]) == ("completed", relayed.status)
    if method != "HEAD":
        assert event["bytes_out"] == len(relayed.body)


@pytest.mark.parametrize("name", METERED)
def test_usage_is_read_from_it(matrix: Matrix, name: str) -> None:
    matrix.ask(matrix.proxy.port, "json", name)
    (event,) = matrix.proxy.events(1)
    assert event["usage_source"] == "reported"
    assert event["metadata"]["total_tokens"] == 21


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "head"])
@pytest.mark.parametrize("name", list(BREAKING))
def test_a_cut_answer_is_cut(matrix: Matrix, name: str, kind: str) -> None:
    direct, relayed = matrix.both(kind, name)
    assert not relayed.clean
    assert relayed.status == direct.status
    assert relayed.body == direct.body
    assert b"[DONE]" not in relayed.body
    (event,) = matrix.proxy.events(1)
    assert (event["outcome"], event["error_code"]) == ("aborted", "upstream_broken")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "head"])
@pytest.mark.parametrize("name", list(BREAKING_LATER))
def test_an_answer_that_breaks_later_is_cut(matrix: Matrix, name: str, kind: str) -> None:
    def go_on(client: RawClient) -> None:
        client.wait_for(b"before the")
        matrix.upstream.gate.release()

    relayed = matrix.ask(matrix.proxy.port, kind, name, go_on)
    assert not relayed.clean
    assert relayed.body.startswith(b"before the ")
    assert b"HTTP/1.1" not in relayed.body
    (event,) = matrix.proxy.events(1)
    assert (event["outcome"], event["error_code"]) == ("aborted", "upstream_broken")


def test_what_came_before_the_break_is_passed_on(matrix: Matrix) -> None:
    relayed = matrix.ask(
        matrix.proxy.port,
        "get",
        "last-chunk-with-nonsense",
        lambda _: matrix.upstream.gate.release(),
    )
    matrix.proxy.events(1)
    assert (relayed.body, relayed.clean) == (b"before the breaks", False)


@ALL_KINDS
@pytest.mark.parametrize("name", list(INVALID))
def test_no_valid_answer_is_502(matrix: Matrix, name: str, kind: str) -> None:
    relayed = matrix.ask(matrix.proxy.port, kind, name)
    assert relayed.status == 502
    if kind != "head":
        assert error_of(relayed) == "upstream_broken"
        assert json.loads(relayed.body)["error"]["message"].startswith("The upstream")
    assert not relayed.values("X-A")
    (event,) = matrix.proxy.events(1)
    assert (event["outcome"], event["error_code"]) == ("aborted", "upstream_broken")


def test_a_connection_with_a_hidden_answer_is_not_used_again(
    matrix: Matrix, access: Access
) -> None:
    """The next request, on whichever connection, gets its own answer."""
    for name in ("hidden-answer", "body-for-head", "longer-than-said", "unasked-switch"):
        for kind in ("get", "head", "get", "json"):
            matrix.ask(matrix.proxy.port, kind, name)
            assert matrix.ask(matrix.proxy.port, "get", "one-interim").body == b"final"
    matrix.proxy.events(32)
