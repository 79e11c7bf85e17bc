"""A folder has one owner at a time, and none once the owner has ended."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import gevent
from gevent.threadpool import ThreadPool

from proxy.events.spool.lock import acquire, is_owned, node_lock, remove_lock
from tests.support.event_samples import block
from tests.support.paths import ROOT
from tests.support.wait import wait_until

HOLDING = """
import sys, time
from pathlib import Path
from proxy.events.spool.lock import acquire
held = acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def locks() -> str:
    return Path("/proc/locks").read_text()


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    assert not is_owned(tmp_path)
    ownership = acquire(tmp_path)
    assert ownership is not None
    assert is_owned(tmp_path)
    assert acquire(tmp_path) is None
    ownership.release()
    ownership.release()
    assert not is_owned(tmp_path)
    again = acquire(tmp_path)
    assert again is not None
    again.release()


def test_a_kill_releases_the_lock(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert is_owned(tmp_path)
        assert acquire(tmp_path) is None
        os.kill(holder.pid, signal.SIGKILL)
    assert not is_owned(tmp_path)
    ownership = acquire(tmp_path)
    assert ownership is not None
    ownership.release()


def test_a_folder_removed_before_locking_is_not_taken(tmp_path: Path) -> None:
    folder = tmp_path / "writer"
    folder.mkdir()
    first = acquire(folder)
    assert first is not None
    second = ThreadPool(1).spawn(acquire, folder, wait=True)
    wait_until(lambda: f"-> FLOCK  ADVISORY  WRITE {os.getpid()} " in locks())
    remove_lock(folder)
    folder.rmdir()
    first.release()
    assert second.get(timeout=20) is None
    assert acquire(folder) is None
    assert not is_owned(folder)


def test_one_process_at_a_time_has_the_node_lock(tmp_path: Path) -> None:
    root, inside, most = tmp_path / "data" / "spool", [0], [0]

    def enter() -> None:
        for _ in range(20):
            with node_lock(root):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                block(0.001)
                inside[0] -= 1

    pool = ThreadPool(4)
    gevent.joinall([pool.spawn(enter) for _ in range(4)], timeout=20, raise_error=True)
    assert (inside, most) == ([0], [1])
