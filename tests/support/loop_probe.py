"""Whether others on the same event loop are served meanwhile: a connection, and counts of steps."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import gevent
import gevent.socket
import pytest


class LoopProbe:
    """Two greenlets that send one byte to and fro; :attr:`served` counts how often one has it.

    Each exchange needs one poll of the loop for ready sockets: callbacks alone do not advance it.
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
    """How often a probe is served while `work` is repeated. `work` itself never waits for I/O.

    Ends after `times`. The deadline only ends a broken test.
    """
    with LoopProbe() as other:
        before, deadline = other.served, time.monotonic() + 10
        while other.served - before < times and time.monotonic() < deadline:
            work()
        return other.served - before


def longest_steps(monkeypatch: pytest.MonkeyPatch, *functions: tuple[Any, str]) -> dict[str, int]:
    """By name, how much one call of a function has read or made at most: characters or bytes.

    `functions` are modules, each with the name of its function, which are counted from now on.
    """
    steps: dict[str, int] = {}

    def count(module: Any, name: str) -> None:
        inner = getattr(module, name)

        def counted(given: Any, *more: Any, **options: Any) -> Any:
            made = inner(given, *more, **options)
            lengths = [len(each) for each in (given, made) if isinstance(each, str | bytes)]
            steps[name] = max(steps.get(name, 0), *lengths, 0)
            return made

        monkeypatch.setattr(module, name, counted)

    for module, name in functions:
        count(module, name)
    return steps
