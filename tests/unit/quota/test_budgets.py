"""Token budgets: decided on the node, corrected by the store, without a query on the path."""

from collections.abc import Collection

import pytest

from proxy.core.errors import StoreError
from proxy.quota import budgets as budgets_module
from proxy.quota.budgets import Budgets
from tests.support.process_holds import process_holds


class World:
    """The store, what it has not been told of, a clock, and what was reported as spent."""

    def __init__(self) -> None:
        self.stored: dict[str, int] = {}
        self.pending: dict[str, int] = {}
        self.asked: list[list[str]] = []
        self.failing: Exception | None = None
        self.spent: list[str] = []
        self.now = 1000.0
        self.budgets = Budgets(
            self,
            process_holds(),
            lambda token_id: self.pending.get(token_id, 0),
            self.spent.append,
            self.clock,
        )

    def clock(self) -> float:
        return self.now

    def tokens_used(self, token_ids: Collection[str]) -> dict[str, int]:
        self.asked.append(sorted(token_ids))
        if self.failing is not None:
            raise self.failing
        return {t: self.stored[t] for t in token_ids if t in self.stored}

    def has_left(self, token_id: str, total: int) -> bool:
        """Whether a request would be let in; it then costs nothing."""
        full = self.budgets.hold([(token_id, total)], 0)
        if full is None:
            self.budgets.settle([token_id], 0, 0)
        return full is None

    def enter(self, token_id: str) -> None:
        assert self.budgets.hold([(token_id, 10**6)], 0) is None

    def leave(self, token_id: str, tokens: int) -> None:
        self.budgets.settle([token_id], 0, tokens)

    def respond(self, token_id: str, tokens: int) -> None:
        """One request from its beginning to its end."""
        self.enter(token_id)
        self.leave(token_id, tokens)
        self.pending[token_id] = self.pending.get(token_id, 0) + tokens


@pytest.fixture
def world() -> World:
    return World()


def test_what_is_spent_here_counts_at_once(world: World) -> None:
    world.budgets.update("t", 5, 20, cuts=False)
    assert world.has_left("t", 20)
    world.respond("t", 14)
    assert world.has_left("t", 20)
    world.respond("t", 1)
    assert not world.has_left("t", 20)
    assert world.asked == []


def test_what_others_spent_is_learned(world: World) -> None:
    world.budgets.update("t", 0, 20, cuts=False)
    assert world.has_left("t", 20)
    world.stored = {"t": 19}
    world.budgets.refresh()
    assert world.has_left("t", 20)
    world.pending = {"t": 1}  # spent here while the store was asked
    world.budgets.refresh()
    assert not world.has_left("t", 20)


def test_nothing_is_counted_twice(world: World) -> None:
    world.budgets.update("t", 0, 100, cuts=False)
    world.respond("t", 60)
    world.stored, world.pending = {"t": 60}, {}  # flushed
    world.budgets.refresh()
    world.respond("t", 39)
    world.budgets.update("t", 60, 100, cuts=False)  # a look-up from before that
    assert world.has_left("t", 100)
    world.respond("t", 1)
    assert not world.has_left("t", 100)


def test_one_question_for_those_in_use(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for token_id in ("a", "b", "c"):
        world.budgets.update(token_id, 0, 10, cuts=False)
        world.has_left(token_id, 10)
    world.enter("c")
    world.now += budgets_module._IN_USE_SECONDS - 1
    world.has_left("a", 10)
    world.now += 2
    world.budgets.refresh()
    assert world.asked == [["a", "c"]], "in use: asked for lately, or still under way"
    world.now += budgets_module._FORGET_AFTER_SECONDS
    world.budgets.refresh()
    assert list(world.budgets._budgets) == ["c"]
    world.leave("c", 1)
    world.leave("a", 1)  # forgotten meanwhile


@pytest.mark.parametrize("failure", [StoreError(), ZeroDivisionError()])
def test_a_store_that_is_away_changes_nothing(
    world: World, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world.budgets.update("t", 9, 10, cuts=False)
    assert world.has_left("t", 10)
    world.failing = failure
    world.budgets.refresh()
    assert world.has_left("t", 10)
    assert bool(caplog.records) == isinstance(failure, ZeroDivisionError)


def test_requests_under_way_are_cut_where_that_is_wanted(world: World) -> None:
    world.budgets.update("cut", 0, 10, cuts=True)
    world.budgets.update("let", 0, 10, cuts=False)
    for token_id in ("cut", "let"):
        world.enter(token_id)
        world.respond(token_id, 9)
        assert world.spent == []
    world.respond("let", 1)
    assert world.spent == []
    world.respond("cut", 1)
    assert world.spent == ["cut"]


def test_what_others_spent_cuts_as_well(world: World) -> None:
    world.budgets.update("t", 0, 10, cuts=True)
    world.stored = {"t": 10}
    world.has_left("t", 10)
    world.budgets.refresh()
    assert world.spent == [], "nothing is under way"
    world.enter("t")
    world.now += 1e6  # a long response
    world.budgets.refresh()
    assert world.spent == ["t"]


def test_a_total_that_may_have_changed_cuts_nothing(world: World) -> None:
    world.budgets.update("t", 0, 10, cuts=True)
    world.enter("t")
    world.stored = {"t": 10}
    world.budgets.forget({"another"})
    world.budgets.forget({"t"})
    world.budgets.refresh()
    world.budgets.update("t", 10, 20, cuts=True)
    world.budgets.refresh()
    assert world.spent == []
    world.budgets.forget(None)
    world.budgets.update("t", 10, 10, cuts=True)
    world.budgets.refresh()
    assert world.spent == ["t"]
    world.budgets.update("t", 10, None, cuts=True)  # no total any more
    world.budgets.refresh()
    assert world.spent == ["t"]


def test_who_is_about_to_settle_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[float] = []

    def pause(seconds: float) -> None:
        paused.append(seconds)
        if len(paused) == 2:
            world.budgets.settle(["t"], 10, 3)

    monkeypatch.setattr(budgets_module.time, "sleep", pause)
    assert world.budgets.hold([("t", 10)], 10) is None
    assert world.budgets.hold([("t", 10)], 10) is None
    assert len(paused) == 2
    full = world.budgets.hold([("t", 10)], 10)
    assert full is not None
    assert full.in_flight
    assert len(paused) == 2 + len(budgets_module._PAUSES_SECONDS)
    world.budgets.settle(["t"], 10, 7)
    full = world.budgets.hold([("t", 10)], 10)
    assert full is not None
    assert not full.in_flight
    assert len(paused) == 2 + len(budgets_module._PAUSES_SECONDS), "nothing to wait for"
