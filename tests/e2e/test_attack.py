"""Hostile clients on one worker: smuggling, secrets, and bytes from a dice.

Whatever a client sends, the upstream gets no request that the client did not visibly make, nothing
secret is shown or kept, and the worker goes on.
"""

import base64
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.tools.http1_reader import ResponseReader
from tests.support import odd_responses  # noqa: F401  (adds its behaviours)
from tests.support.fake_upstream import Upstream
from tests.support.ports import free_port
from tests.support.raw_client import RawClient
from tests.support.raw_requests import error_of
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

MANAGEMENT = "management-CANARY-MANAGEMENT-0123456789"
UPSTREAM = "sk-canary-CANARYUPSTREAMKEY0123456789-tail"
ENCRYPTION = bytes(range(100, 132))
PROXY_PASSWORD = "CANARYPROXYPASSWORD"


@dataclass
class Attacked:
    """One worker with canaries for secrets; ``token`` is good."""

    server: ProxyServer
    project_id: str
    token: str
    worker: int

    @property
    def bearer(self) -> tuple[str, str]:
        return ("Authorization", f"Bearer {self.token}")

    def fill(self, template: bytes) -> bytes:
        """``{auth}`` becomes a good header line."""
        line = f"Authorization: Bearer {self.token}\r\n".encode()
        return template.replace(b"{auth}", b"Host: t\r\n" + line)

    def manage(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {MANAGEMENT}"}
        return self.server.manage(method, path, body, headers=headers)


def _started(folder: Path, upstream_url: str, **more: str) -> Attacked:
    server = ProxyServer(
        folder,
        upstream_url,
        WEB_CONCURRENCY="1",
        LOG_LEVEL="debug",
        MANAGEMENT_TOKEN=MANAGEMENT,
        ENCRYPTION_KEY=base64.b64encode(ENCRYPTION).decode(),
        UPSTREAM_READ_TIMEOUT="1",
        MAX_JSON_BYTES="10000",
        MAX_REQUEST_BYTES="100000",
        **more,
    ).start()
    attacked = Attacked(server, "", "", server.worker_pids()[0])
    project = attacked.manage("POST", "/projects", {"name": "p", "api_key": UPSTREAM}).json()
    body = {"project_id": project["id"], "duration_minutes": 60}
    token = attacked.manage("POST", "/tokens", body).json()["token"]
    return Attacked(server, project["id"], token, attacked.worker)


@pytest.fixture(scope="module")
def attacked(
    tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream
) -> Iterator[Attacked]:
    made = _started(tmp_path_factory.mktemp("attacked"), session_upstream.url)
    yield made
    assert made.server.worker_pids() == [made.worker], "it is still the same worker"
    assert made.server.stop() == 0
    assert "Traceback" not in made.server.log_text()


HIDDEN = b"GET /v1/behave/echo?hidden HTTP/1.1\r\nHost: h\r\nX-Hidden: 1\r\n\r\n"
POST = b"POST /v1/behave/echo HTTP/1.1\r\n{auth}"
TEXT = POST + b"Content-Type: text/plain\r\n"

#: Refused; the connection is closed, since nobody knows where the next request begins.
REFUSED = {
    "cl-te": TEXT + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te-cl": TEXT + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te-unknown": TEXT + b"Transfer-Encoding: xchunked\r\n\r\n" + HIDDEN,
    "te-twice": TEXT + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    "te-chunked-twice": TEXT + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te-chunked-lines": TEXT + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n" + HIDDEN,
    "te-not-last": TEXT + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te-identity": TEXT + b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc" + HIDDEN,
    "te-quoted": TEXT + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n' + HIDDEN,
    "te-parameter": TEXT + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te-vertical-tab": TEXT + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te-empty": TEXT + b"Transfer-Encoding:\r\nContent-Length: 3\r\n\r\nabc" + HIDDEN,
    "te-space-colon": TEXT + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te-underscore": TEXT + b"Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te-folded": TEXT + b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n" + HIDDEN,
    "te-folded-value": TEXT + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te-bare-cr": TEXT + b"X: y\rTransfer-Encoding: chunked\r\n\r\n" + HIDDEN,
    "te-bare-lf": TEXT + b"X: y\nTransfer-Encoding: chunked\r\n\r\n" + HIDDEN,
    "te-http-1.0": b"POST /v1/behave/echo HTTP/1.0\r\n{auth}Transfer-Encoding: chunked\r\n\r\n"
    + b"0\r\n\r\n"
    + HIDDEN,
    "cl-twice": TEXT + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc" + HIDDEN,
    "cl-twice-same": TEXT + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc" + HIDDEN,
    "cl-list": TEXT + b"Content-Length: 3, 3\r\n\r\nabc" + HIDDEN,
    "cl-plus": TEXT + b"Content-Length: +3\r\n\r\nabc" + HIDDEN,
    "cl-minus": TEXT + b"Content-Length: -3\r\n\r\nabc" + HIDDEN,
    "cl-hex": TEXT + b"Content-Length: 0x3\r\n\r\nabc" + HIDDEN,
    "cl-inner-space": TEXT + b"Content-Length: 3 3\r\n\r\nabc" + HIDDEN,
    "cl-empty": TEXT + b"Content-Length:\r\n\r\nabc" + HIDDEN,
    "cl-superscript": TEXT + b"Content-Length: \xb3\r\n\r\nabc" + HIDDEN,
    "cl-underscore": TEXT + b"Content_Length: 3\r\n\r\nabc" + HIDDEN,
    "cl-digits": TEXT + b"Content-Length: " + b"0" * 5000 + b"3\r\n\r\nabc" + HIDDEN,
    "cl-overflow": TEXT + b"Content-Length: 18446744073709551619\r\n\r\nabc" + HIDDEN,
    "chunk-plus": TEXT + b"Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n" + HIDDEN,
    "chunk-hex": TEXT + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n" + HIDDEN,
    "chunk-minus": TEXT + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n" + HIDDEN,
    "chunk-space": TEXT + b"Transfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n" + HIDDEN,
    "chunk-space-after": TEXT + b"Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n",
    "chunk-empty-size": TEXT + b"Transfer-Encoding: chunked\r\n\r\n\r\n" + HIDDEN,
    "chunk-underscore": TEXT + b"Transfer-Encoding: chunked\r\n\r\n1_0\r\n" + b"a" * 16 + b"\r\n",
    "chunk-bare-lf": TEXT + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n" + HIDDEN,
    "chunk-ext-bare-cr": TEXT + b"Transfer-Encoding: chunked\r\n\r\n3;\ra\r\nabc\r\n0\r\n\r\n",
    "chunk-ext-bare-lf": TEXT + b"Transfer-Encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n",
    "chunk-too-long": TEXT + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcde\r\n0\r\n\r\n" + HIDDEN,
    "chunk-end-bare-lf": TEXT + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n" + HIDDEN,
    "chunk-ext-long": TEXT
    + b"Transfer-Encoding: chunked\r\n\r\n3;"
    + b"a" * 2000
    + b"\r\nabc\r\n0\r\n\r\n",
    "chunk-ext-endless": TEXT + b"Transfer-Encoding: chunked\r\n\r\n3;" + b"a" * 70_000,
    "trailer-length": TEXT
    + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n"
    + HIDDEN,
    "trailer-bare-lf": TEXT + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: a\n\r\n\r\n" + HIDDEN,
    "nul-in-name": TEXT + b"X\0: a\r\n\r\n",
    "nul-in-value": TEXT + b"X: a\0b\r\n\r\n",
    "latin-1-name": TEXT + b"X\xe9: a\r\n\r\n",
    "no-name": TEXT + b": a\r\n\r\n",
    "no-colon": TEXT + b"Xa\r\n\r\n",
    "folded-first": b"GET /v1/behave/echo HTTP/1.1\r\n X: y\r\n{auth}\r\n",
    "address-underscore": TEXT + b"X_Forwarded_For: 1.1.1.1\r\n\r\n",
    "address-half-underscore": TEXT + b"X-Forwarded_For: 1.1.1.1\r\n\r\n",
    "key-underscore": TEXT + b"X_API_Key: a\r\n\r\n",
    "method-underscore": TEXT + b"X_HTTP_Method_Override: PUT\r\n\r\n",
    "coding-underscore": TEXT + b"Accept_Encoding: br\r\n\r\n",
    "two-hosts": TEXT + b"Host: other\r\n\r\n",
    "no-host": b"GET /v1/behave/echo HTTP/1.1\r\n" + HIDDEN[HIDDEN.index(b"X-") :],
    "host-list": b"GET /v1/behave/echo HTTP/1.1\r\nHost: a, b\r\n\r\n" + HIDDEN,
    "host-path": b"GET /v1/behave/echo HTTP/1.1\r\nHost: a/b\r\n\r\n" + HIDDEN,
    "host-port": b"GET /v1/behave/echo HTTP/1.1\r\nHost: a:65536\r\n\r\n" + HIDDEN,
    "fragment": b"GET /v1/behave/echo#x HTTP/1.1\r\n{auth}\r\n" + HIDDEN,
    "bare-lf-head": b"GET /v1/behave/echo HTTP/1.1\n{auth}\n",
    "two-empty-lines": b"\r\n\r\nGET /v1/behave/echo HTTP/1.1\r\n{auth}\r\n",
    "bare-lf-first": b"\nGET /v1/behave/echo HTTP/1.1\r\n{auth}\r\n",
    "two-spaces": b"GET  /v1/behave/echo HTTP/1.1\r\n{auth}\r\n",
    "tab": b"GET\t/v1/behave/echo\tHTTP/1.1\r\n{auth}\r\n",
    "space-in-target": b"GET /v1/behave/echo HTTP/1.1\r\nx HTTP/1.1\r\n{auth}\r\n",
    "cr-in-target": b"GET /v1/behave/echo\rX HTTP/1.1\r\n{auth}\r\n",
    "nul-in-target": b"GET /v1/behave/echo\0 HTTP/1.1\r\n{auth}\r\n",
    "no-version": b"GET /v1/behave/echo\r\n{auth}\r\n",
    "http-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http-1.10": b"GET /v1/behave/echo HTTP/1.10\r\n{auth}\r\n",
    "version-space": b"GET /v1/behave/echo HTTP/1.1 \r\n{auth}\r\n",
    "connect": b"CONNECT upstream:443 HTTP/1.1\r\n{auth}\r\n" + HIDDEN,
    "absolute": b"GET http://evil/v1/behave/echo HTTP/1.1\r\n{auth}Connection: close\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\n{auth}Connection: close\r\n\r\n",
    "proxy-protocol": b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\nGET /v1/x HTTP/1.1\r\n{auth}\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n" * 3,
    "long-line": b"GET /v1/" + b"a" * 9000 + b" HTTP/1.1\r\n{auth}\r\n",
    "long-method": b"G" * 9000 + b" /v1/x HTTP/1.1\r\n{auth}\r\n",
    "long-header": TEXT + b"X: " + b"a" * 40_000 + b"\r\n\r\n",
    "many-headers": TEXT + b"X: a\r\n" * 150 + b"\r\n",
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_can_be_read_in_two_ways_is_refused(
    attacked: Attacked, upstream: Upstream, name: str
) -> None:
    with RawClient(attacked.server.port) as client:
        client.send(attacked.fill(REFUSED[name]))
        answer = client.read_response()
        assert answer.status in (400, 413, 414, 431, 501)
        assert error_of(answer) in ("invalid_request", "request_too_large")
        assert answer.values("Connection") == ["close"]
        assert client.at_end(), "one answer, and nothing for what may be hidden behind it"
    assert not any(request.complete for request in upstream.received)
    assert not any("hidden" in request.target for request in upstream.received)
    _goes_on(attacked)


def test_a_coded_upload_is_refused_or_stays_coded(attacked: Attacked, upstream: Upstream) -> None:
    """``gzip, chunked`` says what the body is, not only where it ends."""
    with RawClient(attacked.server.port) as client:
        client.send(
            attacked.fill(TEXT + b"Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        )
        answer = client.read_response()
    if answer.status == 200:
        assert upstream.received[-1].values("Transfer-Encoding") == ["gzip, chunked"]
    else:
        assert (answer.status, error_of(answer)) == (501, "invalid_request")
        assert not upstream.received


#: Unusual, valid, and read in one way only: the target and body that have to arrive.
FAITHFUL = {
    "one-empty-line": (b"\r\nGET /v1/behave/echo?x HTTP/1.1\r\n{auth}\r\n", b""),
    "no-space": (b"POST /v1/behave/echo?x HTTP/1.1\r\n{auth}Content-Length:3\r\n\r\nabc", b"abc"),
    "zeros": (b"POST /v1/behave/echo?x HTTP/1.1\r\n{auth}Content-Length: 003\r\n\r\nabc", b"abc"),
    "underscore": (
        b"POST /v1/behave/echo?x HTTP/1.1\r\n{auth}session_id: 1\r\nContent-Length: 3\r\n\r\nabc",
        b"abc",
    ),
    "absolute": (
        b"POST HTTP://T:80/v1/behave/echo?x HTTP/1.1\r\n{auth}Content-Length: 3\r\n\r\nabc",
        b"abc",
    ),
    "te-tab": (
        b"POST /v1/behave/echo?x HTTP/1.1\r\n{auth}Transfer-Encoding:\tchunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\n\r\n",
        b"abc",
    ),
    "te-case": (
        b"POST /v1/behave/echo?x HTTP/1.1\r\n{auth}Transfer-Encoding: CHUNKED\r\n\r\n"
        b"003\r\nabc\r\n00\r\n\r\n",
        b"abc",
    ),
    "in-length": (
        b"POST /v1/behave/echo?x HTTP/1.1\r\n{auth}Content-Length: %d\r\n\r\n%b"
        % (len(HIDDEN), HIDDEN),
        HIDDEN,
    ),
    "in-get": (
        b"GET /v1/behave/echo?x HTTP/1.1\r\n{auth}Content-Length: %d\r\n\r\n%b"
        % (len(HIDDEN), HIDDEN),
        HIDDEN,
    ),
    "in-json": (
        b"POST /v1/behave/echo?x HTTP/1.1\r\n{auth}Content-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(HIDDEN), HIDDEN),
        HIDDEN,
    ),
    "in-chunk": (
        b"POST /v1/behave/echo?x HTTP/1.1\r\n{auth}Transfer-Encoding: chunked\r\n\r\n"
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN),
        HIDDEN,
    ),
    "like-chunks": (
        b"POST /v1/behave/echo?x HTTP/1.1\r\n{auth}Content-Length: 5\r\n\r\n0\r\n\r\n",
        b"0\r\n\r\n",
    ),
    "connection-names-framing": (
        b"POST /v1/behave/echo?x HTTP/1.1\r\n{auth}Connection: Content-Length, Host, Authorization"
        b"\r\nContent-Length: %d\r\n\r\n%b" % (len(HIDDEN), HIDDEN),
        HIDDEN,
    ),
    "connection-names-chunked": (
        b"POST /v1/behave/echo?x HTTP/1.1\r\n{auth}Connection: Transfer-Encoding\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN),
        HIDDEN,
    ),
    "trailers": (
        b"POST /v1/behave/echo?x HTTP/1.1\r\n{auth}Trailer: X-Late\r\nTransfer-Encoding: chunked"
        b"\r\n\r\n3\r\nabc\r\n0\r\nX-Late: 1\r\n\r\n",
        b"abc",
    ),
    "http2-upgrade": (
        b"GET /v1/behave/echo?x HTTP/1.1\r\n{auth}Connection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
        b"",
    ),
}


@pytest.mark.parametrize("name", list(FAITHFUL))
def test_what_hides_in_a_body_stays_in_it(
    attacked: Attacked, upstream: Upstream, name: str
) -> None:
    """The next, visible request on the connection gets its own answer."""
    request, body = FAITHFUL[name]
    with RawClient(attacked.server.port) as client:
        for _ in range(2):
            client.send(attacked.fill(request))
            seen = json.loads(client.read_response().body)
            assert (seen["target"], seen["body"]) == ("/v1/behave/echo?x", body.decode())
            client.request("GET", "/v1/behave/echo?visible", [attacked.bearer])
            assert json.loads(client.read_response().body)["target"] == "/v1/behave/echo?visible"
    assert len(upstream.received) == 4
    for received in upstream.received:
        assert received.values("Authorization") == [f"Bearer {UPSTREAM}"]
        assert len(received.values("Host")) == 1
        assert len(received.values("Content-Length") + received.values("Transfer-Encoding")) <= 1
        for gone in ("Upgrade", "HTTP2-Settings", "Connection", "Trailer", "X-Late"):
            assert not received.values(gone)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /v1/behave/echo HTTP/1.1\r\nHost: t\r\n", 401),
        (b"POST /v1/../manage HTTP/1.1\r\n{auth}", 400),
        (b"POST /health HTTP/1.1\r\n{auth}", 405),
        (b"POST /nowhere HTTP/1.1\r\n{auth}", 404),
        (b"HEAD /v1/behave/echo HTTP/1.1\r\n{auth}", 200),
        (b"GET /v1/behave/not-modified HTTP/1.1\r\n{auth}", 304),
        (b"GET /v1/behave/no-content HTTP/1.1\r\n{auth}", 204),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_the_body_of_a_refused_request_is_no_request(
    attacked: Attacked, upstream: Upstream, head: bytes, status: int, chunked: bool
) -> None:
    framing = (
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        if chunked
        else b"Content-Length: %d\r\n\r\n%b"
    )
    method = "HEAD" if head.startswith(b"HEAD") else "POST"
    with RawClient(attacked.server.port) as client:
        client.send(attacked.fill(head + framing % (len(HIDDEN), HIDDEN)))
        answer = client.read_response(method)
        assert answer.status == status
        if answer.values("Connection") == ["close"]:
            assert client.at_end()
        else:
            client.request("GET", "/v1/behave/echo?visible", [attacked.bearer])
            assert json.loads(client.read_response().body)["target"] == "/v1/behave/echo?visible"
    assert not any("hidden" in request.target for request in upstream.received)


@pytest.mark.parametrize("size", [b"ffffffff", b"10000000000000003", b"f" * 100, b"0" * 100 + b"9"])
def test_a_chunk_that_never_ends_is_never_completed(
    attacked: Attacked, upstream: Upstream, size: bytes
) -> None:
    """A size that overflows anybody's integer is not a small one."""
    with RawClient(attacked.server.port) as client:
        client.send(
            attacked.fill(TEXT + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\nabc\r\n0")
        )
        wait_until(lambda: bool(upstream.received))
        client.sock.shutdown(1)
        answer = client.read_response()
        assert (answer.status, error_of(answer)) == (400, "invalid_request")
    assert len(upstream.received) == 1
    assert not upstream.received[0].complete


@pytest.mark.parametrize(
    "target",
    [
        "/v1/behave/echo?a=%0d%0aX-Injected:%201",
        "/v1/behave/echo/%00/%0a",
        "/v1/behave/echo//%2f%2F;x=1?q=",
        "/v1/behave/echo/%ff%zz%",
        '/v1/behave/echo/"<>\\^`{|}',
        "/v1/behave/echo/?http://evil/v1/../manage",
    ],
)
def test_odd_targets_pass_as_they_are(attacked: Attacked, upstream: Upstream, target: str) -> None:
    with RawClient(attacked.server.port) as client:
        client.request("GET", target, [attacked.bearer])
        answer = client.read_response()
    assert json.loads(answer.body)["target"] == target
    assert not answer.values("X-Injected")


def test_only_a_sane_request_id_is_taken_over(attacked: Attacked, upstream: Upstream) -> None:
    for given_id, kept in (
        ("abc-1.2:3_4", True),
        ("a b", False),
        ("x" * 129, False),
        ("\xe9", False),
    ):
        with RawClient(attacked.server.port) as client:
            client.request("GET", "/v1/models", [attacked.bearer, ("X-Request-ID", given_id)])
            (told,) = client.read_response().values("X-Proxy-Request-ID")
        assert (told == given_id) == kept


def _goes_on(attacked: Attacked) -> None:
    with RawClient(attacked.server.port) as client:
        client.request("GET", "/v1/models", [attacked.bearer])
        assert client.read_response().status == 200


# Bytes from a dice.

_PARTS = st.sampled_from(
    [
        b"GET /v1/models HTTP/1.1\r\n",
        b"POST /v1/behave/json HTTP/1.1\r\n",
        b"PUT /v1/behave/sse HTTP/1.0\r\n",
        b"OPTIONS /manage/projects HTTP/1.1\r\n",
        b"GET /health HTTP/1.1\r\n",
        b"{auth}",
        b"Host: a\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Type: application/json\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: close\r\n",
        b"Connection: keep-alive, x\r\n",
        b"Upgrade: websocket\r\n",
        b"Range: bytes=0-1\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"hello",
        b": \r\n",
        b"\n",
        b"\0",
    ]
)
_VALID = [
    b"GET /v1/models?a=1 HTTP/1.1\r\n{auth}Accept: */*\r\n\r\n",
    b"POST /v1/behave/json HTTP/1.1\r\n{auth}Content-Type: application/json\r\n"
    b'Content-Length: 13\r\n\r\n{"model": "m"}',
    b"POST /v1/behave/sse HTTP/1.1\r\n{auth}Transfer-Encoding: chunked\r\n\r\n"
    b"5;a=b\r\nhello\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
    b"POST /manage/tokens HTTP/1.1\r\n{auth}Content-Length: 2\r\n\r\n{}",
]


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """A valid request with a few bytes replaced, inserted or taken away."""
    data = bytearray(draw(st.sampled_from(_VALID)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 3))
        data[at : at + length] = draw(
            st.binary(max_size=3) | st.sampled_from([b"\r\n", b" ", b":"])
        )
    return bytes(data)


_ANYTHING = st.one_of(
    st.binary(max_size=300), st.lists(_PARTS, min_size=1, max_size=12).map(b"".join), _mutated()
)


@settings(
    max_examples=200,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=_ANYTHING, cut=st.integers(0, 300))
def test_bytes_from_a_dice(
    attacked: Attacked, session_upstream: Upstream, data: bytes, cut: int
) -> None:
    session_upstream.reset()
    sent = attacked.fill(data)
    with RawClient(attacked.server.port) as client:
        with contextlib.suppress(OSError):  # it may have been refused after the first part
            client.send(sent[:cut])
            client.send(sent[cut:])
            client.sock.shutdown(1)
        _well_formed_to_the_end(client, sent)
    for request in session_upstream.received:
        assert attacked.token not in str(request.headers)
        assert request.values("Authorization") == [f"Bearer {UPSTREAM}"]
    assert attacked.server.worker_pids() == [attacked.worker]
    assert "Traceback" not in attacked.server.log_text()
    _goes_on(attacked)


def _well_formed_to_the_end(client: RawClient, sent: bytes) -> None:
    """Answers, one after the other, until the connection ends. The last may be cut: we left."""
    while client.receive_more():
        pass
    left = client.take()
    while left:
        reader = ResponseReader(unread=left)
        head = reader.next_head()
        assert head is not None, left
        version, status, _ = head.line.split(" ", 2)
        assert version in ("HTTP/1.1", "HTTP/1.0")
        assert 100 <= int(status) < 600
        assert all(name and name.strip() == name for name, _ in head.headers)
        if head.status != 100:
            closes = ("Connection", "close") in head.headers
            assert ("Server", "gunicorn") in head.headers or closes
            if b"HEAD" in sent:
                return  # which of the answers have a body is another question
            reader.read_body()
            if not reader.ended:
                return  # it was cut, or lasts until the end
        left = reader.take()


# Canaries. Last, so that all of the above has left its traces.


def test_no_secret_is_shown_kept_or_passed_on(
    attacked: Attacked, upstream: Upstream, tmp_path: Path
) -> None:
    broken = _started(
        tmp_path / "broken",
        "http://upstream.invalid",
        UPSTREAM_PROXY_URL=f"http://user:{PROXY_PASSWORD}@127.0.0.1:{free_port()}",
    )
    try:
        for victim in (attacked, broken):
            said = b"".join(_tour(victim))
            assert said.count(b"HTTP/1.1 ") >= 25
            _assert_no_secrets(said, victim, "answers")
        for request in upstream.received:
            assert attacked.token not in str(request)
            assert attacked.token.encode() not in request.body
        broken.server.stop()  # which flushes what it holds
        _assert_nothing_kept(broken)
        _assert_nothing_kept(attacked)
    finally:
        broken.server.stop()


#: Behaviours that do not quote the request.
TOUR = [
    "json",
    "sse",
    "hang-up",
    "garbage",
    "cut-sse",
    "error-500",
    "silent",
    "silent-midstream",
    "endless-head",
    "unauthorized",
    "redirect",
]


def _tour(victim: Attacked) -> Iterator[bytes]:
    """What is said in answer to good requests, bad ones, and failures of the upstream."""
    auth = victim.fill(b"{auth}")
    chat = b'{"model": "m", "messages": [], "stream": true}'
    requests = [
        b"POST /v1/chat/completions HTTP/1.1\r\n{auth}Content-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(chat), chat),
        *[f"GET /v1/behave/{name} HTTP/1.1\r\n{{auth}}\r\n".encode() for name in TOUR],
        b"GET /v1/models HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer sk-%b\r\n\r\n" % (b"x" * 22),
        b"GET /v1/models HTTP/1.1\r\nHost: t\r\nAuthorization: Basic %b\r\n\r\n"
        % victim.token.encode(),
        # The token where it does not belong.
        b"GET /v1/%b HTTP/1.1\r\nHost: t\r\n\r\n" % victim.token[:12].encode(),
        b"BAD LINE %b\r\n\r\n" % victim.token.encode(),
        b"GET /v1/models HTTP/1.1\r\nHost: t\r\nAuthorization\x00: Bearer %b\r\n\r\n"
        % victim.token.encode(),
        b"GET /v1/models HTTP/1.1\r\nHost: t\r\nX: %b\0\r\n\r\n" % victim.token.encode(),
        b"POST /v1/m HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: %b\r\n\r\n" % victim.token.encode(),
        b"POST /v1/m HTTP/1.1\r\nHost: t\r\nExpect: %b\r\nContent-Length: 1\r\n\r\n"
        % victim.token.encode(),
        b"GET http://%b/v1/models HTTP/1.1\r\n\r\n" % victim.token.encode(),
        b"POST /v1/x HTTP/1.1\r\n{auth}Content-Length: 99999999\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\n{auth}Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /manage/projects HTTP/1.1\r\nHost: t\r\n" + auth[9:] + b"\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %b\r\n\r\n"
        % MANAGEMENT.encode(),
        b"GET /manage/projects?%b HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %bx\r\n\r\n"
        % (MANAGEMENT.encode(), MANAGEMENT.encode()),
        b"GET /health HTTP/1.1\r\n{auth}\r\n",
        b"GET /ready HTTP/1.1\r\n{auth}\r\n",
    ]
    for template in requests:
        with RawClient(victim.server.port) as client:
            client.send(victim.fill(template))
            line, headers = client.read_head()
            yield repr((line, headers)).encode()
            if ("Connection", "close") not in headers:
                client.send(b"GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            while client.receive_more():
                pass
            yield client.take()
    taken = {"name": "p", "api_key": UPSTREAM}
    managed: list[tuple[str, str, Any]] = [
        ("GET", "/projects", None),
        ("GET", f"/projects/{victim.project_id}", None),
        ("POST", "/projects", taken),
        ("POST", "/projects", {"name": [UPSTREAM], "api_key": UPSTREAM}),
        ("POST", "/projects", {"name": "q", "api_key": f"{UPSTREAM}\r\nX: y"}),
        ("POST", "/projects", {"name": "q", "api_key": [UPSTREAM]}),
        ("POST", "/projects", {"name": "q", "api_key": UPSTREAM, "metadata": UPSTREAM}),
        ("PATCH", f"/projects/{victim.project_id}", {"api_key": UPSTREAM[:8] + "..."}),
        ("GET", f"/tokens?project_id={victim.project_id}", None),
        ("DELETE", "/tokens", {"token": victim.token[:-1]}),
        ("DELETE", "/tokens", {"token": victim.token}),
    ]
    for method, path, body in managed:
        answer = victim.manage(method, path, body)
        yield repr(answer.headers).encode() + answer.content


def _secrets(victim: Attacked) -> list[bytes]:
    """Of each secret, the part that no mask shows."""
    basic = base64.b64encode(f"user:{PROXY_PASSWORD}".encode())
    return [
        victim.token[7:-4].encode(),
        UPSTREAM[8:-4].encode(),
        MANAGEMENT[6:].encode(),
        ENCRYPTION,
        base64.b64encode(ENCRYPTION),
        ENCRYPTION.hex().encode(),
        PROXY_PASSWORD.encode(),
        basic,
    ]


def _assert_no_secrets(data: bytes, victim: Attacked, where: str) -> None:
    for secret in _secrets(victim):
        at = data.find(secret)
        assert at < 0, f"{where}: …{data[max(0, at - 200) : at + 100]!r}…"


def _assert_nothing_kept(victim: Attacked) -> None:
    """Files (database, events, log) and what any user of the machine can list."""
    files = [path for path in victim.server.folder.rglob("*") if path.is_file()]
    assert {"proxy.db", "events.jsonl", "proxy.log"} <= {path.name for path in files}
    for path in files:
        _assert_no_secrets(path.read_bytes(), victim, path.name)
    process = victim.server.process
    assert process is not None
    if process.poll() is None:
        for pid in (process.pid, *victim.server.worker_pids()):
            _assert_no_secrets(Path(f"/proc/{pid}/cmdline").read_bytes(), victim, "command line")
