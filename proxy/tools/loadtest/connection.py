"""The load test's client: a non-blocking connection, TLS or not, and one request on it.

Both are generators that wait for the socket with ``yield``. The caller selects on the sockets and
sends each generator the time at which its socket was ready (``time.perf_counter``).

Note: ``select`` does not see bytes that TLS has already decrypted. So a read requests more than the
longest TLS record, 16 KiB, and leaves nothing behind.
"""

import errno
import os
import re
import selectors
import socket
import ssl
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy.tools.http1_reader import Head, ResponseReader
from proxy.tools.verify.raw_client import Endpoint

_RECV: Final = 65536
_WOULD_BLOCK: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

#: A generator that waits for a socket at each ``yield``, and is sent the time it was ready.
Steps = Generator[None, float, None]


@dataclass(frozen=True, slots=True)
class Address:
    """An endpoint's resolved address, so that no name is looked up during the measurement."""

    family: int
    address: Any
    host: str
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, endpoint: Endpoint, host: str) -> "Address":
        """Resolves by connecting once, certificate included. Raises :class:`Unreachable`."""
        with endpoint.connect() as sock:
            secure = isinstance(sock, ssl.SSLSocket)
            context = ssl.create_default_context() if secure else None
            return cls(sock.family, sock.getpeername(), host, context)


class Channel:
    """A connection that can be opened again. ``owner`` is the ``data`` of its selector key.

    ``opened`` counts the connections made.
    """

    def __init__(self, address: Address, selector: selectors.BaseSelector, owner: object) -> None:
        self._address = address
        self._selector = selector
        self._owner = owner
        self._socket: socket.socket | None = None
        self._waits_for = 0
        self.opened = 0

    def close(self) -> None:
        if self._socket is not None:
            self._forget()
            self._socket.close()
            self._socket = None

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def close_if_stale(self) -> None:
        """Closes a connection that is readable after a pause: the server closed it, or sent bytes
        that were not requested."""
        if self._socket is not None:
            try:
                self._socket.recv(1)
                self.close()
            except _WOULD_BLOCK:
                pass
            except OSError:
                self.close()

    def open(self) -> Steps:
        """Connects. Raises OSError."""
        sock = self._socket = socket.socket(self._address.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.connect(self._address.address)
        except BlockingIOError:
            self._wait_for(selectors.EVENT_WRITE)
            yield
            if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code)) from None
        if self._address.tls is not None:
            yield from self._shake_hands(sock, self._address.tls)
        self.opened += 1
        self._wait_for(selectors.EVENT_READ)

    def send(self, data: bytes) -> Generator[None, float, float]:
        """Sends ``data``, in one write if it fits. Returns the start time. Raises OSError."""
        sock = self._open_socket()
        left = memoryview(data)
        began = time.perf_counter()
        while left:
            try:
                left = left[sock.send(left) :]
                continue
            except _WOULD_BLOCK:
                self._wait_for(selectors.EVENT_WRITE)
            except ConnectionError:
                break  # refused before the end of the upload: the response says why
            yield
        self._wait_for(selectors.EVENT_READ)
        return began

    def received(self) -> bytes | None:
        """Returns the bytes that have arrived, perhaps none, or None at the connection's end.

        Raises OSError.
        """
        sock = self._open_socket()
        try:
            data = sock.recv(_RECV)
        except _WOULD_BLOCK:
            return b""  # half a TLS record, or one without data: a session ticket
        return data or None

    def _open_socket(self) -> socket.socket:
        if self._socket is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self._socket

    def _shake_hands(self, sock: socket.socket, context: ssl.SSLContext) -> Steps:
        self._forget()
        host = self._address.host
        wrapped = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        self._socket = wrapped
        while True:
            try:
                wrapped.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._wait_for(selectors.EVENT_READ)
            except ssl.SSLWantWriteError:
                self._wait_for(selectors.EVENT_WRITE)
            yield

    def _wait_for(self, events: int) -> None:
        if self._socket is None or events == self._waits_for:
            return
        if self._waits_for:
            self._selector.modify(self._socket, events, self._owner)
        else:
            self._selector.register(self._socket, events, self._owner)
        self._waits_for = events

    def _forget(self) -> None:
        if self._socket is not None and self._waits_for:
            self._selector.unregister(self._socket)
        self._waits_for = 0


_BLANK_LINE: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class EventTimes:
    """Counts the server-sent events of a body and records their times. Comments are no events.

    ``stall`` is the longest silence after the first event, to the next one or the stream's end.
    """

    def __init__(self) -> None:
        self.count = 0
        self.first_at: float | None = None
        self.stall = 0.0
        self._last_at = 0.0
        self._rest = b""

    def feed(self, data: bytes, at: float) -> None:
        *blocks, self._rest = _BLANK_LINE.split(self._rest + data)
        fresh = sum(_has_data(block) for block in blocks)
        if fresh:
            self.count += fresh
            self.end(at)
            if self.first_at is None:
                self.first_at = at
            self._last_at = at

    def end(self, at: float) -> None:
        if self.first_at is not None:
            self.stall = max(self.stall, at - self._last_at)


def _has_data(block: bytes) -> bool:
    return block.startswith(b"data") or b"\ndata" in block or b"\rdata" in block


_MAX_ERROR_BYTES: Final = 16 * 1024  # the part of an error's body that is kept, for its code
_CODE: Final = re.compile(r"[a-z0-9_]{1,60}")  # no token or key looks like this


class _Malformed(Exception):
    """The response does not follow the framing that it announced."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The request, the same each time: head and body as sent. ``stream``: events are timed."""

    address: Address
    method: str
    request: bytes
    stream: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """The measurement of one request, in seconds since it was written.

    ``upstream`` is from the response's headers. ``status`` 0 and a ``problem`` mean that there was
    no valid, complete response. ``code`` is from an error's body.
    """

    status: int
    head: float = 0.0
    total: float = 0.0
    upstream: float | None = None
    events: int = 0
    first_event: float | None = None
    stall: float = 0.0
    code: str = ""
    problem: str = ""

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status < 300


class Client:
    """Sends one request again and again on one connection. Its generators are :data:`Steps`."""

    def __init__(self, asked: Asked, selector: selectors.BaseSelector) -> None:
        self._asked = asked
        self.channel = Channel(asked.address, selector, self)

    def connect(self) -> Generator[None, float, None]:
        """Connects before a turn, unless connected. A failure is left to the request to report."""
        try:
            self.channel.close_if_stale()
            if not self.channel.is_open:
                yield from self.channel.open()
        except OSError:
            self.channel.close()

    def call(self) -> Generator[None, float, Sample]:
        """Sends one request and reads its whole response. A failure is recorded in the sample."""
        try:
            if not self.channel.is_open:
                yield from self.channel.open()
            began = yield from self.channel.send(self._asked.request)
            return (yield from self._response(began))
        except OSError as error:
            problem = error.strerror or str(error) or type(error).__name__
        except _Malformed as error:
            problem = str(error)
        self.channel.close()
        return Sample(0, problem=problem)

    def _response(self, began: float) -> Generator[None, float, Sample]:
        reader = ResponseReader(self._asked.method)
        body = b""
        while (head := reader.head) is None:
            at = yield
            body = self._received(reader)
        head_at = at
        events = EventTimes()
        kept = b""
        while True:
            if body and self._asked.stream:
                events.feed(body, at)
            if head.status >= 400 and len(kept) < _MAX_ERROR_BYTES:
                kept += body
            if reader.ended:
                break
            at = yield
            body = self._received(reader)
        if reader.unread:
            raise _Malformed("more came after the end of the response")
        events.end(at)
        if reader.framing == "close" or head.closes:
            self.channel.close()
        return Sample(
            head.status,
            head=head_at - began,
            total=at - began,
            upstream=_upstream(head),
            events=events.count,
            first_event=None if events.first_at is None else events.first_at - began,
            stall=events.stall,
            code=_code(kept) if kept else "",
        )

    def _received(self, reader: ResponseReader) -> bytes:
        """Returns the body's bytes in those that have arrived. Raises :class:`_Malformed`."""
        received = self.channel.received()
        if received == b"":
            return b""
        body = reader.read(received or b"")
        if reader.problem:
            raise _Malformed(reader.problem)
        return body


def _upstream(head: Head) -> float | None:
    start = head.value(b"x-upstream-request-start") or b""
    stop = head.value(b"x-upstream-request-stop") or b""
    return (int(stop) - int(start)) / 1e9 if start.isdigit() and stop.isdigit() else None


def _code(body: bytes) -> str:
    try:
        code = orjson.loads(body)["error"]["code"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""
