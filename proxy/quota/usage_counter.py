"""What tokens have used: added up in memory, written in batches off the path.

Requests are counted here only of tokens without ``max_requests``; those with one are counted
exactly, where their limit is kept. LLM tokens are counted here always.

The thing to get wrong: while a batch is being written, more comes in. Whoever writes until nothing
is left does not end on a busy worker, and makes a transaction of every request.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from time import time
from typing import Final, Protocol

import gevent
from gevent.event import Event

_log = logging.getLogger(__name__)

_INTERVAL: Final = 1.0
#: At most this many tokens a transaction, so that none holds its locks for long.
_BATCH: Final = 500


class CountsStore(Protocol):
    """The store, as seen from here."""

    def add_counts(self, entries: Sequence[tuple[str, int, int, datetime]]) -> None: ...


class _Used:
    """By one token since its last flush: requests, LLM tokens, and unix seconds of the last use."""

    __slots__ = ("at", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = self.tokens = 0
        self.at = time()


class UsageCounter:
    """Collects uses and writes them once a second; what a failing store refused is kept."""

    def __init__(self, store: CountsStore) -> None:
        self._store = store
        # By token id, what is not written yet. Merged, so bounded by tokens in use.
        self._pending: dict[str, _Used] = {}
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._closing = Event()
        self._failing = False

    def add(self, token_id: str) -> None:
        used = self._used(token_id)
        used.requests += 1
        used.at = time()

    def touch(self, token_id: str) -> None:
        """Note a use that is counted elsewhere."""
        self._used(token_id).at = time()

    def spend(self, token_id: str, tokens: int) -> None:
        """Note LLM tokens of a request whose use has been noted."""
        self._used(token_id).tokens += tokens

    def unwritten(self, token_id: str) -> int:
        """LLM tokens that the store has not been told of; exact between two flushes."""
        used = self._pending.get(token_id)
        return 0 if used is None else used.tokens

    def start(self, then: Callable[[], None] = lambda: None) -> None:
        """``then`` is called between two flushes, when nothing is on its way to the store, unless
        it failed."""
        self._greenlet = gevent.spawn(self._run, then)

    def close(self, deadline: float) -> None:
        """Write what is left, for ``deadline`` seconds at the most; what then remains is logged."""
        self._closing.set()
        greenlet, self._greenlet = self._greenlet, None
        with gevent.Timeout(deadline, False):  # type: ignore[arg-type]  # it ends silently
            if greenlet is not None:
                # Not killed: what it is just writing may be committed without it, and would be
                # counted twice.
                greenlet.join()
            self.flush()
            while self._pending and not self._failing:
                self.flush()
        if self._pending:
            _log.error("uses of %d access tokens could not be counted", len(self._pending))

    def flush(self) -> None:
        """One attempt to write all that is pending now. Whatever the store raises, it is kept."""
        tokens = list(self._pending)
        for start in range(0, len(tokens), _BATCH):
            batch = [(token, self._pending.pop(token)) for token in tokens[start : start + _BATCH]]
            try:
                self._store.add_counts([_entry(token, used) for token, used in batch])
            except BaseException as error:
                self._restore(batch)
                if not isinstance(error, Exception):
                    raise
                if not self._failing:
                    _log.warning("uses cannot be counted right now, they are kept", exc_info=error)
                self._failing = True
                return
            self._failing = False

    def _run(self, then: Callable[[], None]) -> None:
        while not self._closing.wait(_INTERVAL):
            self.flush()
            if not self._failing:
                then()

    def _used(self, token_id: str) -> _Used:
        used = self._pending.get(token_id)
        if used is None:
            used = self._pending[token_id] = _Used()
        return used

    def _restore(self, batch: list[tuple[str, _Used]]) -> None:
        """Merge ``batch`` with what has come in since it was taken out."""
        for token, old in batch:
            used = self._pending.setdefault(token, old)
            if used is not old:
                used.requests += old.requests
                used.tokens += old.tokens


def _entry(token_id: str, used: _Used) -> tuple[str, int, int, datetime]:
    return token_id, used.requests, used.tokens, datetime.fromtimestamp(used.at, UTC)
