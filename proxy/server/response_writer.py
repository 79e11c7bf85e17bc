"""One answer on the client's connection: a WSGI application called, and what it gives written.

In gunicorn's stead, for two reasons: head and first bytes go out in one write, and so do the last
bytes and what ends the chunked framing; and an application of ours is not handed an environ that
nobody reads.

The thing to get wrong: an answer that breaks off must not look complete. Whatever the application
raises leaves here, and the connection is closed without the final chunk.
"""

import errno
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final

from gunicorn.http import errors as http_errors
from gunicorn.http.wsgi import HEADER_VALUE_RE, STATUS_RE, TOKEN_RE
from gunicorn.util import is_hoppish

WSGICallable = Callable[[dict[str, Any], Any], Iterable[bytes]]
Headers = list[tuple[str, str]]

_LAST_CHUNK: Final = b"0\r\n\r\n"


class ResponseWriter:
    """Status and header lines from :meth:`start_response`, then the body by :meth:`write`."""

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
        """``close``: whether the connection is to be closed in any case."""
        self._request = request
        self._sock = sock
        self._close = close
        self._status: str | None = None
        self._headers = ""
        self._head_due = True
        # Bytes of the body still to come, where its length is known.
        self._left: int | None = None
        self._bodiless = False
        self._chunked = False

    @property
    def begun(self) -> bool:
        """Whether something of it has been written."""
        return not self._head_due

    def start_response(
        self, status: str, headers: Headers, exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """PEP 3333. Raises gunicorn's errors for what must not be sent."""
        if exc_info is not None:
            if self.begun:
                raise exc_info[1]
        elif self._status is not None:
            raise AssertionError("the answer has been started already")
        if STATUS_RE.fullmatch(status) is None:
            raise ValueError("the status is not valid")
        code = status[:3]
        method = self._request.method
        self._bodiless = method == "HEAD" or code in ("204", "304") or code[0] == "1"
        self._left = None
        if HEADER_VALUE_RE.fullmatch("".join([value for _, value in headers])) is None:
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
        """Whether a line that is about the framing does; a length is noted."""
        if kind == _HOP or code == "204" or code[0] == "1":  # RFC 9110 §8.6
            return False
        self._left = int(value)
        return True

    def write(self, data: bytes, *, last: bool = False) -> None:
        """A piece of the body; empty, it sends the head. ``last``: nothing follows it."""
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
        """What is due of an answer that has ended well."""
        if self._head_due or self._chunked:
            self.write(b"", last=True)
        if self._left and not self._bodiless:
            raise ConnectionResetError(errno.ECONNRESET, "the answer is shorter than announced")

    def should_close(self) -> bool:
        """Whether the connection cannot carry another answer."""
        if self._close or self._request.should_close():
            return True
        # Only the connection's end tells where such a body ends (RFC 9112 §6.3).
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
    """All of it. gevent's own ``sendall`` asks the kernel for its buffer's size each time."""
    sent = sock.send(data)
    if sent < len(data):
        sock.sendall(memoryview(data)[sent:])


def relay_environ(request: Any, sock: Any, peer: Any) -> dict[str, Any]:
    """What the relay reads of a WSGI environ, and no more."""
    return {
        "REQUEST_METHOD": request.method,
        "RAW_URI": request.uri,
        "SERVER_PROTOCOL": "HTTP/1.1" if request.version > (1, 0) else "HTTP/1.0",
        "REMOTE_ADDR": peer[0] if isinstance(peer, tuple) else str(peer or ""),
        "wsgi.input": request.body,
        "gunicorn.socket": sock,
    }


def run(application: WSGICallable, environ: dict[str, Any], answer: ResponseWriter) -> None:
    """Call the application and write what it gives; closes its answer in every case."""
    body = application(environ, answer.start_response)
    try:
        for piece in body:
            # A relayed stream knows its last piece when it gives it.
            answer.write(piece, last=getattr(body, "ended", False))
        answer.close()
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()


_PLAIN: Final = 0  # as most are: false
_LENGTH: Final = 1
_HOP: Final = 2


@lru_cache(maxsize=1024)
def _kind(name: str) -> int:
    """What is to be done with a header line of this name."""
    if TOKEN_RE.fullmatch(name) is None:
        raise http_errors.InvalidResponseHeaderName(repr(name))
    if is_hoppish(name):
        return _HOP
    return _LENGTH if name.lower() == "content-length" else _PLAIN


@lru_cache(maxsize=1)
def http_date(unix_seconds: int) -> str:
    """A ``Date`` (RFC 9110 §5.6.7)."""
    return formatdate(unix_seconds, usegmt=True)
