"""Where the processes of a node put their figures, and where a scrape finds all of them.

``<DATA_DIR>/metrics/<server>/<process>-<pid>-<random>.figures``, one file a process
(:mod:`proxy.runtime.double_buffer`). ``<server>`` names the gunicorn master, so that a second
server on the same DATA_DIR, or the next one, counts for itself; the folder ``node`` is for
processes that serve every server of the node, as the one that ships events.

Counters of a process that has ended stay: its file does, until somebody adds it to the file
``ended``. That file remembers whom it contains, so that a crash between adding and removing counts
nobody twice.

**For another process** (not a worker), with or without gevent::

    figures = Samples()                                    # count(), set(), observe()
    writer = MetricsDirectory(data_dir / "metrics" / NODE).writer("shipper")
    writer.publish(figures)                                # once a second; OSError: try again
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

#: The folder beside those of the servers.
NODE: Final = "node"
_ENDED: Final = "ended"
_SUFFIX: Final = ".figures"
#: A folder in which nobody has written for so long belongs to a server that is gone.
_ABANDONED_SECONDS: Final = 120.0
#: Of one family, of those that have ended: workers that come and go, each with other model names,
#: must not fill the disk.
_MAX_SERIES: Final = 1000
#: How long a scrape waits for another one that is just adding up those who have ended.
_TIMEOUT_SECONDS: Final = 1.0


class Writer:
    """One process's place on the board."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._file = double_buffer.DoubleBufferedFile(path)

    def publish(self, figures: Samples) -> None:
        """Replace what this process said before. OSError: it could not; the old stays."""
        self.write(figures.dump())

    def write(self, dumped: bytes) -> None:
        """The half of :meth:`publish` that waits for the disk."""
        self._file.write(dumped)

    def close(self) -> None:
        self._file.close()


class MetricsDirectory:
    """One folder. Nothing is made before the first :meth:`Writer.publish`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def writer(self, kind: str) -> Writer:
        """``kind``: a word that says what process it is."""
        name = f"{kind}-{os.getpid()}-{os.urandom(4).hex()}{_SUFFIX}"
        return Writer(self._folder / name)

    def read(self, leave_out: str = "") -> Samples:
        """All processes together, but for one by its file's name. Waits for the disk: nothing for
        an event loop."""
        with self._locked(_TIMEOUT_SECONDS, shared=True):
            total, names = self._total()
            living: list[Samples] = []
            ended: list[Samples] = [total]
            for path, slot in self._files():
                if path.name not in names and path.name != leave_out:
                    (living if slot.live else ended).append(Samples.load(slot.payload))
        return merge(living, ended)

    def tidy(self) -> None:
        """Add up those who have ended and remove their files. OSError: nothing is lost."""
        if not self._folder.exists():
            return
        with self._locked(0) as locked:
            if not locked:
                return  # another one does it
            total, names = self._total()
            gone = [(path, slot) for path, slot in self._files() if not slot.live]
            fresh = [(path, slot) for path, slot in gone if path.name not in names]
            if fresh:
                figures = merge([], [total, *(Samples.load(slot.payload) for _, slot in fresh)])
                self._write_total(bounded(figures, _MAX_SERIES), [path.name for path, _ in gone])
            for path, _ in gone:
                path.unlink(missing_ok=True)

    def remove_abandoned(self) -> None:
        """Remove the folders of other servers in which nobody lives."""
        for folder in self._folder.parent.glob("*-*/"):
            with contextlib.suppress(OSError):
                if folder != self._folder and _is_abandoned(folder):
                    shutil.rmtree(folder)

    def _files(self) -> Iterator[tuple[Path, double_buffer.Slot]]:
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                slot = double_buffer.read(path)
            except FileNotFoundError:
                continue  # replaced by a larger one, or removed by another server's start
            if slot is not None:
                yield path, slot

    def _total(self) -> tuple[Samples, set[str]]:
        """Those who have ended, added up, and their files' names."""
        try:
            head, _, data = (self._folder / _ENDED).read_bytes().partition(b"\n")
            return Samples.load(data), set(orjson.loads(head))
        except (FileNotFoundError, ValueError):
            return Samples(), set()

    def _write_total(self, figures: Samples, names: list[str]) -> None:
        temporary = self._folder / f"{_ENDED}.new"
        temporary.write_bytes(orjson.dumps(names) + b"\n" + figures.dump())
        temporary.replace(self._folder / _ENDED)

    @contextlib.contextmanager
    def _locked(self, patience: float, *, shared: bool = False) -> Iterator[bool]:
        """Tries to get the folder's lock for ``patience`` seconds, and says whether it did."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            descriptor = os.open(self._folder / "lock", flags, 0o600)
        except OSError:  # no folder yet, or none that can be written: then nobody adds up
            yield False
            return
        try:
            yield filelock.poll_lock(descriptor, patience, shared=shared)
        finally:
            os.close(descriptor)


def server_name(pid: int) -> str:
    """A name for the server with this master: a process id can come again, with its start not."""
    return f"{pid}-{process.start_ticks(pid) or 0}"


def _is_abandoned(folder: Path) -> bool:
    files = [folder, *folder.iterdir()]
    if time.time() - max(path.stat().st_mtime for path in files) < _ABANDONED_SECONDS:
        return False
    found = [double_buffer.read(path) for path in folder.glob(f"*{_SUFFIX}")]
    return not any(slot.live for slot in found if slot is not None)
