"""When a request whose connection broke may be sent again (RFC 9110 §9.2.2).

The upstream can close a kept-alive connection while a request is written to it. The client must not
see that. But an upstream that has read a request and then breaks may have executed it, and a POST
that is executed twice is paid for twice. Only the time distinguishes the two cases: a close that
had begun before the request is known within a round trip.

A request that must not be sent again needs a new connection, which cannot be stale. That is a body
that is streamed, and one that takes several writes, because a part of it may have been read.
"""

import socket
import struct
from typing import Any, Final

from proxy.upstream.raw_response import BrokenResponse

#: Methods that have the same effect when they are executed twice (RFC 9110 §9.2.2).
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
#: A body of at most this many bytes goes out in one write together with its head.
ONE_WRITE: Final = 128 * 1024

#: From the write to the close: the limit for an idempotent request, and the bounds of the limit for
#: any other. A busy worker notices a close late, and a round trip may be longer than usual.
_MAX_IDEMPOTENT_SECONDS: Final = 2.0
_MIN_SECONDS: Final = 0.05
_MAX_SECONDS: Final = 0.1
_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)
#: Offset of `tcpi_rtt` in Linux's `struct tcp_info`: smoothed round-trip time in microseconds.
_RTT_AT: Final = 68


class StaleConnection(BrokenResponse):
    """A kept-alive connection was closed, and its request may be sent again."""


def is_stale(method: str | None, sock: Any, seconds: float, *, cut: bool) -> bool:
    """Whether the peer of an idle gevent socket closed it before it could read the request.

    Call it when no byte of a response has come. ``seconds`` have passed since the request was
    written; ``cut`` means that only a part of it was.
    """
    if method in IDEMPOTENT:
        return seconds < _MAX_IDEMPOTENT_SECONDS
    return not cut and seconds < min(_MAX_SECONDS, max(_MIN_SECONDS, 2 * round_trip(sock)))


def round_trip(sock: Any) -> float:
    """Return the round-trip time that the kernel has measured, in seconds; 0.0 if it has none."""
    if _TCP_INFO is None:
        return 0.0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _RTT_AT + 4)
        (microseconds,) = struct.unpack_from("=I", info, _RTT_AT)
    except (OSError, struct.error):
        return 0.0
    return float(microseconds) / 1e6
