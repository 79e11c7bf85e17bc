"""The greenlet that looks after the folders of workers that are gone
(:mod:`proxy.events.spool.recovery`).

Every worker looks, at its start and then every few seconds; the kernel's lock decides who gets one.
"""

import logging
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import gevent
from gevent.threadpool import ThreadPool

from proxy.events.sink_worker import SinkWorker
from proxy.events.spool.inflight_table import leftover_records
from proxy.events.spool.lock import SpoolLock, acquire, node_lock
from proxy.events.spool.offsets import read_offset, sync_folder, write_offset
from proxy.events.spool.retention import INTENTS, LOCAL, reclaim, remove_if_empty, writer_folders
from proxy.events.spool.segment import (
    PREFIX,
    Batch,
    decode_record,
    read_batch,
    segment_numbers,
    segment_path,
)
from proxy.events.spool.writer import SegmentWriter

#: Where the ``event_id`` stands in a record: the first field of every line.
_ID: Final = slice(PREFIX + len('{"event_id":"'), PREFIX + len('{"event_id":"') + 32)
_TOKEN: Final = re.compile(rb'"token_id":"([0-9a-f-]{36})"')
#: Among so many of the newest segments a record can have a slot still.
_NEWEST: Final = 3
#: Of so many of the newest events it is said whose they are: more than a worker ends in a second.
_LAST_EVENTS: Final = 5000


class AbandonedSpool:
    """A folder that is ours until :meth:`leave`."""

    def __init__(self, folder: Path, ownership: SpoolLock) -> None:
        self.folder = folder
        self._ownership = ownership
        #: Requests of which only the beginning is known; open requests in all; unreadable ones.
        self.recovered = 0
        self.unreadable = 0
        #: Access tokens of the newest events of a worker that was killed; nobody else's are known.
        self.token_ids: frozenset[str] = frozenset()
        self._position = read_offset(folder, LOCAL)

    def recover(self) -> None:
        """Turn the slots in use into records. Raises OSError: then they are still there."""
        records, self.unreadable = leftover_records(self.folder)
        if records:
            spooled = _newest_ids(self.folder)
            records = [record for record in records if record[_ID] not in spooled]
        if records:
            writer = SegmentWriter(self.folder, self._ownership)
            try:
                writer.append(records)
            finally:
                writer.close()
            self.recovered = len(records)
        if (self.folder / INTENTS).exists():
            self.token_ids = _newest_tokens(self.folder)
        (self.folder / INTENTS).unlink(missing_ok=True)
        sync_folder(self.folder)

    def read(self) -> Batch:
        """The next lines that the local sinks lack; none when there are no more. Raises OSError."""
        return read_batch(self.folder, self._position, max_lines=500, abandoned=True)

    def accepted(self, batch: Batch) -> None:
        """The local sinks have them. Raises OSError."""
        if batch.position != self._position:
            self._position = batch.position
            write_offset(self.folder, LOCAL, batch.position)

    def leave(self, sinks: Collection[str] | None) -> None:
        """Remove what all of ``sinks`` have passed; the rest is an orphan again. Raises OSError."""
        try:
            if sinks is not None:
                reclaim(self.folder, sinks)
                remove_if_empty(self.folder)
        finally:
            self._ownership.release()

    def release(self) -> None:
        """Leave everything as it is."""
        self._ownership.release()


def abandoned_spools(root: Path) -> Iterator[AbandonedSpool]:
    """Each orphan once, owned; to be left before the next is asked for.

    Raises OSError; for a folder that cannot be taken only after all the others.
    """
    trouble: OSError | None = None
    for folder in writer_folders(root):
        try:
            orphan = _take(folder)
        except OSError as error:
            trouble = error
            continue
        if orphan is not None:
            yield orphan
    if trouble is not None:
        raise trouble


def _take(folder: Path) -> AbandonedSpool | None:
    with node_lock(folder.parent):
        ownership = acquire(folder)
    if ownership is None:
        return None
    try:
        return AbandonedSpool(folder, ownership)
    except BaseException:
        ownership.release()
        raise


def _newest_ids(folder: Path) -> set[bytes]:
    ids: set[bytes] = set()
    for number in segment_numbers(folder)[-_NEWEST:]:
        with segment_path(folder, number).open("rb") as file:
            # Whole ones only: of a record that the kill tore, the slot has the rest.
            ids.update(record[_ID] for record in file if decode_record(record) is not None)
    return ids


def _newest_tokens(folder: Path) -> frozenset[str]:
    lines: deque[bytes] = deque(maxlen=_LAST_EVENTS)
    for number in segment_numbers(folder)[-_NEWEST:]:
        with segment_path(folder, number).open("rb") as file:
            lines.extend(line for record in file if (line := decode_record(record)) is not None)
    found = {match[1].decode() for line in lines if (match := _TOKEN.search(line))}
    return frozenset(found)


_log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.02


class SpoolRecovery:
    """Brings what abandoned_spools hold to ``sink_workers``, and removes what all of ``sinks`` have
    passed."""

    def __init__(
        self, root: Path, sinks: Collection[str], sink_workers: Sequence[SinkWorker]
    ) -> None:
        self._root = root
        self._sinks = sinks
        self._sink_workers = sink_workers
        self._thread = ThreadPool(1)
        self._failing = False
        #: Requests of killed workers that were told of; records that nobody could read.
        self.recovered = 0
        self.damaged = 0
        #: Called with the access tokens that a killed worker has served last. Must not wait.
        self.killed: Callable[[Collection[str]], None] = lambda token_ids: None
        self._greenlet = gevent.spawn(self._run)

    def close(self) -> None:
        """What is being adopted stays ours until the process ends, and is an orphan again then."""
        self._greenlet.kill()
        gevent.spawn(self._thread.kill)  # which waits for a thread that hangs

    def _run(self) -> None:
        while True:
            try:
                self._look()
                self._failing = False
            except Exception as error:  # noqa: BLE001  (this greenlet must not end)
                if not self._failing:
                    _log.error("what other workers left in the spool cannot be read: %s", error)
                self._failing = True
            gevent.sleep(_LOOK_SECONDS)

    def _look(self) -> None:
        trouble: Exception | None = None
        found = abandoned_spools(self._root)
        while (orphan := self._call(next, found, None)) is not None:
            try:
                self._settle(orphan)
            except Exception as error:  # noqa: BLE001  (this folder's alone)
                orphan.release()
                trouble = error
        if trouble is not None:
            raise trouble

    def _settle(self, orphan: AbandonedSpool) -> None:
        self._call(orphan.recover)
        if orphan.recovered or orphan.unreadable:
            _log.warning(
                "a worker was killed: its %d open requests become events (%d unreadable)",
                orphan.recovered,
                orphan.unreadable,
            )
        if orphan.token_ids:
            self.killed(orphan.token_ids)
        self.recovered += orphan.recovered
        self.damaged += orphan.unreadable
        if self._sink_workers:
            self._bring(orphan)
        self._call(orphan.leave, self._sinks)

    def _bring(self, orphan: AbandonedSpool) -> None:
        while True:
            batch = self._call(orphan.read)
            if batch.damaged:
                _log.warning("%d damaged records in the spool were skipped", batch.damaged)
            self.damaged += batch.damaged
            self._wait_until(lambda: all(delivery.free for delivery in self._sink_workers))
            for delivery in self._sink_workers:
                delivery.add(batch.lines)
            given = [(delivery, delivery.added) for delivery in self._sink_workers]
            self._wait_until(lambda: all(sink.done >= count for sink, count in given))  # noqa: B023
            self._call(orphan.accepted, batch)
            if not batch.lines:
                return

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            gevent.sleep(_POLL_SECONDS)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """On the thread: all of this waits for the disk."""

        def guarded() -> Any:
            # Caught over there: gevent prints the traceback of what leaves a pool's thread.
            try:
                return function(*args)
            except Exception as error:  # noqa: BLE001
                return error

        result = self._thread.spawn(guarded).get()
        if isinstance(result, Exception):
            raise result
        return result
