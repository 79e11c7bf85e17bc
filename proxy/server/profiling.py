"""A CPU profile of a running worker: SIGUSR2 starts it, and it is written into `PROFILE_DIR`.

No library fits: pyinstrument follows one context at a time and loses other greenlets, yappi traces
every call, and py-spy must be installed separately and be allowed to ptrace. Here a timer of
consumed CPU (`ITIMER_PROF`) interrupts, and the interrupted stack is that of the greenlet that was
running. Without a profile there is no timer and no cost.

Note: the timer counts the CPU of the whole process (SQLite works on a thread of its own) and ticks
at the kernel's resolution, every 4 ms on most. So the weight of a sample is the CPU that the event
loop's thread has consumed since the sample before, and a profile is in microseconds, not in
samples.
"""

import atexit
import contextlib
import logging
import os
import signal
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

import gevent
from gevent.event import Event

SECONDS: Final = 30.0
_INTERVAL_SECONDS: Final = 0.001
_MAX_FUNCTIONS: Final = 40

_log = logging.getLogger(__name__)

#: From the innermost frame outwards.
Stack = tuple[CodeType, ...]


def listen(directory: Path | None) -> "Profiler":
    """Handle SIGUSR2 from now on. Called in the main greenlet of a worker, after the fork."""
    profiler = Profiler(directory)
    gevent.signal_handler(signal.SIGUSR2, profiler.toggle)
    return profiler


class Profiler:
    """Takes one profile at a time. Without a `directory`, it takes none."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._stop: Event | None = None  # while a profile is being taken

    def toggle(self) -> None:
        """Take a profile, or end the current one. Called in a greenlet of its own."""
        if self._directory is None:
            _log.info("SIGUSR2: no profile is taken, because PROFILE_DIR is not set")
            return
        if self._stop is not None:
            self._stop.set()
            return
        self._stop = Event()
        sampler = Sampler()
        # A worker that stops meanwhile writes what it has. Its timer must end before its handler
        # does, or the signal would kill the process.
        atexit.register(self._finish, sampler, self._directory)
        try:
            sampler.start()
            _log.info("profile: sampling for %g s; SIGUSR2 ends it earlier", SECONDS)
            self._stop.wait(SECONDS)
            sampler.stop()
            # On the thread pool, formatting and a slow disk do not block the event loop.
            gevent.get_hub().threadpool.apply(self._finish, (sampler, self._directory))
        finally:
            atexit.unregister(self._finish)
            self._stop = None

    def _finish(self, sampler: "Sampler", directory: Path) -> None:
        sampler.stop()
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{os.getpid()}"
        path = directory / f"{name}.folded"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".txt").write_text(sampler.summary(), "utf-8")
            _write_whole(path, sampler.folded())
        except OSError as error:
            _log.error("profile: %s: %s", error.filename or directory, error.strerror)
            return
        _log.info("profile: %s: %.1f s of CPU", path, sampler.cpu_seconds)


class Sampler:
    """Samples what the calling thread's CPU time is spent on, from `start` to `stop`."""

    def __init__(self) -> None:
        # Stack → seconds. Only the signal handler adds to it.
        self._spent: defaultdict[Stack, float] = defaultdict(float)
        self._seen = 0.0
        self._began = 0.0
        self._running = False
        self._wakeup_fd = -1
        self.seconds = 0.0

    @property
    def cpu_seconds(self) -> float:
        return sum(self._spent.values())

    def start(self) -> None:
        """Called in the main thread, the only one in which Python runs signal handlers."""
        # Under gevent, gunicorn's wakeup pipe is never read; thousands of ticks would fill it.
        self._wakeup_fd = signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGPROF, self._tick)
        signal.siginterrupt(signal.SIGPROF, False)  # C libraries may not expect EINTR
        self._running = True
        self._began = time.monotonic()
        self._seen = time.thread_time()
        signal.setitimer(signal.ITIMER_PROF, _INTERVAL_SECONDS, _INTERVAL_SECONDS)

    def stop(self) -> None:
        """Idempotent; may be called anywhere."""
        if not self._running:
            return
        self._running = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        # Ignored, because the default action for a late signal would kill the process.
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wakeup_fd)
        self.seconds = time.monotonic() - self._began

    def _tick(self, _: int, frame: FrameType | None) -> None:
        spent = time.thread_time() - self._seen
        stack = []
        while frame is not None:
            stack.append(frame.f_code)
            frame = frame.f_back
        self._spent[tuple(stack)] += spent
        self._seen = time.thread_time()

    def folded(self) -> str:
        """A line per stack: names from the outermost inwards, joined by `;`; microseconds."""
        names = _Names()
        lines = (
            (";".join(names[code] for code in reversed(stack)), round(seconds * 1e6))
            for stack, seconds in self._spent.items()
        )
        return "".join(f"{names} {weight}\n" for names, weight in sorted(lines) if weight)

    def summary(self) -> str:
        """The functions with the most CPU time: their own, and with callees."""
        own: defaultdict[CodeType, float] = defaultdict(float)
        whole: defaultdict[CodeType, float] = defaultdict(float)
        for stack, seconds in self._spent.items():
            for code in set(stack):
                whole[code] += seconds
            for code in stack[:1]:
                own[code] += seconds
        total, names = self.cpu_seconds, _Names()
        lines = [
            f"process {os.getpid()}: {total:.2f} s of CPU in {self.seconds:.1f} s",
            "",
            "   own   with callees  function",
        ]
        lines += [
            f"{seconds / total:6.1%}  {whole[code] / total:12.1%}  {names[code]}"
            for code, seconds in sorted(own.items(), key=lambda item: -item[1])[:_MAX_FUNCTIONS]
            if total
        ]
        return "\n".join([*lines, ""])


class _Names(dict[CodeType, str]):
    """`Dispatcher.send (proxy/routing/dispatcher.py:88)`: paths as they are imported."""

    def __init__(self) -> None:
        super().__init__()
        self._bases = sorted((f"{base}/" for base in sys.path if base), key=len, reverse=True)

    def __missing__(self, code: CodeType) -> str:
        path = code.co_filename
        base = next((base for base in self._bases if path.startswith(base)), "")
        name = f"{code.co_qualname} ({path[len(base) :]}:{code.co_firstlineno})"
        self[code] = name = name.replace(";", ",").replace("\n", " ")
        return name


def _write_whole(path: Path, text: str) -> None:
    """Write a file that has its final name only when it is complete."""
    part = path.with_suffix(".part")
    try:
        part.write_text(text, "utf-8")
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
