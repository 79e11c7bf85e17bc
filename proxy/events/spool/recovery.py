"""Recovery of the spools that ended workers left.

Every worker looks for abandoned folders at its start and then every few seconds. The folder's lock
decides which worker gets it.
"""

import contextlib
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
from proxy.events.spool.retention import (
    INFLIGHT_TABLE,
    LOCAL,
    OLD_INFLIGHT_TABLE,
    reclaim,
    remove_if_empty,
    writer_folders,
)
from proxy.events.spool.segment import (
    PREFIX,
    Batch,
    decode_record,
    read_batch,
    segment_numbers,
    segment_path,
)
from proxy.events.spool.writer import SegmentWriter
from proxy.runtime.failure_log import FailureLog
from proxy.runtime.periodic import PeriodicTask

#: The ``event_id`` in a record: the first field of every line.
_ID: Final = slice(PREFIX + len('{"event_id":"'), PREFIX + len('{"event_id":"') + 32)
_TOKEN: Final = re.compile(rb'"token_id":"([0-9a-f-]{36})"')
#: Only records in so many of the newest segments can still have a slot.
_NEWEST: Final = 3
#: The newest events whose access tokens are reported: more than a worker ends in a second.
_LAST_EVENTS: Final = 5000


class AbandonedSpool:
    """An abandoned folder that this process owns until :meth:`leave` or :meth:`release`."""

    def __init__(self, folder: Path, ownership: SpoolLock) -> None:
        self.folder = folder
        self._ownership = ownership
        #: Slots that became records; slots that are unreadable.
        self.recovered = 0
        self.unreadable = 0
        #: Ids of the access tokens in the newest events, if the worker was killed.
        self.token_ids: frozenset[str] = frozenset()
        self._offset = read_offset(folder, LOCAL)

    def recover(self) -> None:
        """Turn the slots in use into records. Raises OSError: the slots are kept then."""
        table = self.folder / INFLIGHT_TABLE
        with contextlib.suppress(FileNotFoundError):
            (self.folder / OLD_INFLIGHT_TABLE).rename(table)
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
        if table.exists():
            self.token_ids = _newest_tokens(self.folder)
        table.unlink(missing_ok=True)
        sync_folder(self.folder)

    def read(self) -> Batch:
        """The next lines that the local sinks lack; none at the end. Raises OSError."""
        return read_batch(self.folder, self._offset, max_lines=500, abandoned=True)

    def accepted(self, batch: Batch) -> None:
        """Record that the local sinks have accepted `batch`. Raises OSError."""
        if batch.offset != self._offset:
            self._offset = batch.offset
            write_offset(self.folder, LOCAL, batch.offset)

    def leave(self, sinks: Collection[str] | None) -> None:
        """Remove what all of `sinks` have passed, and release the folder. Raises OSError."""
        try:
            if sinks is not None:
                reclaim(self.folder, sinks)
                remove_if_empty(self.folder)
        finally:
            self._ownership.release()

    def release(self) -> None:
        """Release the folder and change nothing in it."""
        self._ownership.release()


def abandoned_spools(root: Path) -> Iterator[AbandonedSpool]:
    """Yields each abandoned folder once, locked. The caller releases it before taking the next.

    Raises OSError; for a folder that cannot be locked, only after all others.
    """
    trouble: OSError | None = None
    for folder in writer_folders(root):
        try:
            spool = _take(folder)
        except OSError as error:
            trouble = error
            continue
        if spool is not None:
            yield spool
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
            # Complete records only: a record that the kill tore is still whole in its slot.
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

_SCAN_INTERVAL_SECONDS: Final = 5.0
_POLL_INTERVAL_SECONDS: Final = 0.02


class SpoolRecovery:
    """Delivers what abandoned spools hold to `sink_workers`, and removes what all of `sinks` have
    passed."""

    def __init__(
        self, root: Path, sinks: Collection[str], sink_workers: Sequence[SinkWorker]
    ) -> None:
        self._root = root
        self._sinks = sinks
        self._sink_workers = sink_workers
        self._thread = ThreadPool(1)
        self._failures = FailureLog(
            _log.log,
            "spool recovery",
            "spools of ended workers cannot be read",
            "spools of ended workers are read again",
            level=logging.ERROR,
        )
        self._task = PeriodicTask(
            self._run,
            lambda: _SCAN_INTERVAL_SECONDS,
            failure="spool recovery: a scan failed",
            log=_log,
            first_pause=lambda: 0.0,
        )
        #: Requests of killed workers that became events; records that are unreadable.
        self.recovered = 0
        self.damaged = 0
        #: Called with the ids of the access tokens that a killed worker served last. Must not wait.
        self.killed: Callable[[Collection[str]], None] = lambda token_ids: None
        self._task.start()

    def close(self) -> None:
        """Stop. A folder that is being recovered stays locked until the process ends, and is
        abandoned again then."""
        self._task.kill()
        gevent.spawn(self._thread.kill)  # which waits for a thread that hangs

    def _run(self) -> None:
        try:
            self._recover_all()
        except Exception as error:  # noqa: BLE001  (the next scan tries again)
            self._failures.failed(error)
        else:
            self._failures.worked()

    def _recover_all(self) -> None:
        trouble: Exception | None = None
        found = abandoned_spools(self._root)
        while (spool := self._call(next, found, None)) is not None:
            try:
                self._recover(spool)
            except Exception as error:  # noqa: BLE001  (this folder's alone)
                spool.release()
                trouble = error
        if trouble is not None:
            raise trouble

    def _recover(self, spool: AbandonedSpool) -> None:
        self._call(spool.recover)
        if spool.recovered or spool.unreadable:
            _log.warning(
                "spool: a worker was killed, its %d open requests become events (%d unreadable)",
                spool.recovered,
                spool.unreadable,
            )
        if spool.token_ids:
            self.killed(spool.token_ids)
        self.recovered += spool.recovered
        self.damaged += spool.unreadable
        if self._sink_workers:
            self._deliver(spool)
        self._call(spool.leave, self._sinks)

    def _deliver(self, spool: AbandonedSpool) -> None:
        while True:
            batch = self._call(spool.read)
            if batch.damaged:
                _log.warning("%d damaged records in the spool were skipped", batch.damaged)
            self.damaged += batch.damaged
            self._wait_until(lambda: all(worker.free for worker in self._sink_workers))
            for worker in self._sink_workers:
                worker.add(batch.lines)
            targets = [(worker, worker.added) for worker in self._sink_workers]
            self._wait_until(lambda: all(sink.done >= count for sink, count in targets))  # noqa: B023
            self._call(spool.accepted, batch)
            if not batch.lines:
                return

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            gevent.sleep(_POLL_INTERVAL_SECONDS)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function` on the thread, because it waits for the disk."""

        def guarded() -> Any:
            # Caught on the thread: gevent prints the traceback of what leaves a pool's thread.
            try:
                return function(*args)
            except Exception as error:  # noqa: BLE001
                return error

        result = self._thread.spawn(guarded).get()
        if isinstance(result, Exception):
            raise result
        return result
