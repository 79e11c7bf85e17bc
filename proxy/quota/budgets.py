"""Token budgets (`max_tokens_total`): used by the store's count, spent since then, and held.

Every request holds the LLM tokens that it may cost, and settles for those that it did cost. All
workers of the node decide by the same table (:mod:`proxy.quota.holds`), without asking the store.
About once a second each worker writes what it has spent, and reads what all nodes have written. So
nodes agree within about two seconds. For how much a total may be exceeded, see docs/governance.md.

Note: the store's count must be read when no spent tokens of this worker are on their way to it.
Otherwise they count twice, or not at all. So :meth:`Budgets.refresh` runs between two flushes.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

from proxy.core.errors import StoreError
from proxy.quota.holds import Full

_log = logging.getLogger(__name__)

#: Seconds after a token's last request for which its count is kept up to date. Later the token's
#: grant, which contains the count, is read again anyway.
_IN_USE_SECONDS: Final = 30.0
_FORGET_AFTER_SECONDS: Final = 600.0
#: Seconds before each further try while requests in flight hold the rest of a budget. A request
#: settles a moment after its client has the last byte, and that client may have asked again.
_PAUSES_SECONDS: Final = (0.005, 0.02, 0.05)


class UsedTokens(Protocol):
    """Returns the used LLM tokens of access tokens, over all nodes. Raises StoreError."""

    def tokens_used(self, token_ids: Collection[str]) -> Mapping[str, int]: ...


class Holds(Protocol):
    """Amounts held against totals by all workers of the node; see :mod:`proxy.quota.holds`."""

    def hold(self, wanted: Sequence[tuple[str, int, int, int]]) -> Full | None: ...

    def settle(self, held: Iterable[tuple[str, int]], spent: int = 0) -> None: ...

    def stored(self, key: str, used: int, left: int, asked_at: int) -> None: ...

    def spent(self, key: str) -> int: ...


class _Budget:
    __slots__ = ("cut_in_flight", "in_flight", "last_begin", "total", "used")

    def __init__(self) -> None:
        # By the store's count.
        self.used = 0
        # None: not known at the moment, because it was changed.
        self.total: int | None = None
        # Whether responses in flight are cut when the total is reached.
        self.cut_in_flight = False
        # Requests in flight, and the monotonic time at which the last one began.
        self.in_flight = 0
        self.last_begin = 0.0


class Budgets:
    """The token budgets of all access tokens in use. One per worker."""

    def __init__(
        self,
        store: UsedTokens,
        holds: Holds,
        unwritten: Callable[[str], int],
        spent: Callable[[str], None] = lambda token_id: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the budgets.

        Args:
            store: Returns what all nodes have written.
            holds: The table of the node.
            unwritten: Returns the LLM tokens of a token id that are not in the store yet.
            spent: Called with a token id that has nothing left while requests charged to it are in
                flight and must be cut. May be called more than once. Must not wait.
            clock: Monotonic seconds.
        """
        self._store = store
        self._holds = holds
        self._unwritten = unwritten
        self._spent = spent
        self._clock = clock
        self._budgets: dict[str, _Budget] = {}

    def update(self, token_id: str, used: int, total: int | None, *, cuts: bool) -> None:
        """Take over the store's count of a token; `total` None: the token has no budget."""
        if total is None:
            self._budgets.pop(token_id, None)
            return
        budget = self._budget(token_id)
        # The store's count may be older than the known one.
        budget.used = max(budget.used, used)
        budget.total, budget.cut_in_flight = total, cuts

    def forget(self, token_ids: Collection[str] | None) -> None:
        """Forget the totals of these tokens, which may have changed; None: of all tokens.

        The used LLM tokens are kept.
        """
        for token_id in self._budgets if token_ids is None else token_ids:
            if (budget := self._budgets.get(token_id)) is not None:
                budget.total = None

    def hold(self, wanted: Sequence[tuple[str, int]], amount: int) -> Full | None:
        """Begin a request: hold `amount` LLM tokens of each `(token id, total)`, or of none.

        Returns the first total that is reached, or None. May wait for some 75 ms.
        """
        budgets = [(self._budget(token_id), token_id, total) for token_id, total in wanted]
        now = self._clock()
        for budget, _, _ in budgets:
            budget.last_begin = now
        entries = [(id_, amount, budget.used, total) for budget, id_, total in budgets]
        full = self._holds.hold(entries)
        for seconds in _PAUSES_SECONDS:
            if full is None or not full.in_flight:
                break
            time.sleep(seconds)  # gevent's, in a worker
            full = self._holds.hold(entries)
        if full is None:
            for budget, _, _ in budgets:
                budget.in_flight += 1
        return full

    def settle(self, token_ids: Sequence[str], amount: int, tokens: int) -> None:
        """End a request that held `amount` and cost `tokens` LLM tokens. Does not wait."""
        self._holds.settle([(token_id, amount) for token_id in token_ids], tokens)
        for token_id in token_ids:
            budget = self._budgets.get(token_id)
            if budget is not None:
                budget.in_flight = max(0, budget.in_flight - 1)
                if tokens:
                    self._cut_if_spent(token_id, budget)

    def refresh(self) -> None:
        """Read the counts of the tokens in use again. Runs between two flushes; never raises."""
        now = self._clock()
        in_use = []
        for token_id, budget in list(self._budgets.items()):
            recent = now - budget.last_begin < _IN_USE_SECONDS
            if recent or budget.in_flight or self._holds.spent(token_id):
                in_use.append(token_id)
            elif now - budget.last_begin > _FORGET_AFTER_SECONDS:
                del self._budgets[token_id]
        if not in_use:
            return
        asked_at = time.time_ns()
        try:
            found = self._store.tokens_used(in_use)
        except StoreError:
            return  # the next refresh covers it
        except Exception:  # noqa: BLE001
            _log.exception("budgets: the used LLM tokens could not be read")
            return
        for token_id, used in found.items():
            current = self._budgets.get(token_id)
            if current is not None:
                current.used = used
                # `unwritten` is what was spent here while the store was asked.
                self._holds.stored(token_id, used, self._unwritten(token_id), asked_at)
                self._cut_if_spent(token_id, current)

    def _cut_if_spent(self, token_id: str, budget: _Budget) -> None:
        total = budget.total
        if not budget.cut_in_flight or not budget.in_flight or total is None:
            return
        if budget.used + self._holds.spent(token_id) >= total:
            self._spent(token_id)

    def _budget(self, token_id: str) -> _Budget:
        budget = self._budgets.get(token_id)
        if budget is None:
            budget = self._budgets[token_id] = _Budget()
            budget.last_begin = self._clock()
        return budget
