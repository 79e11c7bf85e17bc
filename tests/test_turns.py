"""Work in short turns: the same items, and the core is offered again and again."""

import os

import pytest

from proxy.turns import in_short_turns


def test_the_core_is_offered_every_few_items(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(os, "sched_yield", lambda: steps.append("|"))
    for item in in_short_turns(iter("abcdefghij")):
        steps += item
    assert [step for step in steps if step != "|"] == list("abcdefghij")
    # At once, since what came before may have been long; then every four.
    assert "".join(steps) == "|abcd|efgh|ij"


def test_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_yield", lambda: pytest.fail("nobody needs it"))
    assert list(in_short_turns([])) == []
