"""One file, several processes: what workers do to each other (``proxy/cache/backends/node.py``)."""

import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from proxy.cache.backends.base import RecordsUnavailable
from proxy.cache.backends.node import NodeStore
from tests.support import cache_process
from tests.support.cache_process import SECRET, line_of, put
from tests.support.cached_responses import cache_key
from tests.support.loop_probe import LoopProbe
from tests.support.wait import wait_until

MIB = 1024 * 1024
SIZE = 8 * MIB


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def store(folder: Path) -> Iterator[NodeStore]:
    store = NodeStore(folder, SECRET, size=SIZE)
    store.start()
    yield store
    store.close(20)


def ended(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def test_what_one_process_puts_is_hit_in_another(store: NodeStore, folder: Path) -> None:
    process = cache_process.start(folder, SIZE, "write")
    try:
        wait_until(lambda: any(store.get(cache_key(str(number))) for number in range(500)))
    finally:
        ended(process)


@pytest.mark.slow
def test_killed_writers_leave_a_usable_store(store: NodeStore, folder: Path) -> None:
    """Two at once, killed wherever they are; one of them mostly holds the lock."""
    chosen = random.Random(1)
    for number in range(6):
        processes = [cache_process.start(folder, SIZE, "write") for _ in range(2)]
        put(store, f"before {number}", b"x" * 3000)
        gevent.sleep(chosen.uniform(0.05, 0.4))
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            ended(process)
        # Nothing is damaged, nobody holds the lock, and there is room.
        put(store, f"after {number}", b"y" * 3000)
        assert store.flush(20)
        assert store.get(cache_key(f"after {number}")) is not None
        assert store.claim(f"claim {number}", b"value", 60) is None
        for name in range(500):
            store.get(cache_key(str(name)))
    assert not store.counts.errors
    figures = store.figures()
    assert figures.items > 0
    assert figures.bytes <= figures.limit
    assert len(store.purge(cache_process.EVERYTHING)) == figures.items
    assert store.figures().items == 0


def test_a_stopped_writer_holds_up_no_event_loop(store: NodeStore, folder: Path) -> None:
    put(store, "before", b"x")
    assert store.flush(20)
    process = cache_process.start(folder, SIZE, "lock")
    try:
        assert line_of(process) == "locked"
        process.send_signal(signal.SIGSTOP)
        with LoopProbe() as probe:
            before = probe.served
            put(store, "meanwhile", b"y")
            assert store.get(cache_key("before")) is not None
            assert store.get(cache_key("meanwhile")) is None
            claim = gevent.spawn(store.claim, "n", b"value", 60)
            wait_until(lambda: probe.served > before + 100)
            for number in range(2000):
                put(store, f"more {number}", b"z")
            assert store.counts.rejected["queue_full"] > 0
            with pytest.raises(RecordsUnavailable):
                claim.get(timeout=20)
        assert not store.flush(0.01)
        process.send_signal(signal.SIGCONT)
    finally:
        ended(process)  # in the middle of its transaction
    assert store.flush(20)
    assert store.get(cache_key("meanwhile")) is not None


def test_a_disk_that_is_full(folder: Path) -> None:
    process = cache_process.start(folder, SIZE, "full disk")
    try:
        assert line_of(process) == "True True True True"
        assert process.wait(20) == 0
    finally:
        ended(process)


@pytest.mark.slow
def test_ten_thousand_responses_stay_within_the_size(folder: Path) -> None:
    """In the file, and in the memory of a process that has read all of it."""
    size = 100 * MIB
    process = cache_process.start(folder, size, "fill")
    try:
        grown, items, *rejected = line_of(process).split(maxsplit=2)
        assert process.wait(20) == 0
    finally:
        ended(process)
    (path,) = folder.glob("*/data.mdb")
    assert path.stat().st_size <= size
    assert int(grown) <= size * 1.05
    assert int(items) > 6500
    assert rejected == ["{}"]
