"""A worker's log handler: what is logged in a greenlet is written by an operating system's thread.

Whoever reads the log may stall, and a disk may be slow: no request waits for them. What does not
fit is dropped, and counted in a line later. gunicorn's master and the commands log as usual.

The thing to get wrong: a lock that the thread holds while it writes. It takes neither a handler's
nor the one inside of ``sys.stderr``, for which a greenlet, or the exit of the process, would wait
without end; so it writes to descriptors.
"""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from gevent import monkey

_log = logging.getLogger(__name__)

#: Lines, and bytes of them, that may wait.
_MAX_LINES: Final = 10_000
_MAX_BYTES: Final = 8 * 1024 * 1024
#: Writes up to this size to a pipe are atomic on Linux (PIPE_BUF), so that workers who share it do
#: not mix their lines.
_ATOMIC: Final = 4096
#: Seconds that the end of a worker waits for its last lines. Everything else is done by then.
_FLUSH_TIMEOUT_SECONDS: Final = 0.5

# Not gevent's, which would want a hub in the thread.
_SimpleQueue: Final[Any] = monkey.get_original("queue", "SimpleQueue")
_start_thread: Final[Callable[..., int]] = monkey.get_original("_thread", "start_new_thread")
_sleep: Final[Callable[[float], None]] = monkey.get_original("time", "sleep")


class Output(Protocol):
    """Where lines end. Called on the thread; OSError: they are lost."""

    def write(self, data: bytes) -> None: ...


class Descriptor:
    """An open one, such as that of stderr."""

    def __init__(self, number: int) -> None:
        self._number = number

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._number, view) :]
            except BlockingIOError:  # somebody who shares the pipe has made it non-blocking
                _sleep(0.01)


class File:
    """Appends, and opens it anew when an outside rotation has moved it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = -1

    def write(self, data: bytes) -> None:
        if self._number < 0 or self._moved():
            number, self._number = self._number, -1
            if number >= 0:
                os.close(number)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._number = os.open(self._path, flags, 0o600)
        Descriptor(self._number).write(data)

    def _moved(self) -> bool:
        try:
            return not os.path.samestat(os.fstat(self._number), self._path.stat())
        except FileNotFoundError:
            return True


class LogWriter(logging.Handler):
    """Never waits in :meth:`emit`. Its thread starts with the first line of each process."""

    def __init__(
        self, output: Output, max_lines: int = _MAX_LINES, max_bytes: int = _MAX_BYTES
    ) -> None:
        super().__init__()
        self._output = output
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._pid = 0

    def _start(self) -> None:
        # What waits in a parent is the parent's to write: only the memory came along.
        self._lines = _SimpleQueue()
        # Taken from the queue, but too long for the block: the line, and what it was counted for.
        self._next: tuple[bytes, int] | None = None
        # Each number has one side that writes it. Greenlets, under the handler's lock:
        self._put = self._put_bytes = self._dropped = 0
        # The thread; `_reported`: how many lost lines it has owned up to.
        self._done = self._done_bytes = self._failed = self._reported = 0
        self._pid = os.getpid()
        _start_thread(self._run, ())

    def emit(self, record: logging.LogRecord) -> None:
        waits: bytes | logging.LogRecord
        try:
            if _settled(record):
                waits, size = record, 512 + 2 * len(record.msg)
            else:
                waits = self._line(record)
                size = len(waits)
            if self._pid != os.getpid():
                self._start()
        except Exception:  # noqa: BLE001  (as every handler does)
            self.handleError(record)
            return
        if (
            self._put - self._done >= self._max_lines
            or self._put_bytes - self._done_bytes + size > self._max_bytes
        ):
            self._dropped += 1
            return
        self._put += 1
        self._put_bytes += size
        self._lines.put((waits, size))

    def _line(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode("utf-8", "backslashreplace")

    def flush(self) -> None:
        """Wait until all is written, for moments at the most. :func:`logging.shutdown` calls it at
        the exit of the process, however that came about."""
        if self._pid != os.getpid():
            return
        deadline = time.monotonic() + _FLUSH_TIMEOUT_SECONDS
        while self._done < self._put and time.monotonic() < deadline:
            _sleep(0.002)

    # On the thread.

    def _run(self) -> None:
        since_told = 0
        while True:
            block, lines, size = self._take()
            self._failed += 0 if self._written(block) else lines
            since_told += lines
            lost = self._dropped + self._failed - self._reported
            rested = self._next is None and self._lines.empty()
            if lost and (rested or since_told >= self._max_lines):
                self._reported += lost if self._written(self._notice(lost)) else 0
                since_told = 0
            self._done_bytes += size
            self._done += lines

    def _take(self) -> tuple[bytes, int, int]:
        """As many whole lines as are written at once, but one at least; how many; what they were
        counted for. Waits for the first."""
        line, size = self._next or self._get()
        self._next = None
        block, length = [line], len(line)
        while not self._lines.empty():
            line, counted = self._get()
            length += len(line)
            if length > _ATOMIC:
                self._next = line, counted
                break
            block.append(line)
            size += counted
        return b"".join(block), len(block), size

    def _get(self) -> tuple[bytes, int]:
        waited, size = self._lines.get()
        if isinstance(waited, bytes):
            return waited, size
        try:
            return self._line(waited), size
        except Exception:  # noqa: BLE001  (the thread must go on)
            self.handleError(waited)
            return b"", size

    def _written(self, data: bytes) -> bool:
        try:
            self._output.write(data)
        except OSError:  # a full disk, a reader that has gone: there is nobody to tell
            return False
        return True

    def _notice(self, lost: int) -> bytes:
        text = f"{lost} log lines were dropped"
        record = _log.makeRecord(_log.name, logging.WARNING, __file__, 0, text, (), None)
        return self._line(record)


def _settled(record: logging.LogRecord) -> bool:
    """Whether it says the same later and elsewhere: a finished text that brings its request's id,
    as the access log's do. Formatting many of those at a time would hold up the loop."""
    return "request_id" in record.__dict__ and not record.args and record.exc_info is None


def install() -> None:
    """Replace the root logger's handlers, after the fork: the same formatter, the same place."""
    root = logging.getLogger()
    for plain in root.handlers[:]:
        if not isinstance(plain, logging.StreamHandler):
            continue
        output: Output
        if isinstance(plain, logging.FileHandler):
            output = File(Path(plain.baseFilename))
        else:
            output = Descriptor(plain.stream.fileno())
        writer = LogWriter(output)
        writer.setLevel(plain.level)
        writer.setFormatter(plain.formatter)
        root.removeHandler(plain)
        root.addHandler(writer)
        if isinstance(plain, logging.FileHandler):
            plain.close()
