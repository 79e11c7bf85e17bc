"""What clients share: a worker, connections, nothing else. And what the environment may not do.

One server runs in an environment full of traps (a ``.netrc``, proxy variables), two reach their
upstream through a forward proxy. All have one worker, so that everything could be shared.
"""

import base64
import contextlib
import datetime as dt
import ipaddress
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import gevent
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gevent.server import StreamServer

from tests.support import odd_responses  # noqa: F401  (adds its behaviours)
from tests.support.fake_upstream import Upstream
from tests.support.proxy_access import Access
from tests.support.raw_client import RawClient, RawResponse
from tests.support.raw_requests import error_of
from tests.support.server import ProxyServer

PROXY_PASSWORD = "p@ss:w/rd"
PROXY_CREDENTIALS = f"user:{PROXY_PASSWORD}"


@dataclass
class Served:
    """A server and what it was given."""

    server: ProxyServer
    access: Access
    upstream_key: str

    def ask(self, method: str, target: str, headers: list[tuple[str, str]] = []) -> RawResponse:  # noqa: B006
        with RawClient(self.server.port) as client:
            client.request(method, target, [self.access.bearer, *headers])
            return client.read_response(method)


Serve = Callable[..., Served]


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts servers for the module."""
    made: list[ProxyServer] = []

    def start(name: str, upstream_url: str, *, netrc: str = "", **settings: str) -> Served:
        folder = tmp_path_factory.mktemp(name)
        if netrc:
            (folder / ".netrc").write_text(netrc)
            (folder / ".netrc").chmod(0o600)
        server = ProxyServer(folder, upstream_url, WEB_CONCURRENCY="1", **settings).start()
        made.append(server)
        key = f"sk-upstream-of-{name}-0123456789"
        project = server.create_project(name, key)
        token = server.mint(project["id"])
        return Served(server, Access(project["id"], token["id"], token["token"]), key)

    yield start
    for server in made:
        server.terminate()
    for server in made:
        assert server.wait() == 0
        assert "Traceback" not in server.log_text()


class ForwardProxy:
    """An HTTP forward proxy that notes what it is asked, and joins CONNECTs to one target."""

    def __init__(self) -> None:
        #: Request line and header lines of each request, as text.
        self.heads: list[str] = []
        self.connections = 0
        #: Where CONNECT leads, whatever it names; None refuses it.
        self.target: int | None = None
        self.plain_target: int | None = None
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.port: int = self._server.server_port

    def stop(self) -> None:
        self._server.stop(timeout=1)

    def _serve(self, sock: socket.socket, address: object) -> None:
        self.connections += 1
        with contextlib.suppress(OSError), sock:
            data = b""
            while b"\r\n\r\n" not in data:
                piece = sock.recv(65536)
                if not piece:
                    return
                data += piece
            head = data.partition(b"\r\n\r\n")[0].decode("latin-1")
            self.heads.append(head)
            if head.startswith("CONNECT "):
                if self.target is None:
                    sock.sendall(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
                    return
                sock.sendall(b"HTTP/1.1 200 Go on\r\n\r\n")
                self._join(sock, self.target)
            else:
                self._answer(sock, head)

    def _answer(self, sock: socket.socket, head: str) -> None:
        body = json.dumps(head).encode()
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    def _join(self, sock: socket.socket, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as other:

            def pump(source: socket.socket, sink: socket.socket) -> None:
                with contextlib.suppress(OSError):
                    while data := source.recv(65536):
                        sink.sendall(data)
                with contextlib.suppress(OSError):
                    sink.shutdown(socket.SHUT_WR)

            gevent.joinall([gevent.spawn(pump, sock, other), gevent.spawn(pump, other, sock)])


@pytest.fixture(scope="module")
def forward() -> Iterator[ForwardProxy]:
    proxy = ForwardProxy()
    yield proxy
    proxy.stop()


# Two clients on one worker, in an environment full of traps.


@dataclass
class Client:
    name: str
    token: str
    upstream_key: str
    answers: list[RawResponse] = field(default_factory=list)


@pytest.fixture(scope="module")
def trap() -> Iterator[ForwardProxy]:
    """Named by every proxy variable, and not to be reached by anyone."""
    proxy = ForwardProxy()
    yield proxy
    proxy.stop()


@pytest.fixture(scope="module")
def shared(serve: Serve, session_upstream: Upstream, trap: ForwardProxy) -> Served:
    url = f"http://trapped:secret@127.0.0.1:{trap.port}"
    names = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return serve(
        "shared",
        session_upstream.url,
        netrc="machine 127.0.0.1 login canary password netrc-canary\ndefault login a password b\n",
        **dict.fromkeys(names, url),
        no_proxy="",
        REQUESTS_CA_BUNDLE="/nowhere",
        CURL_CA_BUNDLE="/nowhere",
    )


def test_two_clients_share_connections_and_nothing_else(
    shared: Served, upstream: Upstream, trap: ForwardProxy
) -> None:
    server = shared.server
    clients = []
    for name in ("alice", "bob"):
        key = f"sk-upstream-key-of-{name}-0123456789"
        project = server.create_project(name, key)
        clients.append(Client(name, server.mint(project["id"])["token"], key))
    rounds, at_once = 25, 4

    def work(client: Client, worker: int) -> None:
        with RawClient(server.port) as connection:
            for number in range(rounds):
                mark = f"{client.name}-{worker}-{number}"
                behaviour = ("echo", "cookies", "echo")[number % 3]
                connection.request(
                    "POST",
                    f"/v1/behave/{behaviour}?{mark}",
                    [
                        ("Authorization", f"Bearer {client.token}"),
                        ("Cookie", f"mine={mark}"),
                        ("X-Mine", mark),
                        ("X-Request-ID", mark),
                    ],
                    mark.encode(),
                )
                answer = connection.read_response()
                assert answer.status == 200
                assert answer.values("X-Proxy-Request-ID") == [mark]
                client.answers.append(answer)
                if behaviour == "echo":
                    seen = json.loads(answer.body)
                    assert (seen["target"].partition("?")[2], seen["body"]) == (mark, mark)

    gevent.joinall(
        [gevent.spawn(work, client, n) for client in clients for n in range(at_once)],
        raise_error=True,
    )
    total = 2 * at_once * rounds
    assert sum(len(client.answers) for client in clients) == len(upstream.received) == total
    for request in upstream.received:
        mark = request.target.partition("?")[2]
        (owner,) = [client for client in clients if mark.startswith(client.name)]
        assert request.values("Authorization") == [f"Bearer {owner.upstream_key}"]
        assert request.values("Cookie") == [f"mine={mark}"], "and none that the upstream has set"
        assert request.values("X-Mine") == [mark]
        assert request.body.decode() == mark
    for request in upstream.received:
        for client in clients:
            assert client.token not in str(request)
    assert upstream.connections <= 2 * at_once, "connections are kept, and shared"
    events = server.events(total)
    assert {event["request_id"][:3] for event in events} == {"ali", "bob"}
    by_project = {event["project_id"]: event["request_id"].partition("-")[0] for event in events}
    assert sorted(by_project.values()) == ["alice", "bob"]
    assert not trap.connections


def test_one_connection_may_change_its_token(shared: Served, upstream: Upstream) -> None:
    """The key follows the request, not the connection; one without a token gets none."""
    server = shared.server
    projects = {name: f"sk-upstream-key-of-{name}-0123456789" for name in ("carol", "dave")}
    tokens = {
        name: server.mint(server.create_project(name, key)["id"])["token"]
        for name, key in projects.items()
    }
    with RawClient(server.port) as client:
        for name in ("carol", "dave", "nobody", "carol", "dave"):
            bearer = [("Authorization", f"Bearer {tokens[name]}")] if name in tokens else []
            client.request("GET", "/v1/behave/echo", bearer)
            answer = client.read_response()
            if name == "nobody":
                assert (answer.status, error_of(answer)) == (401, "invalid_token")
            else:
                assert upstream.received[-1].values("Authorization") == [f"Bearer {projects[name]}"]
    assert len(upstream.received) == 4
    server.events(5)


@pytest.mark.parametrize("name", ["moved", "found", "see-other", "temporary", "permanent"])
def test_redirects_are_passed_and_not_followed(
    shared: Served, upstream: Upstream, name: str
) -> None:
    answer = shared.ask("GET", f"/v1/behave/{name}")
    assert answer.status in (301, 302, 303, 307, 308)
    assert len(answer.values("Location")) == 1
    assert len(upstream.received) == 1
    shared.server.events(1)


def test_a_challenge_is_passed_and_not_answered(shared: Served, upstream: Upstream) -> None:
    for name, status in (("unauthorized", 401), ("proxy-authentication", 407)):
        assert shared.ask("GET", f"/v1/behave/{name}").status == status
    assert len(upstream.received) == 2
    shared.server.events(2)


def test_netrc_and_proxy_variables_are_ignored(
    shared: Served, upstream: Upstream, trap: ForwardProxy
) -> None:
    assert (shared.server.folder / ".netrc").exists()
    shared.ask("GET", "/v1/behave/echo")
    (request,) = upstream.received
    assert request.values("Authorization") == [f"Bearer {shared.upstream_key}"]
    assert not request.values("Proxy-Authorization")
    assert not trap.connections
    shared.server.events(1)


# Through a forward proxy.


def _expected_credentials() -> str:
    return "Basic " + base64.b64encode(PROXY_CREDENTIALS.encode()).decode()


def _proxy_url(forward: ForwardProxy) -> str:
    return f"http://user:p%40ss%3Aw%2Frd@127.0.0.1:{forward.port}"


@pytest.fixture(scope="module")
def by_proxy(serve: Serve, forward: ForwardProxy) -> Served:
    """A plain upstream with a path prefix that ends in ``/v1``, known to the forward proxy only."""
    return serve(
        "by-proxy",
        "http://upstream.invalid:8000/some/prefix/v1",
        UPSTREAM_PROXY_URL=_proxy_url(forward),
    )


def test_a_plain_upstream_through_a_proxy(by_proxy: Served, forward: ForwardProxy) -> None:
    answer = by_proxy.ask("GET", "/v1/models?a=%2F", [("Proxy-Authorization", "Basic mine")])
    assert answer.status == 200
    line, *lines = forward.heads[-1].split("\r\n")
    assert line == "GET http://upstream.invalid:8000/some/prefix/v1/models?a=%2F HTTP/1.1"
    assert "Host: upstream.invalid:8000" in lines
    assert f"Proxy-Authorization: {_expected_credentials()}" in lines
    assert f"Authorization: Bearer {by_proxy.upstream_key}" in lines
    assert not any("Basic mine" in line for line in lines)
    by_proxy.server.events(1)


# A TLS upstream.


@dataclass
class Certificates:
    """A CA, and a server's certificate from it for 127.0.0.1 and ``upstream.invalid``."""

    ca: Path
    server: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ca_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
    now = dt.datetime.now(dt.UTC)

    def certificate(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=2))
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        )

    usage = dict.fromkeys(
        (
            "content_commitment",
            "data_encipherment",
            "decipher_only",
            "digital_signature",
            "encipher_only",
            "key_agreement",
            "key_encipherment",
        ),
        False,
    )
    ca = (
        certificate(ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(x509.KeyUsage(crl_sign=True, key_cert_sign=True, **usage), True)
        .sign(ca_key, hashes.SHA256())
    )
    names = [
        x509.DNSName("upstream.invalid"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    server = (
        certificate(x509.Name([]), server_key)
        .add_extension(x509.SubjectAlternativeName(names), True)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    (folder / "server.pem").write_bytes(
        server.public_bytes(pem)
        + server_key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return Certificates(folder / "ca.pem", folder / "server.pem")


class TlsFront:
    """TLS in front of the stand-in upstream: the same server, on a port of its own."""

    def __init__(self, upstream: Upstream, certificates: Certificates) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server)
        context.set_alpn_protocols(["h2", "http/1.1"])
        #: Name asked for and protocol agreed on, of each connection.
        self.hellos: list[tuple[str | None, str | None]] = []
        self._name: str | None = None

        def serve(sock: ssl.SSLSocket, address: object) -> None:
            self.hellos.append((self._name, sock.selected_alpn_protocol()))
            upstream._serve(sock, address)

        def note_name(sock: object, name: str | None, context: object) -> None:
            self._name = name

        context.sni_callback = note_name
        self._server = StreamServer(("127.0.0.1", 0), serve, ssl_context=context)
        self._server.start()
        self.port: int = self._server.server_port

    def stop(self) -> None:
        self._server.stop(timeout=1)


@pytest.fixture(scope="module")
def front(session_upstream: Upstream, certificates: Certificates) -> Iterator[TlsFront]:
    server = TlsFront(session_upstream, certificates)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def by_tunnel(serve: Serve, forward: ForwardProxy, certificates: Certificates) -> Served:
    """A TLS upstream, reached by CONNECT; a prefix without ``/v1`` at its end."""
    return serve(
        "by-tunnel",
        "https://upstream.invalid/v1/behave/echo/prefix/",
        UPSTREAM_PROXY_URL=_proxy_url(forward),
        SSL_CERT_FILE=str(certificates.ca),
    )


def test_a_proxy_that_refuses_is_502_and_its_password_stays_ours(
    by_tunnel: Served, forward: ForwardProxy
) -> None:
    """Before any tunnel has been made, and kept."""
    assert forward.target is None
    answer = by_tunnel.ask("GET", "/v1/models")
    assert (answer.status, error_of(answer)) == (502, "upstream_unreachable")
    for secret in (PROXY_PASSWORD, "p%40ss", _expected_credentials()):
        assert secret.encode() not in answer.body
        assert secret not in by_tunnel.server.log_text()
    by_tunnel.server.events(1)


def test_a_tls_upstream_through_a_proxy(
    by_tunnel: Served, forward: ForwardProxy, front: TlsFront, upstream: Upstream
) -> None:
    forward.target = front.port
    before = forward.connections
    for _ in range(3):
        assert by_tunnel.ask("GET", "/v1/models?a=%2F").status == 200
    assert forward.connections == before + 1, "the tunnel is kept"
    line, *lines = forward.heads[-1].split("\r\n")
    assert line == "CONNECT upstream.invalid:443 HTTP/1.1"
    assert f"Proxy-Authorization: {_expected_credentials()}" in lines
    assert by_tunnel.upstream_key not in forward.heads[-1]
    assert front.hellos[-1] == ("upstream.invalid", "http/1.1")
    request = upstream.received[-1]
    assert request.target == "/v1/behave/echo/prefix/v1/models?a=%2F"
    assert request.values("Host") == ["upstream.invalid"]
    assert request.values("Authorization") == [f"Bearer {by_tunnel.upstream_key}"]
    assert not request.values("Proxy-Authorization")
    by_tunnel.server.events(3)


def test_a_certificate_of_an_unknown_ca_is_502(
    serve: Serve, session_upstream: Upstream, certificates: Certificates
) -> None:
    """And one for another name likewise; the message says that it was the TLS."""
    front = TlsFront(session_upstream, certificates)
    try:
        for name, settings in (
            ("unknown-ca", {"url": f"https://127.0.0.1:{front.port}"}),
            (
                "other-name",
                {
                    "url": f"https://localhost:{front.port}",
                    "SSL_CERT_FILE": str(certificates.ca),
                },
            ),
        ):
            url = settings.pop("url")
            served = serve(name, url, **settings)
            answer = served.ask("GET", "/v1/models")
            assert (answer.status, error_of(answer)) == (502, "upstream_unreachable")
            assert "TLS" in json.loads(answer.body)["error"]["message"]
            served.server.events(1)
    finally:
        front.stop()
