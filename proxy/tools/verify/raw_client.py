"""One HTTP/1.1 round trip on a raw socket, for ``manage.py verify``: the bytes and their times.

Note: a *piece* is the result of one ``recv``, not a chunk of the framing; only pieces have times.
"""

import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from proxy.tools.http1_reader import Framing, ResponseReader

Headers = tuple[tuple[str, str], ...]

_CONNECT_TIMEOUT: Final = 10.0
_SILENCE: Final = 600.0  # seconds between two bytes: a model may think for minutes
_RECV: Final = 65536


class Unreachable(Exception):
    """There is no connection: DNS, refused or TLS. The message says which."""


class NoResponse(Exception):
    """The connection brought no valid response head."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The server, and the prefix of a request's target. ``url`` has no credentials."""

    url: str

    @property
    def prefix(self) -> str:
        return urlsplit(self.url).path.rstrip("/")

    def connect(self) -> socket.socket:
        """Connects; verifies https with the system's certificates. Raises :class:`Unreachable`."""
        parts = urlsplit(self.url)
        host, tls = parts.hostname or "", parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        try:
            sock = socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT)
        except OSError as error:
            raise Unreachable(_reason(error)) from error
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        except OSError as error:
            sock.close()
            raise Unreachable(_reason(error)) from error
        sock.settimeout(_SILENCE)
        return sock


@dataclass(frozen=True, slots=True)
class WireResponse:
    """One response. ``body`` is without its framing, but still compressed if it was sent so.

    ``framing`` is ``length``, ``chunked``, ``close`` (until the connection's end) or ``none`` (no
    body by definition). ``clean``: the message ended as its framing promised. ``pieces`` has, for
    each read that brought a part of the body, the seconds since the response head and the bytes.
    """

    version: str
    status: int
    reason: str
    headers: Headers
    framing: Framing
    body: bytes
    clean: bool
    head_after: float
    pieces: tuple[tuple[float, int], ...]
    chunks: int = 0
    trailers: int = 0
    interim: int = 0

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]


def call(
    endpoint: Endpoint, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes
) -> WireResponse:
    """Sends the request on a connection of its own and reads the response to its end.

    Adds ``Host`` and, with a body, ``Content-Length``. Raises :class:`Unreachable` and
    :class:`NoResponse`.
    """
    lines = [("Host", urlsplit(endpoint.url).netloc), *headers]
    if body:
        lines.append(("Content-Length", str(len(body))))
    head = f"{method} {endpoint.prefix}{target} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in lines)
    with endpoint.connect() as sock:
        began = time.perf_counter()
        try:
            sock.sendall(head.encode("latin-1") + b"\r\n" + body)
        except ConnectionError:
            pass  # refused before the end of the upload: the response says why
        except OSError as error:
            raise NoResponse(_reason(error)) from error
        return _read(sock, method, began)


def _read(sock: socket.socket, method: str, began: float) -> WireResponse:
    reader = ResponseReader(method)
    head_at = began
    body = bytearray()
    pieces: list[tuple[float, int]] = []
    while not (reader.ended or reader.problem):
        try:
            data = sock.recv(_RECV)
        except OSError as error:
            if reader.head is None:
                reason = _reason(error)
                raise NoResponse(f"{reason} before the end of the response head") from error
            break
        at = time.perf_counter()
        if reader.head is None:
            head_at = at
        if found := reader.read(data):
            body += found
            pieces.append((at - head_at, len(found)))
    head = reader.head
    if head is None:
        raise NoResponse(reader.problem)
    return WireResponse(
        version=head.version,
        status=head.status,
        reason=head.reason,
        headers=head.headers,
        framing=reader.framing,
        body=bytes(body),
        clean=reader.ended,
        head_after=head_at - began,
        pieces=tuple(pieces),
        chunks=reader.chunks,
        trailers=reader.trailers,
        interim=reader.interim,
    )


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "timed out"
    return error.strerror or str(error) or type(error).__name__
