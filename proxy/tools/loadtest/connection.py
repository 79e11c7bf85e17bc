"""A non-blocking connection, TLS or not, that generators wait for with ``yield``.

Whoever runs such a generator selects on the sockets and sends it the time at which its own was
ready (``time.perf_counter``). The thing to get wrong: what TLS has already decrypted is no longer
where ``select`` looks; so a read asks for more than its longest record, 16 KiB, and leaves nothing.
"""

import errno
import os
import re
import selectors
import socket
import ssl
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from proxy.tools.verify.raw_client import Endpoint

_RECV: Final = 65536
_WOULD_BLOCK: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

#: What waits for a socket at each ``yield``, and is sent when that was ready.
Steps = Generator[None, float, None]


@dataclass(frozen=True, slots=True)
class Address:
    """An endpoint's resolved address, so that no name is looked up while times are taken."""

    family: int
    address: Any
    host: str
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, endpoint: Endpoint, host: str) -> "Address":
        """By connecting once, certificate included. Raises :class:`Unreachable`."""
        with endpoint.connect() as sock:
            secure = isinstance(sock, ssl.SSLSocket)
            context = ssl.create_default_context() if secure else None
            return cls(sock.family, sock.getpeername(), host, context)


class Channel:
    """``owner`` is the selector key's ``data``. ``opened`` counts the connections made."""

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
        """After a pause: what can be read is the other side's end, or bytes nobody asked for."""
        if self._socket is not None:
            try:
                self._socket.recv(1)
                self.close()
            except _WOULD_BLOCK:
                pass
            except OSError:
                self.close()

    def open(self) -> Steps:
        """Raises OSError."""
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
        """All of it, in one write when it fits; returns when it began. Raises OSError."""
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
                break  # refused before the end of the upload: the answer says why
            yield
        self._wait_for(selectors.EVENT_READ)
        return began

    def received(self) -> bytes | None:
        """What is there, perhaps nothing; None at the connection's end. Raises OSError."""
        sock = self._open_socket()
        try:
            data = sock.recv(_RECV)
        except _WOULD_BLOCK:
            return b""  # half a record, or one without data: a session ticket
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


_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
_LONGEST_LINE: Final = 16 * 1024
_BLANK_LINE: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class Malformed(Exception):
    """What came is not a message of the framing that was announced."""


class Body(Protocol):
    ended: bool

    def feed(self, data: bytes) -> bytes:
        """The body's bytes in ``data``. Raises :class:`Malformed`."""
        ...


class OfLength:
    """``left`` bytes; with 0 it has ended before anything came."""

    def __init__(self, left: int) -> None:
        self._left = left
        self.ended = not left

    def feed(self, data: bytes) -> bytes:
        if len(data) > self._left:
            raise Malformed("more came than the answer's length")
        self._left -= len(data)
        self.ended = not self._left
        return data


class UntilClose:
    """Only the connection's end ends it."""

    ended = False

    def feed(self, data: bytes) -> bytes:
        return data


class Chunked:
    def __init__(self) -> None:
        self.ended = False
        self._rest = b""
        self._left = 0  # of the chunk that is being read
        self._line = "size"  # what the next line is: size, border (after a chunk), trailer

    def feed(self, data: bytes) -> bytes:
        data, at, found = self._rest + data, 0, []
        while not self.ended:
            if self._left:
                piece = data[at : at + self._left]
                found.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            self._take(data[at:end])
            at = end + 2
        self._rest = data[at:]
        if len(self._rest) > _LONGEST_LINE or (self.ended and self._rest):
            raise Malformed("the chunks of the answer are not valid")
        return b"".join(found)

    def _take(self, line: bytes) -> None:
        if self._line == "trailer":
            self.ended = not line
        elif self._line == "border":
            if line:
                raise Malformed("a chunk of the answer is longer than its size")
            self._line = "size"
        else:
            size = _SIZE.fullmatch(line)
            if size is None:
                raise Malformed("a chunk's size is not a number")
            self._left = int(size[1], 16)
            self._line = "border" if self._left else "trailer"


def body_of(method: str, status: int, fields: Mapping[bytes, bytes]) -> Body:
    """The decoder for an answer with these header fields (lower-case names), RFC 9112 §6.3."""
    if method == "HEAD" or status in (204, 304):
        return OfLength(0)
    if b"transfer-encoding" in fields:
        return Chunked()
    if b"content-length" in fields:
        if not fields[b"content-length"].isdigit():
            raise Malformed("the answer's length is not a number")
        return OfLength(int(fields[b"content-length"]))
    return UntilClose()


class EventTimes:
    """Counts the server-sent events of a body and when they came. Comments are no events.

    ``stall``: the longest silence after the first event, until the next one or the stream's end.
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


_LONGEST_HEAD: Final = 256 * 1024
_ERROR_KEPT: Final = 16 * 1024  # of an error's body, where its code stands
_CODE: Final = re.compile(r"[a-z0-9_]{1,60}")  # no token or key looks like this


@dataclass(frozen=True, slots=True)
class Asked:
    """What is sent, every time the same: head and body as they go out. ``stream``: time events."""

    address: Address
    method: str
    request: bytes
    stream: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Seconds since it was written; ``upstream`` as the answer's headers say.

    ``status`` 0 and ``problem``: no valid, complete answer. ``code``: what an error's body says.
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
    """Generators that wait for the socket at each ``yield`` and are sent when it was ready."""

    def __init__(self, asked: Asked, selector: selectors.BaseSelector) -> None:
        self._asked = asked
        self.channel = Channel(asked.address, selector, self)

    def connect(self) -> Generator[None, float, None]:
        """Before a turn: connect, unless connected. The request will meet a failure again."""
        try:
            self.channel.close_if_stale()
            if not self.channel.is_open:
                yield from self.channel.open()
        except OSError:
            self.channel.close()

    def call(self) -> Generator[None, float, Sample]:
        """One request and its whole answer; what goes wrong is in the sample."""
        try:
            if not self.channel.is_open:
                yield from self.channel.open()
            began = yield from self.channel.send(self._asked.request)
            return (yield from self._answer(began))
        except OSError as error:
            problem = error.strerror or str(error) or type(error).__name__
        except Malformed as error:
            problem = str(error)
        self.channel.close()
        return Sample(0, problem=problem)

    def _answer(self, began: float) -> Generator[None, float, Sample]:
        status, fields, data, at = yield from self._head()
        head_at = at
        body = body_of(self._asked.method, status, fields)
        events = EventTimes()
        kept = b""
        while True:
            if data:
                found = body.feed(data)
                if self._asked.stream:
                    events.feed(found, at)
                if status >= 400 and len(kept) < _ERROR_KEPT:
                    kept += found
            if body.ended:
                break
            at = yield
            received = self.channel.received()
            if received is None:
                if isinstance(body, UntilClose):
                    break
                raise Malformed("the answer was cut off")
            data = received
        events.end(at)
        if isinstance(body, UntilClose) or b"close" in fields.get(b"connection", b"").lower():
            self.channel.close()
        return Sample(
            status,
            head=head_at - began,
            total=at - began,
            upstream=_upstream(fields),
            events=events.count,
            first_event=None if events.first_at is None else events.first_at - began,
            stall=events.stall,
            code=_code(kept) if kept else "",
        )

    def _head(self) -> Generator[None, float, tuple[int, dict[bytes, bytes], bytes, float]]:
        """Status, fields, what came behind, and when; of the final answer, not of a 1xx."""
        data = b""
        while True:
            at = yield
            piece = self.channel.received()
            if piece is None:
                raise Malformed("the connection was closed before the end of the response head")
            data += piece
            while (end := data.find(b"\r\n\r\n")) >= 0:
                status, fields = _parsed(data[:end])
                data = data[end + 4 :]
                if status >= 200:
                    return status, fields, data, at
            if len(data) > _LONGEST_HEAD:
                raise Malformed("too much came before the end of the response head")


def _parsed(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    first, *lines = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
        raise Malformed("what came is not HTTP/1")
    fields = {}
    for line in lines:
        name, _, value = line.partition(b":")
        fields[name.lower()] = value.strip()
    if version == b"HTTP/1.0":
        fields.setdefault(b"connection", b"close")
    return int(rest[:3]), fields


def _upstream(fields: Mapping[bytes, bytes]) -> float | None:
    start = fields.get(b"x-upstream-request-start", b"")
    stop = fields.get(b"x-upstream-request-stop", b"")
    return (int(stop) - int(start)) / 1e9 if start.isdigit() and stop.isdigit() else None


def _code(body: bytes) -> str:
    try:
        code = orjson.loads(body)["error"]["code"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""
