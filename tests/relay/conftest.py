"""A wire server and an adapter per test; no test may leave a socket behind."""

import gc
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from gevent import Greenlet

from proxy.relay.adapter import UpstreamAdapter
from proxy.relay.wire import HeaderPairs
from tests.relay.wireserver import Handler, WireServer, answering
from tests.waiting import wait_until

Serve = Callable[..., WireServer]
Ask = Callable[..., requests.Response]


def sockets() -> int:
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            found += str(link.readlink()).startswith("socket:")
        except FileNotFoundError:  # the one that lists the folder
            continue
    return found


def greenlets() -> int:
    """Spawned and not ended; servers and their connections are not counted."""
    return sum(
        isinstance(thing, Greenlet) and not thing.dead and "_serve" not in repr(thing)
        for thing in gc.get_objects()
    )


@pytest.fixture(autouse=True)
def _no_socket_left() -> Iterator[None]:
    before = sockets()
    yield
    wait_until(lambda: sockets() <= before)


@pytest.fixture
def serve(_no_socket_left: None) -> Iterator[Serve]:
    """``serve(handler)``, ``serve(answer, answer, …)``; ``tls=`` a server context."""
    servers: list[WireServer] = []

    def start(*what: bytes | Handler, tls: ssl.SSLContext | None = None) -> WireServer:
        itself: list[WireServer] = []
        handler: Any = what[0] if callable(what[0]) else answering(itself, *what)  # type: ignore[arg-type]
        server = WireServer(handler, tls)
        itself.append(server)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def adapter(_no_socket_left: None) -> Iterator[UpstreamAdapter]:
    made = UpstreamAdapter(pool_size=10, connect_timeout=5.0)
    yield made
    made.close()


def prepared(
    method: str, url: str, headers: list[tuple[str, str]] | None = None, body: Any = None
) -> requests.PreparedRequest:
    request = requests.PreparedRequest()
    request.method, request.url, request.body = method, url, body
    lines = HeaderPairs(headers or [("Host", "upstream.test")])
    if isinstance(body, bytes):
        lines.append(("Content-Length", str(len(body))))
    request.headers = lines  # type: ignore[assignment]
    return request


@pytest.fixture
def ask(adapter: UpstreamAdapter) -> Ask:
    """One round trip; a ``bytes`` body gets its length."""

    def send(
        server: WireServer,
        method: str = "GET",
        path: str = "/v1/x",
        *,
        headers: list[tuple[str, str]] | None = None,
        body: Any = None,
        silence: float = 20.0,
    ) -> requests.Response:
        request = prepared(method, server.origin + path, headers, body)
        return adapter.send(request, timeout=(5.0, silence))

    return send


def read_all(response: requests.Response) -> bytes:
    parts = []
    while part := response.raw.read1():
        parts.append(part)
    return b"".join(parts)


class Certificates:
    """A certificate authority of this run, and server contexts with certificates of its making."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test CA")])
        authority = self._certificate(self._name, self._key, [], ca=True)
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(authority.public_bytes(serialization.Encoding.PEM))

    def server(self, name: str) -> ssl.SSLContext:
        """``name`` is a DNS name or an address."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            names: list[x509.GeneralName] = [x509.IPAddress(ip_address(name))]
        except ValueError:
            names = [x509.DNSName(name)]
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = self._certificate(subject, key, names, ca=False)
        path = self._folder / f"{name}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(path)
        return context

    def _certificate(
        self, subject: x509.Name, key: Any, names: list[x509.GeneralName], *, ca: bool
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if ca:
            usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        return builder.sign(self._key, hashes.SHA256())


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def trusted(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    """The same, trusted by every context that is made in the test."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    return certificates
