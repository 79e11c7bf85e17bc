"""WebSockets: an upgrade is requested like any other request, then both directions are bytes.

Note: after the upstream's 101 there are no HTTP messages, only two byte streams, each of which ends
on its own. Bytes that arrive behind a head belong to the stream.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import gevent

from proxy.runtime.yielding import STEP, in_turns, turn_if_due
from proxy.upstream.headers import without_origin
from proxy.upstream.http1_codec import InvalidResponse

_READ_BYTES: Final = 64 * 1024
MAX_HEAD_BYTES: Final = 64 * 1024
#: How long one side may continue after the other has ended.
LINGER_SECONDS: Final = 10.0
_HEAD_END: Final = b"\r\n\r\n"


class UpgradeResponse:
    """The upstream's raw head and the bytes behind it, on the connection ``sock``."""

    def __init__(self, sock: Any, head: bytes, rest: bytes) -> None:
        self.sock = sock
        self.head = head
        self.rest = rest

    @property
    def switched(self) -> bool:
        """Whether the upstream agreed (101)."""
        return self.head.split(b" ", 2)[1:2] == [b"101"]

    @property
    def raw(self) -> bytes:
        """All bytes that were read."""
        return self.head + _HEAD_END + self.rest

    def headers(self) -> list[tuple[str, str]]:
        """Return the header lines in order, as latin-1."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines if line)
        return [(name, value.strip(" \t")) for name, _, value in pairs]


def read_upgrade(sock: Any) -> UpgradeResponse:
    """Read a head of at most :data:`MAX_HEAD_BYTES`.

    Interim responses other than 101 are skipped, and count towards the limit. Raises
    :class:`InvalidResponse`, and the errors of the socket.
    """
    buffer, at = b"", 0
    while True:
        while (end := buffer.find(_HEAD_END, at)) < 0:
            if len(buffer) > MAX_HEAD_BYTES:
                raise InvalidResponse(f"its header is larger than {MAX_HEAD_BYTES} bytes")
            data = sock.recv(_READ_BYTES)
            if not data:
                raise InvalidResponse("it closed the connection instead of responding")
            buffer += data
        head, at = buffer[at:end], end + len(_HEAD_END)
        status = head.split(b" ", 2)[1:2]
        if not status or not head.startswith(b"HTTP/1.") or not status[0][:3].isdigit():
            raise InvalidResponse("its response is not valid HTTP")
        if status[0][:1] != b"1" or status[0] == b"101":
            return UpgradeResponse(sock, head, buffer[at:])


def close_frame(code: int, reason: str) -> bytes:
    """Return the frame by which a server ends a WebSocket (RFC 6455 §5.5.1).

    ``reason`` has at most 123 bytes.
    """
    payload = code.to_bytes(2) + reason.encode()
    return bytes((0x88, len(payload))) + payload


class Tunnel:
    """Pumps bytes between a client and an upstream until both directions have ended."""

    def __init__(
        self, client: Any, upstream: Any, on_server_bytes: Callable[[bytes], None]
    ) -> None:
        """Both sockets are gevent's. ``on_server_bytes`` gets what has gone to the client."""
        self._client = client
        self._upstream = upstream
        self._on_server_bytes = on_server_bytes
        # The sockets on which a write is incomplete.
        self._sending: set[Any] = set()
        self.bytes_in = 0
        self.bytes_out = 0

    def open(
        self, opened: UpgradeResponse, our_headers: Sequence[tuple[str, str]], early: bytes
    ) -> None:
        """Send the 101 and the bytes behind it to the client, ``early`` bytes to the upstream."""
        lines = [*without_origin(opened.headers()), *our_headers]
        head = "".join(f"{name}: {value}\r\n" for name, value in lines)
        status_line = opened.head.split(b"\r\n", 1)[0]
        self._sending.add(self._client)
        self._client.sendall(status_line + b"\r\n" + head.encode("latin-1") + b"\r\n")
        if opened.rest:
            self._client.sendall(opened.rest)
            self._sent_down(opened.rest)
        self._sending.discard(self._client)
        if early:
            self._upstream.sendall(early)
            self._sent_up(early)

    def run(self) -> None:
        """Pump until both directions have ended. An interruption ends both, and propagates."""
        for sock in (self._client, self._upstream):
            sock.settimeout(None)  # both sides may be silent as long as they like
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        pumps = [gevent.spawn(self._pump_up), gevent.spawn(self._pump_down)]
        try:
            gevent.wait(pumps, count=1)
            # The other side may still finish, within a time limit.
            gevent.joinall(pumps, timeout=LINGER_SECONDS)
        finally:
            gevent.killall(pumps)

    def send_last(self, data: bytes) -> None:
        """Send ``data`` to the client after :meth:`run` was interrupted.

        Sends nothing if it would have to wait, or if another write is incomplete.
        """
        if self._client not in self._sending:
            with contextlib.suppress(OSError):
                self._client._sock.send(data, socket.MSG_DONTWAIT)  # noqa: SLF001

    def _pump_up(self) -> None:
        self._pump(self._client, self._upstream, self._sent_up)

    def _pump_down(self) -> None:
        self._pump(self._upstream, self._client, self._sent_down)

    def _pump(self, source: Any, sink: Any, sent: Callable[[bytes], None]) -> None:
        try:
            while data := source.recv(_READ_BYTES):
                self._sending.add(sink)
                sink.sendall(data)
                self._sending.discard(sink)
                sent(data)
                turn_if_due()
        except OSError:
            # One side is gone, so the other direction cannot go on either.
            for sock in (self._client, self._upstream):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            return
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _sent_up(self, data: bytes) -> None:
        self.bytes_in += len(data)

    def _sent_down(self, data: bytes) -> None:
        self.bytes_out += len(data)
        in_turns(self._seen(data))

    def _seen(self, data: bytes) -> Iterator[None]:
        """Pass the bytes to the meter, a step at a time."""
        for start in range(0, len(data), STEP):
            self._on_server_bytes(data[start : start + STEP])
            yield
