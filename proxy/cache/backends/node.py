"""The store of a node: one LMDB file that all its workers map into memory.

A read is a look-up in mapped memory, on the event loop's thread: it takes no lock that a writer
holds, and writes nothing. Everything that writes runs on a thread of the worker. Of all workers one
at a time writes; the others' threads wait, and their event loops do not.

Killing a process at any moment leaves the file usable: pages in use are never overwritten, and LMDB
releases the lock of a dead process. A power cut may damage it, since nothing is synced to the disk.
So the file's name contains the machine's boot id, and a file of an earlier boot is deleted.

Values and labels are encrypted, and bound to their key: what was changed, cut or swapped is a miss.

The file grows to its size and stays there. When LMDB finds no free pages although the sums say that
there is room (a large value needs pages in a row), more is evicted, and the write is tried again.

Note: a process must open the file once, and after a fork (LMDB's locks belong to the process).
Note: truncating the file by hand ends the processes that have it mapped.
"""

import contextlib
import logging
import os
import shutil
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from heapq import nlargest
from pathlib import Path
from typing import Any, Final

import lmdb
from cachetools import LRUCache

from proxy.cache.backends.base import (
    Counts,
    EntryFacts,
    Item,
    RecordsFull,
    Selection,
    StoreFigures,
    StoreSize,
    purge_incomplete,
    records_unavailable,
)
from proxy.cache.backends.node_sealing import NodeSealing
from proxy.cache.backends.node_tables import (
    HEAD,
    NO_TAGS,
    TABLES,
    Facts,
    Meta,
    Sealed,
    TableWriter,
    metas,
    select,
    used_bytes,
)
from proxy.cache.backends.writer_thread import Job, WriterThread
from proxy.cache.key import CacheKey
from proxy.core.errors import CipherError
from proxy.runtime import filelock
from proxy.runtime.failure_log import FailureLog
from proxy.runtime.periodic import PeriodicTask

_log = logging.getLogger(__name__)

#: Changes with the layout: during an upgrade both versions run.
_FORMAT: Final = "v1"
#: LMDB's name for it.
_FILE: Final = "data.mdb"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
#: The part of the file that may be in use. The rest is for free pages that are not in a row, and
#: for what the last transactions have freed: the second one after them can use it.
_FILL: Final = 0.88
#: Bytes that are free besides, which matter in a small file.
_RESERVE: Final = 384 * 1024
#: Bytes of pages that a put copies and frees, with the eviction that makes room for it.
_COPIED_BYTES: Final = 3 * 12 * 4096
#: The part of the file that one batch may copy.
_COPIED: Final = 0.12
_MAX_BATCH: Final = 64
#: How often a write is tried that finds the file full.
_FULL_TRIES: Final = 8
#: An entry that takes more than one part in so many of the store is refused.
_MIN_ENTRIES: Final = 16
_MIN_SIZE: Final = 1024 * 1024
_MAX_READERS: Final = 1024
_MAX_JOBS: Final = 1024
_MAX_WAITING_BYTES: Final = 32 * 1024 * 1024
_BATCH_BYTES: Final = 2 * 1024 * 1024
#: Entries whose hits wait to be written. Those of further ones are not counted.
_MAX_TOUCHED: Final = 8192
#: Seconds between two runs of the maintenance, in which hits are written.
_INTERVAL: Final = 1.0
_EXPIRE_EVERY: Final = 5
_CHECK_EVERY: Final = 15
#: Seconds for which a greenlet waits for the thread.
_RECORD_TIMEOUT: Final = 5.0
_PURGE_TIMEOUT: Final = 30.0
#: Entries that one transaction of a purge deletes.
_PURGE_BATCH: Final = 256
#: Seconds for which the lock of the folder is waited for.
_OPEN_TIMEOUT: Final = 5.0
_SHOWN: Final = 10
#: Bytes of decrypted entries that a worker keeps at hand, of one of them, and what one costs more.
RECENT_BYTES: Final = 1024 * 1024
_MAX_RECENT_BYTES: Final = 64 * 1024
_RECENT_OVERHEAD: Final = 400
#: Errors after which a file is not used any more.
_DAMAGE: Final = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)


class NodeStore:
    """See :class:`proxy.cache.backends.base.Store`. One per worker and file.

    Args:
        folder: Belongs to the cache alone. It is made, readable by its owner only.
        secret: Of the installation; the file's entries can be read with it alone.
        size: Bytes of the file at most.
    """

    def __init__(
        self, folder: Path, secret: bytes, *, size: int, clock: Callable[[], float] = time.time
    ) -> None:
        # In whole pages; less would not hold the tables.
        self._size = max(size, _MIN_SIZE) // 65_536 * 65_536
        self._capacity = int(self._size * _FILL) - _RESERVE
        self._max_value = self._capacity // _MIN_ENTRIES
        self._folder = folder
        self._clock = clock
        self._sealing = NodeSealing(secret, clock)
        self.counts = Counts()
        self._environment: lmdb.Environment | None = None
        self._tables: dict[str, Any] = {}
        self._values: Any = None
        self._inode: os.stat_result | None = None
        # Entries as they were decrypted last, each with the value that it was sealed in, and the
        # scope that it was sealed for.
        self._recent: LRUCache[bytes, tuple[bytes, bytes, str]] = LRUCache(
            RECENT_BYTES, lambda recent: 2 * len(recent[1]) + _RECENT_OVERHEAD
        )
        # What is not written yet: hits per entry, and look-ups without one.
        self._touched: Counter[bytes] = Counter()
        self._misses = 0
        self._rejected: Counter[str] = Counter()
        #: Whether the file is to be replaced.
        self._damaged = False
        # The last failure of the thread; None after a success. The thread itself logs nothing: the
        # locks of the log are gevent's.
        self._thread_error: Exception | None = None
        self._ticks = 0
        self._thread = WriterThread(
            self._run,
            max_jobs=_MAX_JOBS,
            max_bytes=min(_MAX_WAITING_BYTES, self._size // 4),
            max_batch=max(1, min(_MAX_BATCH, int(self._size * _COPIED / _COPIED_BYTES))),
            batch_bytes=min(_BATCH_BYTES, self._size // 32),
        )
        self._failures = FailureLog(
            _log.log,
            "response cache",
            f"the file in {folder} cannot be used, and nothing is stored meanwhile",
            "the file can be used again",
            level=logging.ERROR,
        )
        self._maintenance = PeriodicTask(
            self._maintain,
            lambda: _INTERVAL,
            failure="response cache: the maintenance of the file failed",
            log=_log,
        )

    # The life of the store.

    def start(self) -> None:
        self._open()
        self._maintenance.start()

    def close(self, deadline: float) -> None:
        self._maintenance.kill()
        self._write_counts()
        idle = self._thread.close(deadline)
        environment, self._environment = self._environment, None
        if environment is not None and idle:  # else the thread still uses it
            environment.close()

    def flush(self, seconds: float) -> bool:
        self._write_counts()
        return self._thread.flush(seconds)

    # Entries.

    def get(self, key: CacheKey, *, stale: bool = False) -> bytes | None:
        # Nothing in here switches to another greenlet: a transaction belongs to its moment.
        plain = None
        try:
            if self._environment is not None:
                with self._environment.begin(db=self._values, buffers=True) as transaction:
                    found = transaction.get(key.digest)
                    if found is not None:
                        plain = self._opened(key, found, stale)
        except lmdb.Error as error:
            self._failed(error)
        except (CipherError, struct.error):
            self.counts.errors["unreadable"] += 1
        if plain is None:
            self._misses += 1
        elif len(self._touched) < _MAX_TOUCHED or key.digest in self._touched:
            self._touched[key.digest] += 1
        return plain

    def _opened(self, key: CacheKey, found: memoryview, stale: bool) -> bytes | None:
        """Decrypt a value straight out of the file, unless its time is over.

        What was decrypted lately is not decrypted again: the same object is returned.
        """
        expires_at, kept_until = HEAD.unpack_from(found)
        if (kept_until if stale else expires_at) <= self._clock():
            return None
        recent = self._recent.get(key.digest)
        if recent is not None and recent[0] == bytes(found) and recent[2] == key.scope:
            return recent[1]
        plain = self._sealing.open_entry(key, found)
        if len(plain) <= _MAX_RECENT_BYTES:
            self._recent[key.digest] = bytes(found), plain, key.scope
        return plain

    def put(self, item: Item) -> None:
        size = len(item.response.body)
        if size > self._max_value:
            self._reject("too_large")
        elif self._environment is None:
            self._reject("store_unavailable")
        elif not self._thread.offer(Job(_Put(self._sealing.entry, item), size)):
            self._reject("queue_full")

    def delete(self, key: CacheKey) -> None:
        self._thread.offer(Job(lambda tables: tables.delete(key.digest)))

    def purge(self, selection: Selection) -> set[bytes]:
        try:
            found = self._thread.call(lambda tables: self._selected(selection), _PURGE_TIMEOUT)
            return self._delete_in_batches(found)
        except (TimeoutError, lmdb.Error) as error:
            raise purge_incomplete("The file of the response cache") from error

    def forget(self, scope: str, target: str) -> None:
        selection = Selection(scope=scope, method="GET", target=target)

        def forget(tables: TableWriter) -> None:
            for digest in self._selected(selection):
                tables.delete(digest)

        self._thread.offer(Job(forget))

    def size(self) -> StoreSize:
        environment = self._environment
        if environment is None:
            return StoreSize(0, 0, self._size)
        try:
            with environment.begin() as transaction:
                facts = Facts.decode(transaction.get(b"facts", db=self._tables["facts"]))
                return StoreSize(facts.items, used_bytes(transaction, self._tables), self._size)
        except lmdb.Error as error:
            self._failed(error)
            return StoreSize(0, 0, self._size)

    def figures(self) -> StoreFigures:
        self._write_counts()
        try:
            found: StoreFigures = self._thread.call(lambda _: self._shown(), _RECORD_TIMEOUT)
        except (TimeoutError, lmdb.Error):
            return StoreFigures(limit=self._size)
        return found

    # Records.

    def claim(self, name: str, value: bytes, ttl: float) -> bytes | None:
        def claim(tables: TableWriter) -> bytes | None:
            found = self._record_in(tables, name)
            if found is None:
                tables.pin(self._sealing.record(name, value, ttl))
            return found

        found: bytes | None = self._change_record(claim)
        return found

    def get_record(self, name: str) -> bytes | None:
        environment = self._environment
        if environment is None:
            raise records_unavailable()
        try:
            with environment.begin(db=self._values) as transaction:
                found = transaction.get(self._sealing.record_digest(name))
        except lmdb.Error as error:
            self._failed(error)
            raise records_unavailable() from error
        if found is None or HEAD.unpack_from(found)[1] <= self._clock():
            return None
        return self._open_record(name, found)

    def put_record(
        self,
        name: str,
        value: bytes,
        ttl: float,
        *,
        expected: bytes | None = None,
        pinned: bool = False,
    ) -> bool:
        def put(tables: TableWriter) -> bool:
            if expected is not None and self._record_in(tables, name) != expected:
                return False
            sealed = self._sealing.record(name, value, ttl)
            if pinned:
                tables.pin(sealed)
            elif is_too_large:
                tables.delete(sealed.digest)
            else:
                tables.put(sealed)
            return True

        is_too_large = not pinned and len(value) > self._max_value
        if is_too_large:
            self._reject("too_large")
        return bool(self._change_record(put, len(value)))

    def delete_record(self, name: str, *, expected: bytes | None = None) -> bool:
        def delete(tables: TableWriter) -> bool:
            if expected is not None and self._record_in(tables, name) != expected:
                return False
            return tables.delete(self._sealing.record_digest(name))

        return bool(self._change_record(delete))

    def _change_record(self, change: Callable[[TableWriter], Any], size: int = 0) -> Any:
        """Run `change` on the thread and return its value, once it is committed."""
        if self._environment is None:
            raise records_unavailable()
        try:
            return self._thread.call(change, _RECORD_TIMEOUT, size)
        except (TimeoutError, lmdb.Error) as error:
            self.counts.errors["record"] += 1
            raise records_unavailable() from error

    def _record_in(self, tables: TableWriter, name: str) -> bytes | None:
        found = tables.read(self._sealing.record_digest(name))
        return None if found is None else self._open_record(name, found)

    def _open_record(self, name: str, found: bytes) -> bytes:
        try:
            return self._sealing.open_record(name, found)
        except CipherError as error:
            raise records_unavailable() from error

    # Helpers of the event loop's thread.

    def _reject(self, reason: str) -> None:
        self.counts.rejected[reason] += 1
        self._rejected[reason] += 1

    def _failed(self, error: BaseException) -> None:
        self.counts.errors[type(error).__name__] += 1
        self._damaged = self._damaged or isinstance(error, _DAMAGE)
        self._failures.failed(error)

    def _write_counts(self) -> None:
        """Have the thread write the hits, and what else all workers count together."""
        touched, misses, rejected = self._touched, self._misses, self._rejected
        if not (touched or misses or rejected):
            return
        self._touched, self._misses, self._rejected = Counter(), 0, Counter()

        def write(tables: TableWriter) -> None:
            tables.touch(touched)
            tables.facts.misses += misses
            for reason, count in rejected.items():
                tables.facts.rejected[reason] = tables.facts.rejected.get(reason, 0) + count

        self._thread.offer(Job(write))

    def _maintain(self) -> None:
        self._log_thread()
        if self._environment is not None and (self._damaged or not self._is_current()):
            self._reopen()
        elif self._environment is None:
            self._open()
        self._write_counts()
        self._ticks += 1
        if self._ticks % _EXPIRE_EVERY == 0 and self._something_expired():
            self._thread.offer(Job(lambda tables: tables.expire(_PURGE_BATCH)))
        if self._ticks % _CHECK_EVERY == 0:
            self._thread.offer(Job(self._check_readers))

    def _log_thread(self) -> None:
        error = self._thread_error
        if error is not None:
            self._failures.failed(error, traceback=not isinstance(error, lmdb.Error | OSError))
        elif self._environment is not None:
            self._failures.worked()

    def _something_expired(self) -> bool:
        environment = self._environment
        if environment is None:
            return False
        with environment.begin(db=self._tables["expiry"]) as transaction:
            cursor = transaction.cursor()
            return cursor.first() and int.from_bytes(cursor.key()[:8]) < self._clock() * 1e6

    def _delete_in_batches(self, digests: list[bytes]) -> set[bytes]:
        deleted: set[bytes] = set()
        for start in range(0, len(digests), _PURGE_BATCH):
            batch = digests[start : start + _PURGE_BATCH]

            def delete(tables: TableWriter, batch: list[bytes] = batch) -> set[bytes]:
                return {digest for digest in batch if tables.delete(digest)}

            deleted |= self._thread.call(delete, _PURGE_TIMEOUT)
        return deleted

    # Opening.

    def _open(self) -> None:
        """Open the file, or make it. Takes milliseconds; a failure is logged and tried again."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(
                self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                # One process at a time opens, makes or deletes files here.
                if not filelock.poll_lock(descriptor, _OPEN_TIMEOUT):
                    raise TimeoutError(f"{self._folder / 'lock'} stays locked")
                self._open_locked()
            finally:
                os.close(descriptor)
        except (OSError, lmdb.Error) as error:
            self._failed(error)
        else:
            self._failures.worked()

    def _open_locked(self) -> None:
        place = self._place()
        for other in self._folder.iterdir():
            if other.is_dir() and other != place:
                shutil.rmtree(other, ignore_errors=True)
        try:
            self._open_in(place)
        except lmdb.Error:
            # Damaged, or of another kind. Workers that have it open keep what they have.
            shutil.rmtree(place, ignore_errors=True)
            self._open_in(place)

    def _open_in(self, place: Path) -> None:
        place.mkdir(mode=0o700, exist_ok=True)
        environment = lmdb.open(
            str(place),
            map_size=self._size,
            mode=0o600,
            max_readers=_MAX_READERS,
            max_dbs=len(TABLES),
            max_spare_txns=2,
            # A cache need not survive a power cut.
            sync=False,
            metasync=False,
            readahead=False,
        )
        try:
            environment.reader_check()
            self._tables = {name: environment.open_db(name.encode()) for name in TABLES}
        except lmdb.Error:
            environment.close()
            raise
        self._values = self._tables["values"]
        self._inode = (place / _FILE).stat()
        self._environment = environment

    def _is_current(self) -> bool:
        """Return whether the open file is still the one at its path."""
        try:
            found = (self._place() / _FILE).stat()
        except OSError:
            return False
        return self._inode is not None and os.path.samestat(found, self._inode)

    def _place(self) -> Path:
        return self._folder / f"{_FORMAT}-{_boot_id()}-{self._size}"

    def _reopen(self) -> None:
        """Leave a file that was deleted, replaced or damaged, and use the one at the path."""
        if not self._thread.flush(_OPEN_TIMEOUT):
            return
        # No greenlet runs between the end of the wait and here: nothing uses the file.
        environment, self._environment = self._environment, None
        if environment is not None:
            if self._damaged and self._is_current():
                # The other workers find out that it is gone, and make another one together.
                shutil.rmtree(self._place(), ignore_errors=True)
            environment.close()
        self._damaged = False
        self._open()

    # The methods below run on the thread.

    def _opened_file(self) -> lmdb.Environment:
        environment = self._environment
        if environment is None:
            raise lmdb.Error("the file is not open")
        return environment

    def _run(self, batch: Sequence[Job]) -> None:
        for job in batch:
            if isinstance(job.work, _Put):
                job.work.prepare()
        try:
            self._commit(batch)
        except lmdb.MapFullError:
            for job in batch:
                self._commit_alone(job)
        except Exception as error:  # noqa: BLE001  (reported to each job)
            self._batch_failed(batch, error)

    def _batch_failed(self, batch: Sequence[Job], error: Exception) -> None:
        self.counts.errors[type(error).__name__] += 1
        self._damaged = self._damaged or isinstance(error, _DAMAGE)
        self._thread_error = error
        for job in batch:
            job.error = error

    def _commit(self, batch: Sequence[Job]) -> None:
        """Run the jobs in one transaction."""
        with self._opened_file().begin(write=True) as transaction:
            tables = TableWriter(transaction, self._tables, self._capacity, self._clock())
            for job in batch:
                job.error = None
                try:
                    job.value = job.work(tables)
                except RecordsFull as error:
                    job.error = error
            tables.finish()
        self.counts.evictions.update(tables.evicted)
        self._thread_error = None

    def _commit_alone(self, job: Job) -> None:
        """Run one job in a transaction of its own, and again after evictions for want of pages."""
        for _ in range(_FULL_TRIES):
            try:
                self._commit([job])
                return
            except lmdb.MapFullError as error:
                full = error
            except Exception as error:  # noqa: BLE001  (reported to the job)
                self._batch_failed([job], error)
                return
            with contextlib.suppress(lmdb.MapFullError):
                # Pages that a transaction frees can be used by the second transaction after it.
                self._commit([Job(lambda tables: tables.give_way(2 * job.size))])
                self._commit([])
        job.error = full
        self._reject("map_full")

    def _check_readers(self, _: TableWriter) -> None:
        """Free the slots of readers that were killed: they would keep old pages from reuse."""
        if self._environment is not None:
            self._environment.reader_check()

    def _selected(self, selection: Selection) -> list[bytes]:
        """Return the digests of the selected entries."""

        def matches(key: bytes, label: bytes, digest: bytes) -> bool:
            read = self._sealing.open_label(key, label)
            return (
                read is not None
                and selection.has_scope(read[0])
                and selection.matches(digest, read[1], read[2])
            )

        with self._opened_file().begin() as transaction:
            return select(transaction, self._tables, self._sealing.tags_of(selection), matches)

    def _shown(self) -> StoreFigures:
        with self._opened_file().begin() as transaction:
            facts = Facts.decode(transaction.get(b"facts", db=self._tables["facts"]))
            entries = [each for each in metas(transaction, self._tables) if each[1].tags != NO_TAGS]
            largest = nlargest(_SHOWN, entries, lambda each: each[1].size)
            most_hit = nlargest(_SHOWN, entries, lambda each: each[1].hits)

            def show(chosen: list[tuple[bytes, Meta]]) -> list[EntryFacts]:
                return [self._facts_of(transaction, *each) for each in chosen]

            return StoreFigures(
                items=facts.items,
                bytes=used_bytes(transaction, self._tables),
                limit=self._size,
                hits=facts.hits,
                misses=facts.misses,
                evictions=facts.evictions,
                rejected=facts.rejected,
                largest=show(largest),
                most_hit=show([each for each in most_hit if each[1].hits]),
            )

    def _facts_of(self, transaction: Any, digest: bytes, meta: Meta) -> EntryFacts:
        key = meta.tags + digest
        label = transaction.get(key, db=self._tables["labels"])
        scope, method, target = self._sealing.open_label(key, label or b"") or ("", "", "")
        return EntryFacts(
            name=CacheKey(scope, digest).name,
            scope=scope,
            method=method,
            path=target.partition("?")[0],
            size=meta.size,
            hits=meta.hits,
            stored_at=meta.stored_at,
            expires_at=meta.expires_at,
        )


class _Put:
    """Puts an item. It is encoded and sealed before the transaction, which locks others out."""

    def __init__(self, seal: Callable[[Item], Sealed], item: Item) -> None:
        self._seal = seal
        self._item = item
        self._sealed: Sealed | None = None

    def prepare(self) -> None:
        self._sealed = self._seal(self._item)

    def __call__(self, tables: TableWriter) -> None:
        if self._sealed is not None:
            tables.put(self._sealed)


def _boot_id() -> str:
    """Return what names this boot of the machine; the same text each time where that is unknown."""
    try:
        return _BOOT_ID.read_text().strip()[:8]
    except OSError:
        return "unknown"
