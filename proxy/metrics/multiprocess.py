"""The samples of all processes of a node: each process writes its own, a scrape reads all.

``<DATA_DIR>/metrics/<server>/<process>-<pid>-<random>.samples``, one file a process
(:mod:`proxy.runtime.double_buffer`). ``<server>`` names the gunicorn master, so that a second
server on the same DATA_DIR, or the next one, counts for itself. The folder ``node`` is for
processes that serve every server of the node, such as the shipper.

Counters of an ended process are kept: its file stays until its counters are added to the file
``ended``. That file lists the processes that it contains, so that a crash between adding and
removing counts no process twice.

**For another process** (not a worker), with or without gevent::

    samples = Samples()                                    # count(), set(), observe()
    writer = MetricsDirectory(data_dir / "metrics" / NODE).writer("shipper")
    writer.publish(samples)                                # once a second; OSError: try again
    writer.close()                                         # its counters stay

Names and labels are those of :mod:`proxy.metrics.families`; others are not shown. Counters start at
0 with the process. Publish from one thread.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import orjson

from proxy.metrics import process
from proxy.metrics.samples import Samples, bounded, merge
from proxy.runtime import double_buffer, filelock

#: The folder of processes that belong to no single server.
NODE: Final = "node"
_ENDED: Final = "ended"
_SUFFIX: Final = ".samples"
#: The suffix before 0.1.0. Counters of a process that ended at the upgrade are kept, too.
_OLD_SUFFIX: Final = ".figures"
#: A folder without a write for so long belongs to an ended server.
_ABANDONED_SECONDS: Final = 120.0
#: Series of one family of ended processes. Workers that come and go, each with other model names,
#: must not fill the disk.
_MAX_SERIES: Final = 1000
#: Seconds that a scrape waits while another process adds up ended processes.
_TIMEOUT_SECONDS: Final = 1.0


class Writer:
    """One process's file in the metrics directory."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._file = double_buffer.DoubleBufferedFile(path)

    def publish(self, samples: Samples) -> None:
        """Replace this process's samples. Raises OSError: the old samples stay then."""
        self.write(samples.dump())

    def write(self, dumped: bytes) -> None:
        """The part of :meth:`publish` that waits for the disk."""
        self._file.write(dumped)

    def close(self) -> None:
        self._file.close()


class MetricsDirectory:
    """The folder of one server. Nothing is made before the first :meth:`Writer.publish`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def writer(self, kind: str) -> Writer:
        """`kind` names the kind of process."""
        name = f"{kind}-{os.getpid()}-{os.urandom(4).hex()}{_SUFFIX}"
        return Writer(self._folder / name)

    def read(self, leave_out: str = "") -> Samples:
        """The merged samples of all processes, except the one whose file is `leave_out`.

        Waits for the disk, so it must not run on an event loop.
        """
        with self._locked(_TIMEOUT_SECONDS, shared=True):
            total, names = self._total()
            living: list[Samples] = []
            ended: list[Samples] = [total]
            for path, slot in self._files():
                if path.name not in names and path.name != leave_out:
                    (living if slot.live else ended).append(Samples.load(slot.payload))
        return merge(living, ended)

    def tidy(self) -> None:
        """Add up ended processes and remove their files. Raises OSError: nothing is lost then."""
        if not self._folder.exists():
            return
        with self._locked(0) as locked:
            if not locked:
                return  # another process is adding up
            total, names = self._total()
            gone = [(path, slot) for path, slot in self._files() if not slot.live]
            fresh = [(path, slot) for path, slot in gone if path.name not in names]
            if fresh:
                samples = merge([], [total, *(Samples.load(slot.payload) for _, slot in fresh)])
                self._write_total(bounded(samples, _MAX_SERIES), [path.name for path, _ in gone])
            for path, _ in gone:
                path.unlink(missing_ok=True)

    def remove_abandoned(self) -> None:
        """Remove the folders of other servers that have no running process."""
        for folder in self._folder.parent.glob("*-*/"):
            with contextlib.suppress(OSError):
                if folder != self._folder and _is_abandoned(folder):
                    shutil.rmtree(folder)

    def _files(self) -> Iterator[tuple[Path, double_buffer.Slot]]:
        for path in _sample_files(self._folder):
            try:
                slot = double_buffer.read(path)
            except FileNotFoundError:
                continue  # replaced by a larger one, or removed by another server's start
            if slot is not None:
                yield path, slot

    def _total(self) -> tuple[Samples, set[str]]:
        """The sums of ended processes, and the names of their files."""
        try:
            head, _, data = (self._folder / _ENDED).read_bytes().partition(b"\n")
            return Samples.load(data), set(orjson.loads(head))
        except (FileNotFoundError, ValueError):
            return Samples(), set()

    def _write_total(self, samples: Samples, names: list[str]) -> None:
        temporary = self._folder / f"{_ENDED}.new"
        temporary.write_bytes(orjson.dumps(names) + b"\n" + samples.dump())
        temporary.replace(self._folder / _ENDED)

    @contextlib.contextmanager
    def _locked(self, timeout: float, *, shared: bool = False) -> Iterator[bool]:
        """Try for `timeout` seconds to lock the folder. Yields whether it is locked."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            descriptor = os.open(self._folder / "lock", flags, 0o600)
        except OSError:  # no folder yet, or a read-only one: then no process adds up
            yield False
            return
        try:
            yield filelock.poll_lock(descriptor, timeout, shared=shared)
        finally:
            os.close(descriptor)


def server_name(pid: int) -> str:
    """The name of the server with this master. A process id can be reused, but not together with
    its start time."""
    return f"{pid}-{process.start_ticks(pid) or 0}"


def _sample_files(folder: Path) -> list[Path]:
    return sorted(path for suffix in (_SUFFIX, _OLD_SUFFIX) for path in folder.glob(f"*{suffix}"))


def _is_abandoned(folder: Path) -> bool:
    files = [folder, *folder.iterdir()]
    if time.time() - max(path.stat().st_mtime for path in files) < _ABANDONED_SECONDS:
        return False
    found = [double_buffer.read(path) for path in _sample_files(folder)]
    return not any(slot.live for slot in found if slot is not None)
