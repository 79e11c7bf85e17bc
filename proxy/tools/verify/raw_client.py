"""One HTTP/1.1 round trip on a raw socket, for ``manage.py verify``: the bytes and their times.

No HTTP library is used because each one normalises what is to be compared: the case and order of
header lines, the reason, the borders of chunks.

Note: a *piece* is the result of one ``recv``, not a chunk of the framing; only pieces have times.
"""

import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

Headers = tuple[tuple[str, str], ...]

_CONNECT_TIMEOUT: Final = 10.0
_SILENCE: Final = 600.0  # seconds between two bytes: a model may think for minutes
_RECV: Final = 65536
_MAX_HEAD_BYTES: Final = 1024 * 1024  # ends the read of an endless head
_CLOSED: Final = "the connection was closed"


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
class RawResponse:
    """One response. ``body`` is without its framing, but still compressed if it was sent so.

    ``framing`` is ``length``, ``chunked``, ``close`` (until the connection's end) or ``none`` (no
    body by definition). ``clean``: the message ended as its framing promised. ``pieces`` has, for
    each read that brought a part of the body, the seconds since the response head and the bytes.
    """

    version: str
    status: int
    reason: str
    headers: Headers
    framing: str
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
) -> RawResponse:
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
        return _Reader(sock, began).response(method)


class _Reader:
    """Reads one response. ``_buffer`` holds the received bytes that are not parsed yet."""

    def __init__(self, sock: socket.socket, began: float) -> None:
        self._sock = sock
        self._began = began
        self._buffer = bytearray()
        self._body = bytearray()
        #: (time of the read, bytes of the body it brought)
        self._pieces: list[tuple[float, int]] = []
        self._read_at = began
        self._ended = ""
        self._chunks = self._trailers = 0

    def response(self, method: str) -> RawResponse:
        interim = 0
        version, status, reason, headers = self._head()
        while 100 <= status < 200 and status != 101:
            interim += 1
            version, status, reason, headers = self._head()
        head_at = self._read_at
        values = {name.lower(): value for name, value in headers}
        if method == "HEAD" or status in (101, 204, 304):
            framing, clean = "none", True
        elif "chunked" in values.get("transfer-encoding", "").lower():
            framing, clean = "chunked", self._read_chunks()
        elif "content-length" in values:
            framing, clean = "length", self._read_length(values["content-length"])
        else:
            framing, clean = "close", self._read_rest()
        return RawResponse(
            version=version,
            status=status,
            reason=reason,
            headers=headers,
            framing=framing,
            body=bytes(self._body),
            clean=clean,
            head_after=head_at - self._began,
            pieces=tuple((at - head_at, size) for at, size in self._pieces),
            chunks=self._chunks,
            trailers=self._trailers,
            interim=interim,
        )

    def _more(self) -> bool:
        """Reads once. Returns False at the connection's end, by whatever cause."""
        try:
            data = b"" if self._ended else self._sock.recv(_RECV)
        except OSError as error:
            data, self._ended = b"", _reason(error)
        if not data:
            self._ended = self._ended or _CLOSED
            return False
        self._read_at = time.perf_counter()
        self._buffer += data
        return True

    def _head(self) -> tuple[str, int, str, Headers]:
        head = self._until(b"\r\n\r\n")
        if head is None:
            raise NoResponse(
                f"{self._ended or 'too much came'} before the end of the response head"
            )
        line, *lines = head.decode("latin-1").split("\r\n")
        version, _, rest_of_line = line.partition(" ")
        status, _, reason = rest_of_line.partition(" ")
        if not (version.startswith("HTTP/") and status.isascii() and status.isdigit()):
            raise NoResponse("what came is not HTTP/1")
        # Only the white space around a value is not part of it (RFC 9110 §5.5).
        split = (item.partition(":") for item in lines)
        return version, int(status), reason, tuple((n, value.strip(" \t")) for n, _, value in split)

    def _take(self, count: int) -> None:
        """Moves ``count`` bytes from the buffer to the body, as part of the last read's piece."""
        if not count:
            return
        self._body += self._buffer[:count]
        del self._buffer[:count]
        if self._pieces and self._pieces[-1][0] == self._read_at:
            count += self._pieces.pop()[1]
        self._pieces.append((self._read_at, count))

    def _exactly(self, count: int) -> bool:
        while count:
            if not self._buffer and not self._more():
                return False
            taken = min(count, len(self._buffer))
            self._take(taken)
            count -= taken
        return True

    def _read_length(self, value: str) -> bool:
        return value.isascii() and value.isdigit() and self._exactly(int(value))

    def _read_rest(self) -> bool:
        self._take(len(self._buffer))
        while self._more():
            self._take(len(self._buffer))
        return self._ended == _CLOSED

    def _line(self) -> bytes | None:
        return self._until(b"\r\n")

    def _until(self, end: bytes) -> bytes | None:
        """Returns the bytes before ``end``, or None if it does not arrive."""
        while end not in self._buffer:
            if len(self._buffer) > _MAX_HEAD_BYTES or not self._more():
                return None
        found, _, rest = bytes(self._buffer).partition(end)
        self._buffer[:] = rest
        return found

    def _read_chunks(self) -> bool:
        while (line := self._line()) is not None:
            try:
                size = int(line.partition(b";")[0], 16)
            except ValueError:
                return False
            if not size:
                return self._read_trailers()
            self._chunks += 1
            if not self._exactly(size) or self._line() != b"":
                return False
        return False

    def _read_trailers(self) -> bool:
        while line := self._line():
            self._trailers += 1
        return line is not None


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "timed out"
    return error.strerror or str(error) or type(error).__name__
