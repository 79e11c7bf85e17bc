"""A profile of a worker in place: SIGUSR2 starts it, and with ``PROFILE_DIR`` it is written there.

Why not a library: pyinstrument follows one context at a time and loses the others' greenlets, yappi
traces every call, and py-spy must be installed beside and be allowed to ptrace. Here a timer of
consumed CPU (``ITIMER_PROF``) interrupts, and the interrupted stack is that of whichever greenlet
was running; when it is not asked for, there is no timer and no cost.

The thing to get wrong: the timer counts the whole process (SQLite works on a thread of its own) and
ticks as the kernel likes, every 4 ms on most. So a sample weighs what the event loop's thread has
consumed since the one before, and a profile is in microseconds, not in samples.
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
_INTERVAL: Final = 0.001
_HOTTEST: Final = 40

_log = logging.getLogger(__name__)

#: From the innermost outwards.
Stack = tuple[CodeType, ...]


def listen(directory: Path | None) -> "Profiler":
    """From now on SIGUSR2 is answered. In the main greenlet of a worker, after the fork."""
    profiler = Profiler(directory)
    gevent.signal_handler(signal.SIGUSR2, profiler.asked)
    return profiler


class Profiler:
    """One profile at a time; ``directory`` None refuses them all."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._enough: Event | None = None  # while a profile is being taken

    def asked(self) -> None:
        """Take a profile, or end the one that is being taken. In a greenlet of its own."""
        if self._directory is None:
            _log.info("SIGUSR2: no profile is taken, because PROFILE_DIR is not set")
            return
        if self._enough is not None:
            self._enough.set()
            return
        self._enough = Event()
        sampler = Sampler()
        # A worker that stops meanwhile writes what it has; and its timer must end before its
        # handler does, or the signal kills it.
        atexit.register(self._end, sampler, self._directory)
        try:
            sampler.start()
            _log.info("profile: sampling for %g s; SIGUSR2 ends it earlier", SECONDS)
            self._enough.wait(SECONDS)
            sampler.stop()
            # Formatting and a slow disk hold up nobody there.
            gevent.get_hub().threadpool.apply(self._end, (sampler, self._directory))
        finally:
            atexit.unregister(self._end)
            self._enough = None

    def _end(self, sampler: "Sampler", directory: Path) -> None:
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
    """What the calling thread's CPU time is spent on, from ``start`` to ``stop``."""

    def __init__(self) -> None:
        # Stack → seconds; only the signal's handler adds to it.
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
        """In the main thread, where alone Python runs handlers."""
        # gunicorn's wakeup pipe is read by nobody under gevent; thousands of ticks would fill it.
        self._wakeup_fd = signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGPROF, self._tick)
        signal.siginterrupt(signal.SIGPROF, False)  # C libraries may not expect EINTR
        self._running = True
        self._began = time.monotonic()
        self._seen = time.thread_time()
        signal.setitimer(signal.ITIMER_PROF, _INTERVAL, _INTERVAL)

    def stop(self) -> None:
        """A second time does nothing, wherever it is called."""
        if not self._running:
            return
        self._running = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        # Not its default: should one more be on its way, that would be the end of the process.
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
        """A line per stack: names from the outermost inwards with ``;`` between, microseconds."""
        names = _Names()
        lines = (
            (";".join(names[code] for code in reversed(stack)), round(seconds * 1e6))
            for stack, seconds in self._spent.items()
        )
        return "".join(f"{names} {weight}\n" for names, weight in sorted(lines) if weight)

    def summary(self) -> str:
        """The hottest functions: CPU in themselves, and with what they call."""
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
            for code, seconds in sorted(own.items(), key=lambda item: -item[1])[:_HOTTEST]
            if total
        ]
        return "\n".join([*lines, ""])


class _Names(dict[CodeType, str]):
    """``Relay.handle (proxy/routing/dispatcher.py:88)``: paths as they are imported."""

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
    """Under its name only when it is complete."""
    part = path.with_suffix(".part")
    try:
        part.write_text(text, "utf-8")
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
