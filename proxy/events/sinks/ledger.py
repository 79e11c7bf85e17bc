"""The sink for the usage ledger: it sums the lines of a batch, and the ledger adds each line once.

It is no ordinary :class:`~proxy.events.sinks.base.Sink`. A log may have a line twice, a bill may
not. So a batch comes with its start and its end in the spool, the ledger moves its own position in
the transaction that adds the lines, and the sink returns the position at which to continue.

Note: ``source`` names one writer's spool, for all time and over all nodes. A worker that recovers
the spool of a killed one continues under the same name.
"""

import logging
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Protocol

import orjson

from proxy.events.sinks.model_names import ModelNames
from proxy.runtime.cpu_turns import yield_cpu_every

_log = logging.getLogger(__name__)

#: Segment number and byte offset in it. They compare as tuples do.
Position = tuple[int, int]
#: The beginning of the hour (UTC), project id, token id, model; requests, errors, prompt tokens,
#: completion tokens, cached tokens, reasoning tokens, estimated prompt and completion tokens, cache
#: hits, saved prompt and completion tokens.
Entry = tuple[datetime, str, str, str, int, int, int, int, int, int, int, int, int, int, int]

#: The event's id, the id of its response (None where it names none or reports no usage), whether
#: it only reads a stored response, its end in microseconds since 1970, its LLM tokens.
Mark = tuple[str, str | None, bool, int, int]

#: Longer than any model's name. A longer name is truncated.
MAX_MODEL_CHARS: Final = 255
#: Ids of added events. The last events of a killed worker may be repeated from another spool.
_MAX_REMEMBERED_IDS: Final = 50_000
_MAX_ID_CHARS: Final = 32
_MAX_COUNT: Final = 2**31 - 1
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_FAILED: Final = frozenset({"aborted", "rejected", "unknown"})
#: The outcome of an attempt whose response no client got: what it used counts, and no request.
_SUPERSEDED: Final = "superseded"


class Ledger(Protocol):
    """The methods used of ``proxy.store.usage.UsageLedger``."""

    def position(self, source: str) -> Position | None: ...

    def apply(
        self,
        source: str,
        after: Position | None,
        upto: Position,
        entries: Sequence[Entry],
        marks: Sequence[Mark],
    ) -> bool: ...


class LedgerSink:
    """For one thread or greenlet. Several processes may write to one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        # The last known position of each source, which saves a query per batch. The ledger
        # compares it with its own, so an outdated one does no harm.
        self._positions: dict[str, Position | None] = {}
        # Ids of the last events that were added, oldest first.
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._names = ModelNames()
        #: Lines that are no events.
        self.unreadable = 0

    def write_from(
        self, source: str, start: Position, end: Position, lines: Sequence[bytes]
    ) -> Position:
        """Add `lines`, which are all lines of `source` from `start` to `end`.

        Returns the position at which to continue:

        1. `end`, when the lines were added.
        2. A position behind `start`, when the lines before it were added earlier, by a process that
           was killed before it could write its offset. Nothing was added then.

        A `start` behind the last added line is valid: the spool was full, and lines were dropped.

        Raises what the ledger raises. The caller then passes the same lines again, in this batch or
        another.
        """
        while True:
            if source not in self._positions:
                self._positions[source] = self._ledger.position(source)
            after = self._positions[source]
            if after is not None and after > start:
                return after
            entries, marks = self._read(lines)
            if self._ledger.apply(source, after, end, entries, list(marks.values())):
                self._positions[source] = end
                self._remember(marks)
                return end
            del self._positions[source]  # another process has moved it

    def close(self) -> None:
        """Nothing to close: the database belongs to its maker."""

    def _read(self, lines: Sequence[bytes]) -> tuple[list[Entry], dict[str, Mark]]:
        """Returns the entries of `lines`, and their marks by event id, in the same order."""
        entries = []
        marks: dict[str, Mark] = {}
        for line in yield_cpu_every(lines):
            try:
                event = orjson.loads(line)
                if "event" in event:
                    continue  # an audit entry, a summary: no usage
                entry, mark = entry_from(event), mark_of(event)
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
                # If this were raised, the line would be sent forever, and all lines behind it
                # would wait.
                if not self.unreadable:
                    _log.error("a line of the spool is no usage event: it is not in the ledger")
                self.unreadable += 1
                continue
            # The same event may also come from another source, or twice from this one.
            if entry is not None and mark[0] not in self._recent and mark[0] not in marks:
                marks[mark[0]] = mark
                entries.append((*entry[:3], self._names.bounded(*entry[:4]), *entry[4:]))
        return entries, marks

    def _remember(self, event_ids: Iterable[str]) -> None:
        self._recent.update(dict.fromkeys(event_ids))
        while len(self._recent) > _MAX_REMEMBERED_IDS:
            self._recent.popitem(last=False)


def entry_from(event: Any) -> Entry | None:
    """The ledger's entry of one event. Returns None for an event that adds nothing.

    Without a project nothing was used, and a client that guesses tokens must not make rows. A
    superseded attempt is part of a request that has its own event, so only its tokens are added.
    Raises ValueError, KeyError or TypeError for what is no event.
    """
    project_id, token_id = event["project_id"], event["token_id"]
    if project_id is None or token_id is None:
        return None
    if not _is_id(project_id) or not _is_id(token_id):
        raise ValueError("ids are UUIDs in lower case")
    hour = _hour(event["timestamp"][:13])
    status, outcome, metadata = event["status_code"], event["outcome"], event["metadata"]
    if not isinstance(metadata, dict):
        raise TypeError("metadata is an object")
    refused = type(status) is int and status >= 400  # null: unknown, the worker was killed
    # An upstream's refusal may repeat what the client called the model: any number of names.
    model = "" if refused else _model(metadata.get("model"))
    counts = (
        _count(metadata.get("prompt_tokens")),
        _count(metadata.get("completion_tokens")),
        _count(metadata.get("cached_tokens")),
        _count(metadata.get("reasoning_tokens")),
        _count(metadata.get("estimated_prompt_tokens")),
        _count(metadata.get("estimated_completion_tokens")),
        int("cache" in event and outcome not in _FAILED),
        _count(event.get("saved_prompt_tokens")),
        _count(event.get("saved_completion_tokens")),
    )
    if not model and not refused and any(counts):
        # The response does not name its model, so the name that the request went out with counts.
        model = _model(event.get("upstream_model"))
    if outcome == _SUPERSEDED:
        return (hour, project_id, token_id, model, 0, 0, *counts) if any(counts) else None
    failed = outcome in _FAILED or (outcome != "client_gone" and refused)
    return (hour, project_id, token_id, model, 1, int(failed), *counts)


def mark_of(event: Any) -> Mark:
    """The mark by which the ledger recognises an event and the response that it names.

    A GET reads a stored response, unless it opens a WebSocket (101), which generates. Raises
    ValueError, KeyError or TypeError for what is no event.
    """
    event_id = event["event_id"]
    if not isinstance(event_id, str) or not 0 < len(event_id) <= _MAX_ID_CHARS:
        raise ValueError("an event has an id")
    metadata = event["metadata"]
    total = _total(metadata)
    name = metadata.get("response_id")
    response = name if total is not None and name and isinstance(name, str) else None
    is_read = event["method"] == "GET" and event["status_code"] != 101
    timestamp = event["timestamp"]
    started = _second(timestamp[:19]) + int(timestamp[20:23]) * 1000
    ended = started + int((event.get("duration_ms") or 0) * 1e3)
    return event_id, response, is_read, ended, total or 0


# Cached, because most lines have one of the few tokens, hours and models in use right now.


@lru_cache(4096)
def _is_id(given: str) -> bool:
    return _ID.fullmatch(given) is not None


@lru_cache(64)
def _hour(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}:00:00+00:00")


@lru_cache(64)
def _second(text: str) -> int:
    """Microseconds since 1970."""
    return int(datetime.fromisoformat(f"{text}+00:00").timestamp()) * 1_000_000


def _model(name: object) -> str:
    return _shown(name[:MAX_MODEL_CHARS]) if isinstance(name, str) else ""


@lru_cache(1024)
def _shown(name: str) -> str:
    """`name` in a form that every database stores and compares alike.

    MySQL ignores spaces at the end, and PostgreSQL cannot store NUL. Other unprintable characters
    are replaced because a terminal would obey them.
    """
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name).strip()


def _total(metadata: Mapping[str, object]) -> int | None:
    """All LLM tokens, as a worker charges them. Returns None where none were reported."""
    total = metadata.get("total_tokens")
    prompt, completion = metadata.get("prompt_tokens"), metadata.get("completion_tokens")
    if total is None and prompt is None and completion is None:
        return None
    return _count(prompt) + _count(completion) if total is None else _count(total)


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else 0
