"""Processes: pinned from the start, accounted for, and an early end is reported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.accounting import CoreTime, cpu_seconds, rss_bytes, tree, worker_rss_bytes
from bench.contenders.base import Running
from bench.processes import NotStarted, Started, free_port

#: Starts processes.


def test_it_runs_on_its_cores_and_says_why_it_ended(tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    code = "import os; print('cores', os.sched_getaffinity(0))"
    process = Started([sys.executable, "-c", code], folder=tmp_path, cores={core})
    with pytest.raises(NotStarted, match=f"cores .{core}."):
        process.wait_port(free_port())
    assert os.sched_getaffinity(0) == before


def test_what_is_still_starting_is_waited_for(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 1.5: pass\ntime.sleep(60)"
    process = Started(
        [sys.executable, "-c", burn], folder=tmp_path, cores=set(os.sched_getaffinity(0))
    )
    running = Running(0, "", process)
    running.settle()
    assert running.cpu_seconds() >= 1.5
    running.stop()


def test_the_cpu_time_of_children_counts() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ninput()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"done\n"
        assert cpu_seconds(parent.pid) >= 0.3
        (child,) = set(tree(parent.pid)) - {parent.pid}
        assert worker_rss_bytes(parent.pid) == rss_bytes(child) > 1 << 20
        parent.stdin.write(b"\n")
        parent.stdin.close()
        assert parent.wait(30) == 0


def test_what_the_host_took_is_a_share_of_what_the_cores_had() -> None:
    assert CoreTime(1400, 130).stolen_since(CoreTime(1000, 30)) == 0.25
    assert CoreTime(1000, 30).stolen_since(CoreTime(1000, 30)) == 0
    now = CoreTime.now()
    assert now.total > now.stolen >= 0
