"""Work in short turns: the same items, and the CPU is yielded repeatedly."""

import os

import pytest

from proxy.runtime.cpu_turns import yield_cpu_every


def test_the_core_is_offered_every_few_items(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(os, "sched_yield", lambda: steps.append("|"))
    for item in yield_cpu_every(iter("abcdefghij")):
        steps += item
    assert [step for step in steps if step != "|"] == list("abcdefghij")
    # At once, since what came before may have been long; then every four.
    assert "".join(steps) == "|abcd|efgh|ij"


def test_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_yield", lambda: pytest.fail("no other thread needs it"))
    assert list(yield_cpu_every([])) == []
