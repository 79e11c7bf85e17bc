"""One response on the client's connection: call a WSGI application and write what it yields.

It replaces gunicorn's code for two reasons. Head and first bytes go out in one write, and so do the
last bytes and the end of the chunked framing. And the relay receives no environ that it would not
read.

Invariant: a response that breaks off never looks complete. An exception of the application leaves
this module, and the connection is closed without the final chunk.
"""

import errno
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

from gunicorn.http import errors as http_errors
from gunicorn.http.wsgi import HEADER_VALUE_RE, STATUS_RE, TOKEN_RE
from gunicorn.util import is_hoppish

WSGICallable = Callable[[dict[str, Any], Any], Iterable[bytes]]
Headers = list[tuple[str, str]]

_LAST_CHUNK: Final = b"0\r\n\r\n"
_value_of = itemgetter(1)


class ResponseWriter:
    """Takes status and header lines by `start_response`, then the body by `write`."""

    __slots__ = (
        "_bodiless",
        "_chunked",
        "_close",
        "_head_due",
        "_headers",
        "_left",
        "_request",
        "_sock",
        "_status",
    )

    def __init__(self, request: Any, sock: Any, *, close: bool) -> None:
        """`close`: whether the connection is to be closed in any case."""
        self._request = request
        self._sock = sock
        self._close = close
        self._status: str | None = None
        self._headers = ""
        self._head_due = True
        # Bytes of the body that are still to be written, where its length is known.
        self._left: int | None = None
        self._bodiless = False
        self._chunked = False

    @property
    def begun(self) -> bool:
        """Whether any part of the response has been written."""
        return not self._head_due

    def start_response(
        self, status: str, headers: Headers, exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """As in PEP 3333. Raises gunicorn's errors for lines that must not be sent."""
        if exc_info is not None:
            if self.begun:
                raise exc_info[1]
        elif self._status is not None:
            raise AssertionError("the response has been started already")
        if STATUS_RE.fullmatch(status) is None:
            raise ValueError("the status is not valid")
        code = status[:3]
        method = self._request.method
        self._bodiless = method == "HEAD" or code in ("204", "304") or code[0] == "1"
        self._left = None
        if HEADER_VALUE_RE.fullmatch("".join(map(_value_of, headers))) is None:
            # The names only: a value may be a secret.
            raise http_errors.InvalidResponseHeader(repr([name for name, _ in headers]))
        self._headers = "".join(
            [
                f"{name}: {value}\r\n"
                for name, value in headers
                if not (kind := _kind(name)) or self._goes_out(kind, value, code)
            ]
        )
        self._status = status
        self._chunked = self._left is None and not self._bodiless and self._request.version > (1, 0)
        return self.write

    def _goes_out(self, kind: int, value: str, code: str) -> bool:
        """Whether a header line about the framing is sent. Stores the length."""
        if kind == _HOP or code == "204" or code[0] == "1":  # RFC 9110 §8.6
            return False
        self._left = int(value)
        return True

    def write(self, data: bytes, *, last: bool = False) -> None:
        """Write a piece of the body; an empty one sends the head. `last`: nothing follows it."""
        head = b""
        if self._head_due:
            self._head_due = False
            head = self._head()
        if self._bodiless:
            data = b""
        elif self._left is not None:
            if len(data) > self._left:
                data = data[: self._left]
            self._left -= len(data)
        elif self._chunked:
            if data:
                data = b"%X\r\n%b\r\n" % (len(data), data)
            if last:
                data += _LAST_CHUNK
                self._chunked = False
        if head or data:
            send_all(self._sock, head + data)

    def close(self) -> None:
        """Write the rest of a response that has ended well."""
        if self._head_due or self._chunked:
            self.write(b"", last=True)
        if self._left and not self._bodiless:
            raise ConnectionResetError(errno.ECONNRESET, "the response is shorter than announced")

    def should_close(self) -> bool:
        """Whether the connection cannot carry another response."""
        if self._close or self._request.should_close():
            return True
        # Only the end of the connection marks the end of such a body (RFC 9112 §6.3).
        return self._left is None and not self._bodiless and self._request.version <= (1, 0)

    def _head(self) -> bytes:
        major, minor = self._request.version
        connection = "close" if self.should_close() else "keep-alive"
        coding = "Transfer-Encoding: chunked\r\n" if self._chunked else ""
        head = (
            f"HTTP/{major}.{minor} {self._status}\r\nServer: gunicorn\r\n"
            f"Date: {http_date(int(time.time()))}\r\nConnection: {connection}\r\n"
            f"{coding}{self._headers}\r\n"
        )
        return head.encode("latin-1")


def send_all(sock: Any, data: bytes) -> None:
    """Send all of `data`. gevent's `sendall` asks the kernel for its buffer size on each call."""
    sent = sock.send(data)
    if sent < len(data):
        sock.sendall(memoryview(data)[sent:])


def relay_environ(request: Any, sock: Any, peer: Any) -> dict[str, Any]:
    """The part of a WSGI environ that the relay reads."""
    return {
        "REQUEST_METHOD": request.method,
        "RAW_URI": request.uri,
        "SERVER_PROTOCOL": "HTTP/1.1" if request.version > (1, 0) else "HTTP/1.0",
        "REMOTE_ADDR": peer[0] if isinstance(peer, tuple) else str(peer or ""),
        "wsgi.input": request.body,
        "gunicorn.socket": sock,
    }


def run(application: WSGICallable, environ: dict[str, Any], response: ResponseWriter) -> None:
    """Call the application and write what it yields. Its iterable is closed in every case."""
    body = application(environ, response.start_response)
    try:
        for piece in body:
            # A relayed stream knows its last piece when it yields it.
            response.write(piece, last=getattr(body, "ended", False))
        response.close()
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()


_PLAIN: Final = 0  # falsy, as most header lines are plain
_LENGTH: Final = 1
_HOP: Final = 2


@lru_cache(maxsize=1024)
def _kind(name: str) -> int:
    """How a header line of this name is treated."""
    if TOKEN_RE.fullmatch(name) is None:
        raise http_errors.InvalidResponseHeaderName(repr(name))
    if is_hoppish(name):
        return _HOP
    return _LENGTH if name.lower() == "content-length" else _PLAIN


@lru_cache(maxsize=1)
def http_date(unix_seconds: int) -> str:
    """The value of a `Date` header (RFC 9110 §5.6.7)."""
    return formatdate(unix_seconds, usegmt=True)
