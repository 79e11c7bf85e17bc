"""proxy/tools/loadtest/runner.py: sides alternate, warm-ups do not count."""

from collections.abc import Callable
from typing import Any

import pytest

from proxy.tools.loadtest.runner import Side, measured, turns


@pytest.mark.parametrize(
    ("requests", "concurrency", "sides", "expected"),
    [
        (1000, 50, 1, [1000]),
        (1000, 50, 2, [200] * 5),
        (100, 1, 2, [10] * 10),
        (100, 50, 2, [50, 50]),
        (1, 1, 2, [1]),
        (7, 1, 2, [4, 3]),
    ],
)
def test_how_many_in_a_turn(
    requests: int, concurrency: int, sides: int, expected: list[int]
) -> None:
    assert turns(requests, concurrency, sides) == expected


class Logged:
    """A load that writes down what it is told to do."""

    def __init__(self, name: str, log: list[Any], fail_at: int = -1) -> None:
        self._name = name
        self._log = log
        self._fail_at = fail_at

    def turn(self, requests: int, tick: Callable[[int], None]) -> None:
        if len(self._log) == self._fail_at:
            raise KeyboardInterrupt
        self._log.append((self._name, requests))
        tick(requests)

    def forget(self) -> None:
        self._log.append((self._name, "forget"))


def sides(log: list[Any], fail_at: int = -1) -> list[Side]:
    loads = {name: Logged(name, log, fail_at) for name in ("direct", "proxied")}
    return [Side(name, "http://x", load) for name, load in loads.items()]  # type: ignore[arg-type]


def test_who_begins_takes_turns() -> None:
    log: list[Any] = []
    assert measured(sides(log), 12, 1, 5)
    assert log == [
        ("direct", 5),
        ("direct", "forget"),
        ("proxied", 5),
        ("proxied", "forget"),
        ("direct", 4),
        ("proxied", 4),
        ("proxied", 4),
        ("direct", 4),
        ("direct", 4),
        ("proxied", 4),
    ]


def test_an_interruption_ends_it() -> None:
    log: list[Any] = []
    assert not measured(sides(log, fail_at=3), 12, 1, 0)
    assert len(log) == 3
