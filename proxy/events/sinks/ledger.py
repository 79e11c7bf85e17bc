"""Events into the usage ledger: summed up here, added there, each line once.

It is no ordinary :class:`~proxy.events.sinks.base.Sink`. A log may have a line twice, a bill may
not, so this one is told from where to where its lines stand in the spool: the ledger moves its own
position in the transaction that adds them, and says where to go on. The thing to get wrong:
``source`` names one writer's spool for ever and over all nodes; whoever takes over the spool of a
dead writer goes on under the dead one's name.
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
#: completion tokens, cached tokens, reasoning tokens, estimated prompt and completion tokens.
Entry = tuple[datetime, str, str, str, int, int, int, int, int, int, int, int]

#: Of an event: its id, the id of the response (None where it names none or reports no usage),
#: whether it only reads a stored response, its end in microseconds since 1970, its LLM tokens.
Mark = tuple[str, str | None, bool, int, int]

#: Longer than any model's name; of a longer one this much is kept.
MAX_MODEL: Final = 255
#: A killed worker's last requests may come again from another place, within moments.
_REMEMBERED: Final = 50_000
_MOST_OF_ID: Final = 32
_MAX_COUNT: Final = 2**31 - 1
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_FAILED: Final = frozenset({"aborted", "rejected", "unknown"})


class Ledger(Protocol):
    """What the composition root hands in; ``proxy.store.usage.UsageLedger``."""

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
    """Used by one thread or greenlet; several processes may feed one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        # Where each source stands, as far as is known here: it saves a query a batch. The ledger
        # compares, so that one that is out of date does no harm.
        self._positions: dict[str, Position | None] = {}
        # The ids of the last events that were added, the oldest first.
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._names = ModelNames()
        #: Lines that were no event.
        self.unreadable = 0

    def write_from(
        self, source: str, start: Position, end: Position, lines: Sequence[bytes]
    ) -> Position:
        """Adds ``lines``, which are all that stands in ``source`` from ``start`` to ``end``.

        Answers where to go on: at ``end``; or somewhere behind ``start``, because what is before
        that was added earlier (by a process that was killed before it could remember it), and then
        nothing was done. A ``start`` beyond what was added last is fine: the spool was full.

        Raises what the ledger raises; then the same lines come again, in this batch or others.
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
            del self._positions[source]  # somebody else was here

    def close(self) -> None:
        """Nothing is held back, and the database belongs to who made it."""

    def _read(self, lines: Sequence[bytes]) -> tuple[list[Entry], dict[str, Mark]]:
        """What ``lines`` add, and the marks of these events by their ids, in the same order."""
        entries = []
        marks: dict[str, Mark] = {}
        for line in yield_cpu_every(lines):
            try:
                event = orjson.loads(line)
                if "event" in event:
                    continue  # an audit entry, a summary: no usage
                entry, mark = entry_from(event), mark_of(event)
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
                # It would come again for ever, and all behind it would wait.
                if not self.unreadable:
                    _log.error("a line of the spool is no usage event: it is not in the ledger")
                self.unreadable += 1
                continue
            # One may come from another source or place as well.
            if entry is not None and mark[0] not in self._recent and mark[0] not in marks:
                marks[mark[0]] = mark
                entries.append((*entry[:3], self._names.bounded(*entry[:4]), *entry[4:]))
        return entries, marks

    def _remember(self, event_ids: Iterable[str]) -> None:
        self._recent.update(dict.fromkeys(event_ids))
        while len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)


def entry_from(event: Any) -> Entry | None:
    """What one event adds; None where no project is known, because nobody used anything then, and
    whoever guesses tokens must not make rows. ValueError, KeyError, TypeError: no event."""
    project_id, token_id = event["project_id"], event["token_id"]
    if project_id is None or token_id is None:
        return None
    if not _is_id(project_id) or not _is_id(token_id):
        raise ValueError("ids are UUIDs in lower case")
    hour = _hour(event["timestamp"][:13])
    status, outcome, metadata = event["status_code"], event["outcome"], event["metadata"]
    if not isinstance(metadata, dict):
        raise TypeError("metadata is an object")
    refused = type(status) is int and status >= 400  # null where nobody knows any more
    failed = outcome in _FAILED or (outcome != "client_gone" and refused)
    return (
        hour,
        project_id,
        token_id,
        # An upstream's refusal may repeat what the client called the model: any number of names.
        "" if refused else _model(metadata.get("model")),
        1,
        int(failed),
        _count(metadata.get("prompt_tokens")),
        _count(metadata.get("completion_tokens")),
        _count(metadata.get("cached_tokens")),
        _count(metadata.get("reasoning_tokens")),
        _count(metadata.get("estimated_prompt_tokens")),
        _count(metadata.get("estimated_completion_tokens")),
    )


def mark_of(event: Any) -> Mark:
    """How the ledger knows an event, and the response that it names, again.

    A GET is a read of what is stored; only a WebSocket (101) generates by one. Raises ValueError,
    KeyError or TypeError: it is no event.
    """
    event_id = event["event_id"]
    if not isinstance(event_id, str) or not 0 < len(event_id) <= _MOST_OF_ID:
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


# Most lines are of the few tokens and models that are in use right now.


@lru_cache(4096)
def _is_id(given: str) -> bool:
    return _ID.fullmatch(given) is not None


@lru_cache(64)
def _hour(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}:00:00+00:00")


@lru_cache(64)
def _second(text: str) -> int:
    """In microseconds."""
    return int(datetime.fromisoformat(f"{text}+00:00").timestamp()) * 1_000_000


def _model(name: object) -> str:
    return _shown(name[:MAX_MODEL]) if isinstance(name, str) else ""


@lru_cache(1024)
def _shown(name: str) -> str:
    """As every database keeps and compares it: MySQL ignores spaces at the end, PostgreSQL has no
    room for NUL. The rest would be for terminals to obey."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name).strip()


def _total(metadata: Mapping[str, object]) -> int | None:
    """All LLM tokens, as a worker charges them; None: none were reported."""
    total = metadata.get("total_tokens")
    prompt, completion = metadata.get("prompt_tokens"), metadata.get("completion_tokens")
    if total is None and prompt is None and completion is None:
        return None
    return _count(prompt) + _count(completion) if total is None else _count(total)


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else 0
