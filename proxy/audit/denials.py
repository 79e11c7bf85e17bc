"""Refused credentials, summed up for the audit log.

A client that guesses credentials may guess as fast as it can, and must not fill the database. So
each address makes at most two entries a minute: the first as soon as there were enough refusals,
and one with the rest. Only a bounded number of addresses is kept apart.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final

from proxy.core.usage_event import UsageEvent
from proxy.store.audit import Action, PendingEntry

#: Refused requests on `/v1` from one address within a window that make an entry. A wrong
#: management token makes an entry at once.
BURST: Final = 10
#: The values of `where`: for relayed requests, and for requests that mint.
RELAY: Final = "/v1"
MINTING: Final = "/v1/proxy/tokens"
#: Seconds in which the refusals of one address are summed up.
WINDOW: Final = 60.0
#: Addresses (and minting tokens) that a worker keeps apart at a time. All further ones share one
#: entry.
MAX_ADDRESSES: Final = 100
#: Access tokens that one entry names.
_MAX_NAMED: Final = 5

#: Action, actor, where, address.
_Key = tuple[Action, str, str, str]


class _Window:
    """The refusals of one address since `began`."""

    __slots__ = (
        "began",
        "codes",
        "count",
        "first_at",
        "last_at",
        "reported",
        "request_id",
        "subjects",
    )

    def __init__(self, began: float, request_id: str) -> None:
        self.began = began
        self.request_id = request_id
        self.first_at = self.last_at = datetime.now(UTC)
        self.subjects: set[tuple[str, str | None]] = set()
        self.reported = False
        self.forget()

    def forget(self) -> None:
        """Count from 0 again, within the same window."""
        self.count = 0
        self.codes: Counter[str] = Counter()


class DenialAggregator:
    """Counts refused credentials per address. One per worker; no method waits."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[_Key, _Window] = {}

    def events(self, events: Iterable[UsageEvent]) -> None:
        """Count the refused credentials among usage events, off the path of the requests."""
        for event in events:
            if event.status_code == 401 and event.outcome == "rejected":
                self.add(
                    RELAY,
                    event.client_ip,
                    event.error_code or "",
                    request_id=event.request_id,
                    token_id=event.token_id,
                    project_id=event.project_id,
                )

    def add(
        self,
        where: str,
        client_ip: str,
        code: str,
        *,
        request_id: str = "",
        action: Action = "auth.denied",
        actor: str = "anonymous",
        token_id: str | None = None,
        project_id: str | None = None,
    ) -> None:
        """Count one refusal; `token_id` and `project_id` where it is known what was refused."""
        key: _Key = (action, actor, where, client_ip)
        if key not in self._windows and len(self._windows) >= MAX_ADDRESSES:
            key = (action, "anonymous", where, "")
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window(self._clock(), request_id)
        window.count += 1
        window.codes[code] += 1
        window.last_at = datetime.now(UTC)
        if token_id is not None and len(window.subjects) <= _MAX_NAMED:
            window.subjects.add((token_id, project_id))

    def due(self, *, all_of_them: bool = False) -> list[PendingEntry]:
        """Return the entries that are due; at a stop, also those that would be due later."""
        drafts = []
        now = self._clock()
        for key, window in list(self._windows.items()):
            over = all_of_them or now - window.began >= WINDOW
            enough = BURST if key[2] == RELAY else 1
            if window.count and (over if window.reported else window.count >= enough):
                drafts.append(_draft(key, window))
                window.reported = True
                window.forget()
            if over:
                del self._windows[key]
        return drafts


def _draft(key: _Key, window: _Window) -> PendingEntry:
    action, actor, where, client_ip = key
    details = {
        "where": where,
        "count": window.count,
        "codes": dict(window.codes),
        "first_at": window.first_at,
        "last_at": window.last_at,
    }
    draft = PendingEntry(action, actor, client_ip, window.request_id, "denied", details=details)
    if not client_ip:
        details["addresses"] = f"more than {MAX_ADDRESSES}"
    if len(window.subjects) == 1:
        ((draft.token_id, draft.project_id),) = window.subjects
    elif window.subjects:
        details["tokens"] = sorted(token_id for token_id, _ in window.subjects)[:_MAX_NAMED]
    return draft
