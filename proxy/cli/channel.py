"""A non-blocking connection, TLS or not, that generators wait for with ``yield``.

Whoever runs such a generator selects on the sockets and sends it the time at which its own was
ready (``time.perf_counter``). The thing to get wrong: what TLS has already decrypted is no longer
where ``select`` looks; so a read asks for more than its longest record, 16 KiB, and leaves nothing.
"""

import errno
import os
import selectors
import socket
import ssl
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final

from proxy.cli.wirecall import Endpoint

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
