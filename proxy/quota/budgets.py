"""What is left of ``max_tokens_total``: what the store said, what was spent since, what is held.

Every request holds what it may cost, and settles for what it did cost; all workers of the node
judge by the same table (:mod:`proxy.quota.holds`), without asking the store. About once a second
each one writes what it has spent, and reads what all nodes have written. So nodes agree within
about two seconds. `docs/governance.md` says by how much a total may be exceeded.

Note: the store's number must be read when nothing of ours is on its way there, or it is counted
twice, or not at all. So :meth:`Budgets.refresh` runs between two flushes.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

from proxy.core.errors import StoreError

_log = logging.getLogger(__name__)

#: So many seconds after its last request the number of a token is still kept up to date. Later its
#: grant is read again anyway, with the number in it.
_IN_USE_SECONDS: Final = 30.0
_FORGET_AFTER_SECONDS: Final = 600.0
#: Seconds before each further try, where the rest is held: a request settles a moment after its
#: client has its last byte, and that client may have asked again.
_PAUSES: Final = (0.005, 0.02, 0.05)


class UsedTokens(Protocol):
    """The store, as seen from here."""

    def tokens_used(self, token_ids: Collection[str]) -> Mapping[str, int]: ...


class Full(Protocol):
    """What refuses. ``in_flight``: something may be left when requests in flight have settled."""

    @property
    def at(self) -> int: ...

    @property
    def in_flight(self) -> bool: ...


class Holds(Protocol):
    """Amounts held against totals by all workers of the node; see :mod:`proxy.quota.holds`."""

    def hold(self, wanted: Sequence[tuple[str, int, int, int]]) -> Full | None: ...

    def settle(self, held: Iterable[tuple[str, int]], spent: int = 0) -> None: ...

    def stored(self, key: str, used: int, left: int, asked_at: int) -> None: ...

    def spent(self, key: str) -> int: ...


class _Budget:
    __slots__ = ("cuts", "seen_at", "total", "under_way", "used")

    def __init__(self) -> None:
        # As the store said.
        self.used = 0
        # None: not known at the moment, since it was changed.
        self.total: int | None = None
        # Whether answers under way are cut when the total is reached.
        self.cuts = False
        # Requests that have not ended yet, and the monotonic time of the last one that began.
        self.under_way = 0
        self.seen_at = 0.0


class Budgets:
    """One per worker. ``unwritten(token_id)``: LLM tokens the store has not been told of."""

    def __init__(
        self,
        store: UsedTokens,
        holds: Holds,
        unwritten: Callable[[str], int],
        spent: Callable[[str], None] = lambda token_id: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``spent`` is called with a token that has nothing left while requests that are charged to
        it are under way and to be cut; perhaps more than once. It must not wait."""
        self._store = store
        self._holds = holds
        self._unwritten = unwritten
        self._spent = spent
        self._clock = clock
        self._budgets: dict[str, _Budget] = {}

    def learn(self, token_id: str, used: int, total: int | None, *, cuts: bool) -> None:
        """What the store said of a token; ``total`` None: it has none."""
        if total is None:
            self._budgets.pop(token_id, None)
            return
        budget = self._budget(token_id)
        # It may be older than what is known.
        budget.used = max(budget.used, used)
        budget.total, budget.cuts = total, cuts

    def forget(self, token_ids: Collection[str] | None) -> None:
        """Their totals may have changed; None: of all. What they used is kept."""
        for token_id in self._budgets if token_ids is None else token_ids:
            if (budget := self._budgets.get(token_id)) is not None:
                budget.total = None

    def hold(self, wanted: Sequence[tuple[str, int]], amount: int) -> Full | None:
        """A request begins that is charged to each `(token id, total)`: hold `amount` LLM tokens of
        each, or of none. Returns what refuses, or None."""
        budgets = [(self._budget(token_id), token_id, total) for token_id, total in wanted]
        now = self._clock()
        for budget, _, _ in budgets:
            budget.seen_at = now
        entries = [(id_, amount, budget.used, total) for budget, id_, total in budgets]
        full = self._holds.hold(entries)
        for seconds in _PAUSES:
            if full is None or not full.in_flight:
                break
            time.sleep(seconds)  # of gevent, where there is gevent
            full = self._holds.hold(entries)
        if full is None:
            for budget, _, _ in budgets:
                budget.under_way += 1
        return full

    def settle(self, token_ids: Sequence[str], amount: int, tokens: int) -> None:
        """It has ended, held ``amount`` and cost so many LLM ``tokens``. Does not wait."""
        self._holds.settle([(token_id, amount) for token_id in token_ids], tokens)
        for token_id in token_ids:
            budget = self._budgets.get(token_id)
            if budget is not None:
                budget.under_way = max(0, budget.under_way - 1)
                if tokens:
                    self._judge(token_id, budget)

    def refresh(self) -> None:
        """Read again what tokens in use have used. Between two flushes; never raises."""
        now = self._clock()
        in_use = []
        for token_id, budget in list(self._budgets.items()):
            lately = now - budget.seen_at < _IN_USE_SECONDS
            if lately or budget.under_way or self._holds.spent(token_id):
                in_use.append(token_id)
            elif now - budget.seen_at > _FORGET_AFTER_SECONDS:
                del self._budgets[token_id]
        if not in_use:
            return
        asked_at = time.time_ns()
        try:
            found = self._store.tokens_used(in_use)
        except StoreError:
            return  # the next one covers it
        except Exception:  # noqa: BLE001
            _log.exception("what access tokens have used could not be read")
            return
        for token_id, used in found.items():
            current = self._budgets.get(token_id)
            if current is not None:
                current.used = used
                # Spent here, and not written, while the store was asked.
                self._holds.stored(token_id, used, self._unwritten(token_id), asked_at)
                self._judge(token_id, current)

    def _judge(self, token_id: str, budget: _Budget) -> None:
        total = budget.total
        if not budget.cuts or not budget.under_way or total is None:
            return
        if budget.used + self._holds.spent(token_id) >= total:
            self._spent(token_id)

    def _budget(self, token_id: str) -> _Budget:
        budget = self._budgets.get(token_id)
        if budget is None:
            budget = self._budgets[token_id] = _Budget()
            budget.seen_at = self._clock()
        return budget
