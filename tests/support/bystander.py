"""Another connection of the same event loop, to see whether it is served meanwhile."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import gevent
import gevent.socket


class Bystander:
    """Two greenlets that send one byte to and fro; :attr:`served` counts how often one has it.

    Each time takes a look of the loop at its sockets: callbacks alone bring it no further.
    """

    def __init__(self) -> None:
        self.served = 0
        self._pair = gevent.socket.socketpair()
        self._greenlets = [gevent.spawn(self._echo, sock) for sock in self._pair]

    def __enter__(self) -> Self:
        self._pair[0].sendall(b"x")
        gevent.sleep(0.001)  # both wait for the byte now
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        gevent.killall(self._greenlets)
        for sock in self._pair:
            sock.close()

    def _echo(self, sock: gevent.socket.socket) -> None:
        while data := sock.recv(1):
            self.served += 1
            sock.sendall(data)


def served_while(work: Callable[[], object], times: int = 3) -> int:
    """How often a bystander is served while ``work`` is repeated, which never has to wait.

    Ends after ``times``; the seconds are only there so that a broken test ends.
    """
    with Bystander() as other:
        before, deadline = other.served, time.monotonic() + 10
        while other.served - before < times and time.monotonic() < deadline:
            work()
        return other.served - before
