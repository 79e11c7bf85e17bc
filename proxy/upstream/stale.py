"""When a request whose connection broke may be sent again (RFC 9110 §9.2.2).

A kept-alive connection can be closed by the upstream just while a request is written to it. The
client must not see that. But an upstream that has read a request and then breaks may have executed
it, and somebody pays for a POST that is executed twice. The two look alike, but for the time: a
close that was under way already is known within a round trip.

What must not be sent again needs a new connection, which cannot be stale: a body that is streamed,
and one that takes several writes, after which a part of it may have been read.
"""

import socket
import struct
from typing import Any, Final

from proxy.upstream.raw_response import BrokenResponse

#: Methods that have the same effect when they are executed twice (RFC 9110 §9.2.2).
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
#: A body up to so many bytes goes out in one write together with its head.
ONE_WRITE: Final = 128 * 1024

#: Seconds from the write: for an idempotent request, and at least and at most for another. A busy
#: worker notices a close late, and a round trip may be longer than usual.
_PROMPT: Final = 2.0
_SHORTEST: Final = 0.05
_LONGEST: Final = 0.1
_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)
#: Of `tcpi_rtt` in Linux's `struct tcp_info`: smoothed round-trip time in microseconds.
_RTT_AT: Final = 68


class StaleConnection(BrokenResponse):
    """A kept-alive connection turned out closed, and its request may be sent again."""


def is_stale(method: str | None, sock: Any, seconds: float, *, cut: bool) -> bool:
    """Whether an idle gevent socket was being closed before its peer could read the request.

    No byte of a response has come. ``seconds`` have passed since the request was written, ``cut``
    if only a part of it was.
    """
    if method in IDEMPOTENT:
        return seconds < _PROMPT
    return not cut and seconds < min(_LONGEST, max(_SHORTEST, 2 * round_trip(sock)))


def round_trip(sock: Any) -> float:
    """Seconds, as the kernel has measured them; 0.0 where it does not say."""
    if _TCP_INFO is None:
        return 0.0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _RTT_AT + 4)
        (microseconds,) = struct.unpack_from("=I", info, _RTT_AT)
    except (OSError, struct.error):
        return 0.0
    return float(microseconds) / 1e6
