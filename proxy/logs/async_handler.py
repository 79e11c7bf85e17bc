"""A worker's log handler: greenlets log, and an operating system thread writes the lines.

The log's reader may stall and a disk may be slow; no request waits for them. Lines beyond the limit
are dropped, and a later line says how many. gunicorn's master and the commands log as usual.

Note: the thread must hold no lock while it writes. It takes neither a handler's lock nor the one
inside ``sys.stderr``, for which a greenlet, or the exit of the process, would wait for ever. So it
writes to descriptors.
"""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from gevent import monkey

_log = logging.getLogger(__name__)

#: Maximum lines, and bytes of lines, that wait.
_MAX_LINES: Final = 10_000
_MAX_BYTES: Final = 8 * 1024 * 1024
#: Writes up to this size to a pipe are atomic on Linux (PIPE_BUF), so that workers who share it do
#: not mix their lines.
_ATOMIC: Final = 4096
#: Seconds that an ending worker waits for its last lines. Everything else is done by then.
_FLUSH_TIMEOUT_SECONDS: Final = 0.5

# Not gevent's, which would want a hub in the thread.
_SimpleQueue: Final[Any] = monkey.get_original("queue", "SimpleQueue")
_start_thread: Final[Callable[..., int]] = monkey.get_original("_thread", "start_new_thread")
_sleep: Final[Callable[[float], None]] = monkey.get_original("time", "sleep")


class Output(Protocol):
    """Where lines are written, on the thread. After OSError they are lost."""

    def write(self, data: bytes) -> None: ...


class Descriptor:
    """Writes to an open file descriptor, such as that of stderr."""

    def __init__(self, number: int) -> None:
        self._number = number

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._number, view) :]
            except BlockingIOError:  # a process that shares the pipe has made it non-blocking
                _sleep(0.01)


class File:
    """Appends to a file, and opens it again when an outside rotation has moved it."""

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
    """Queues lines for its thread: :meth:`emit` never waits.

    The thread starts with the first line of each process.
    """

    def __init__(
        self, output: Output, max_lines: int = _MAX_LINES, max_bytes: int = _MAX_BYTES
    ) -> None:
        super().__init__()
        self._output = output
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._pid = 0

    def _start(self) -> None:
        # A new queue: lines that wait in the parent process are written by the parent.
        self._lines = _SimpleQueue()
        # Taken from the queue, but too long for the current block: the line and its counted size.
        self._next: tuple[bytes, int] | None = None
        # Each number has one writer. These are written by greenlets, under the handler's lock:
        self._put = self._put_bytes = self._dropped = 0
        # By the thread. `_reported` is how many of the lost lines have been logged.
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
        """Wait until all lines are written, for a limited time. :func:`logging.shutdown` calls it
        at each exit of the process."""
        if self._pid != os.getpid():
            return
        deadline = time.monotonic() + _FLUSH_TIMEOUT_SECONDS
        while self._done < self._put and time.monotonic() < deadline:
            _sleep(0.002)

    # On the thread.

    def _run(self) -> None:
        since_report = 0
        while True:
            block, lines, size = self._take()
            self._failed += 0 if self._written(block) else lines
            since_report += lines
            lost = self._dropped + self._failed - self._reported
            rested = self._next is None and self._lines.empty()
            if lost and (rested or since_report >= self._max_lines):
                self._reported += lost if self._written(self._notice(lost)) else 0
                since_report = 0
            self._done_bytes += size
            self._done += lines

    def _take(self) -> tuple[bytes, int, int]:
        """Returns complete lines for one write (at least one), their number, and their counted
        size. Waits for the first."""
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
        except OSError:  # a full disk, a closed pipe: it cannot be reported anywhere
            return False
        return True

    def _notice(self, lost: int) -> bytes:
        text = f"{lost} log lines were dropped"
        record = _log.makeRecord(_log.name, logging.WARNING, __file__, 0, text, (), None)
        return self._line(record)


def _settled(record: logging.LogRecord) -> bool:
    """Whether the record can be formatted later, on the thread.

    It can if its text is finished and has its request's id, as the access log's do. Formatting many
    of those in the event loop would delay it.
    """
    return "request_id" in record.__dict__ and not record.args and record.exc_info is None


def install() -> None:
    """Replace the root logger's handlers after the fork; formatter and output stay the same."""
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
