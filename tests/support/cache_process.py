"""A process that uses a node's cache: `python -m tests.support.cache_process FOLDER SIZE JOB`.

It prints `ready` when it begins, and what the job finds. It runs under gevent, as a worker does.
"""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Final

from proxy.cache.backends.base import Item, Selection
from proxy.cache.backends.node import NodeStore
from tests.support.cached_responses import cache_key, cached_response
from tests.support.paths import ROOT

SECRET: Final = bytes(range(32))
#: Of a purge.
EVERYTHING: Final = Selection()
_TTL: Final = 3600.0


def start(folder: Path, size: int, job: str) -> "subprocess.Popen[str]":
    """Start the process, and wait until it is ready."""
    command = [sys.executable, "-m", "tests.support.cache_process", str(folder), str(size), job]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
    assert line_of(process) == "ready"
    return process


def line_of(process: "subprocess.Popen[str]") -> str:
    stdout: IO[str] | None = process.stdout
    assert stdout is not None
    return stdout.readline().strip()


def put(store: NodeStore, name: str, body: bytes) -> None:
    response = cached_response(body, stored_at=time.time(), ttl=_TTL)
    store.put(Item(cache_key(name), response, response.expires_at))


def write_for_ever(store: NodeStore) -> None:
    """Of all sizes, and claims: what a killed worker may have been doing."""
    chosen = random.Random(os.getpid())
    content = chosen.randbytes(200_000)
    number = 0
    while True:
        number += 1
        put(store, str(chosen.randrange(500)), content[: chosen.choice((100, 3000, 150_000))])
        if number % 4 == 0:
            store.claim(str(number), b"value", 0.05)


def hold_the_lock(store: NodeStore) -> None:
    """As a worker that was stopped in the middle of a write."""
    assert store._environment is not None
    with store._environment.begin(write=True):
        print("locked", flush=True)
        sys.stdin.read()


def fill(store: NodeStore) -> None:
    """10,000 responses of 10 KB; prints by how many bytes the process has grown."""
    content = random.Random(1).randbytes(10_000)
    warm = cached_response(content)
    store._sealing.entry(Item(cache_key("warm"), warm, warm.expires_at))
    before = _resident_bytes()
    for number in range(10_000):
        put(store, str(number), content)
        if number % 16 == 15:
            assert store.flush(60)
        store.get(cache_key(str(random.Random(number).randrange(number + 1))))
    assert store.flush(60)
    for number in range(10_000):
        store.get(cache_key(str(number)))
    print(
        _resident_bytes() - before, store.figures().items, dict(store.counts.rejected), flush=True
    )


def on_a_full_disk(store: NodeStore) -> None:
    """As far as the process sees; prints what was refused and what still works."""
    put(store, "before", b"x" * 1000)
    assert store.flush(20)
    (path,) = store._folder.glob("*/data.mdb")
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    for number in range(40):
        put(store, str(number), b"x" * 50_000)
    assert store.flush(20)
    found = store.get(cache_key("before")) is not None
    lost = sum(store.get(cache_key(str(number))) is None for number in range(40))
    failed = sum(store.counts.errors.values())
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    put(store, "after", b"x" * 50_000)
    assert store.flush(20)
    print(found, lost > 0, failed > 0, store.get(cache_key("after")) is not None, flush=True)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


JOBS: Final = {
    "write": write_for_ever,
    "lock": hold_the_lock,
    "fill": fill,
    "full disk": on_a_full_disk,
}


def main() -> None:
    folder, size, job = sys.argv[1:]
    store = NodeStore(Path(folder), SECRET, size=int(size))
    store.start()
    print("ready", flush=True)
    JOBS[job](store)
    store.close(20)


if __name__ == "__main__":
    main()
