"""proxy/server/profiling.py: who spends the CPU, in the format that others read."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gevent
import pytest

from proxy.server import profiling
from proxy.server.profiling import Profiler, Sampler
from tests.support.paths import ROOT
from tests.support.wait import wait_until

#: Starts processes.


LINE = re.compile(r"(.+) (\d+)")


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def hot() -> None:
    burn(0.3)


def warm() -> None:
    burn(0.1)


def parsed(folded: str) -> dict[tuple[str, ...], int]:
    matches = [LINE.fullmatch(line) for line in folded.splitlines()]
    return {tuple(match[1].split(";")): int(match[2]) for match in matches if match}


def weight(folded: str, name: str) -> int:
    """Microseconds of the stacks that a function of this name is in."""
    stacks = parsed(folded).items()
    return sum(
        microseconds
        for stack, microseconds in stacks
        if any(frame.startswith(f"{name} (") for frame in stack)
    )


def test_each_greenlet_has_what_it_used() -> None:
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write)
    sampler = Sampler()
    sampler.start()
    gevent.joinall([gevent.spawn(hot), gevent.spawn(warm)])
    sampler.stop()
    sampler.stop()
    folded = sampler.folded()
    assert weight(folded, "hot") == pytest.approx(300_000, rel=0.25)
    assert weight(folded, "warm") == pytest.approx(100_000, rel=0.4)
    stack = next(stack for stack in parsed(folded) if "hot (" in "".join(stack))
    # A greenlet's own root comes first.
    assert stack[0].startswith("hot (tests/integration/server/test_profiling.py:")
    assert stack[1].startswith("burn (tests/integration/server/test_profiling.py:")
    assert sampler.cpu_seconds == pytest.approx(sum(parsed(folded).values()) / 1e6, abs=0.01)
    assert sampler.seconds >= 0.4
    # Nothing of it is left.
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGPROF) == signal.SIG_IGN
    assert signal.set_wakeup_fd(before) == write
    with pytest.raises(BlockingIOError):
        os.read(read, 1)  # as many bytes as ticks would fill it in time
    os.close(read)
    os.close(write)
    counted = sampler.cpu_seconds
    burn(0.05)
    assert sampler.cpu_seconds == counted


def test_another_thread_is_not_taken_for_the_event_loop() -> None:
    """The timer runs while it works; the main thread's stack is not what is working."""
    script = (
        "import ctypes, hashlib, threading, time\n"
        "from proxy.server.profiling import Sampler\n"
        "def work():\n"
        "    hashlib.pbkdf2_hmac('sha256', b'x', b'y', 1_500_000)\n"  # without the GIL
        "sampler = Sampler(); sampler.start()\n"
        "thread = threading.Thread(target=work); thread.start()\n"
        "while thread.is_alive(): time.sleep(0.001)\n"  # handlers run when the main thread does
        "sampler.stop()\n"
        "print(sampler.cpu_seconds / time.process_time())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 0.3


def test_the_summary_names_the_hottest_first() -> None:
    sampler = Sampler()
    sampler.start()
    hot()
    warm()
    sampler.stop()
    title, _, _, first, *rest = sampler.summary().splitlines()
    assert re.fullmatch(r"process \d+: 0\.\d\d s of CPU in \d+\.\d s", title)
    assert " burn (tests/integration/server/test_profiling.py:" in first
    assert any(" hot (" in line for line in rest) or " hot (" not in sampler.folded()


def test_nothing_was_used() -> None:
    sampler = Sampler()
    sampler.start()
    sampler.stop()
    assert sampler.summary().startswith("process ")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, profiling.__name__)
    return caplog


def test_a_second_signal_ends_it_and_a_third_begins_anew(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    profiler = Profiler(tmp_path / "not" / "there")
    for count in (1, 2):
        taking = gevent.spawn(profiler.toggle)
        wait_until(lambda: profiler._stop is not None)
        hot()
        gevent.spawn(profiler.toggle).get()
        taking.get(timeout=10)
        files = sorted((tmp_path / "not" / "there").iterdir())
        assert [file.suffix for file in files] == [".folded", ".txt"] * count
        assert weight(files[-2].read_text(), "hot") > 200_000
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-\d+", files[0].stem)


def test_it_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "SECONDS", 0.02)
    Profiler(tmp_path).toggle()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    profiler = Profiler(tmp_path / "file" / "folder")
    for _ in range(2):
        taking = gevent.spawn(profiler.toggle)
        wait_until(lambda: profiler._stop is not None)
        profiler.toggle()
        taking.get(timeout=10)
    assert log.text.count("Not a directory") == 2


def test_without_a_folder_there_is_a_line_and_no_more(log: pytest.LogCaptureFixture) -> None:
    Profiler(None).toggle()
    assert "PROFILE_DIR is not set" in log.text
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
