"""`python -m bench.cache_stores`: what the node's store of the response cache costs, as a table.

Its figures are in docs/decisions/0025. CPU time is that of the whole process, so that of a put
includes the thread that writes.
"""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from proxy.cache.backends.base import Item
from proxy.cache.backends.node import NodeStore
from proxy.cache.entry import CachedResponse
from proxy.cache.key import CacheKey
from proxy.cache.response_cache import ResponseCache

_SECRET: Final = bytes(range(32))
_MIB: Final = 1024 * 1024
_SIZE: Final = 100 * _MIB
_ROUNDS: Final = 7
_TEXT: Final = "{:>9}  {:>10}  {:>14}  {:>9}  {:>9}"


def main() -> None:
    if sys.argv[1:]:
        _read_and_write(Path(sys.argv[1]), int(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        _costs(Path(folder) / "costs")
        _memory(Path(folder) / "memory")
        for processes in (1, 2, 4):
            _together(Path(folder) / f"together-{processes}", processes)


def _response(body: bytes) -> CachedResponse:
    now = time.time()
    headers = [
        ("Content-Type", "application/json"),
        ("openai-organization", "org-123"),
        ("openai-version", "2020-10-01"),
        ("x-request-id", "req_0123456789abcdef0123456789abcdef"),
        ("x-content-type-options", "nosniff"),
    ]
    return CachedResponse(
        scope="project-1",
        method="POST",
        target="/v1/chat/completions",
        status=200,
        reason="OK",
        headers=headers,
        body=body,
        chunk_sizes=tuple(len(body[at : at + 65_536]) for at in range(0, len(body), 65_536)),
        stored_at=now,
        expires_at=now + 3600,
        provider=None,
        model=None,
        prompt_tokens=None,
        completion_tokens=None,
    )


def _key(number: int) -> CacheKey:
    return CacheKey("project-1", number.to_bytes(4, "little") * 8)


def _store(folder: Path) -> NodeStore:
    store = NodeStore(folder, _SECRET, size=_SIZE)
    store.start()
    return store


def _microseconds(work: Callable[[int], object], times: int, clock: Callable[[], float]) -> float:
    """Return the median of several rounds, each of `times` calls."""
    rounds = []
    for _ in range(_ROUNDS):
        begin = clock()
        for number in range(times):
            work(number)
        rounds.append((clock() - begin) / times * 1e6)
    return statistics.median(rounds)


def _costs(folder: Path) -> None:
    store = _store(folder)
    cache = ResponseCache(store, max_entry=4 * _MIB)
    _print(_TEXT.format("bytes", "get us CPU", "with decoding", "put us", "returned"))
    cpu = time.process_time
    for size in (1_000, 10_000, 100_000, 1_000_000):
        response = _response(os.urandom(size))
        keys = [_key(size + number) for number in range(20)]
        times = max(50, min(2_000, 20_000_000 // size))

        def read(number: int, keys: list[CacheKey] = keys) -> object:
            return store.get(keys[number % 20])

        def hit(number: int, keys: list[CacheKey] = keys) -> object:
            return cache.get(keys[number % 20])

        def put(
            number: int, keys: list[CacheKey] = keys, response: CachedResponse = response
        ) -> None:
            cache.put(keys[number % 20], response)
            cache.flush(60)

        put_cost = _microseconds(put, 40, cpu)
        begin = time.perf_counter()
        for key in keys:
            cache.put(key, response)
        returned = (time.perf_counter() - begin) / len(keys) * 1e6
        cache.flush(60)
        figures = (
            _microseconds(read, times, cpu),
            _microseconds(hit, times, cpu),
            put_cost,
            returned,
        )
        _print(_TEXT.format(size, *(f"{each:.1f}" for each in figures)))
    miss = _microseconds(lambda number: store.get(_key(10_000_000 + number)), 5_000, cpu)
    _print(f"a miss: {miss:.1f} us")
    cache.close(60)


def _memory(folder: Path) -> None:
    store = _store(folder)
    response = _response(os.urandom(10_000))
    before = _resident_bytes()
    for number in range(10_000):
        store.put(Item(_key(number), response, response.expires_at))
        if number % 16 == 15:
            store.flush(60)
    store.flush(60)
    found = sum(store.get(_key(number)) is not None for number in range(10_000))
    grown = (_resident_bytes() - before) / _MIB
    (path,) = folder.glob("*/data.mdb")
    _print(
        f"10,000 responses of 10 KB were put into {_SIZE // _MIB} MiB: {found} are there, the file"
        f" has {path.stat().st_size / _MIB:.1f} MiB, the process has grown by {grown:.1f} MiB"
    )
    store.close(60)


def _together(folder: Path, processes: int) -> None:
    """Each process reads ten times for each response of 10 KB that it puts."""
    command = [sys.executable, "-m", "bench.cache_stores", str(folder)]
    started = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE) for seed in range(processes)
    ]
    results = [[float(figure) for figure in each.communicate()[0].split()] for each in started]
    rate = sum(count / seconds for count, seconds, _, _ in results)
    cost = statistics.mean(each[2] for each in results)
    worst = max(each[3] for each in results)
    _print(
        f"{processes} processes, a put for each ten hits: {rate:,.0f} hits a second in all,"
        f" {cost:.1f} us CPU for a hit and its share of the puts, the slowest hit {worst:.1f} ms"
    )


def _read_and_write(folder: Path, seed: int) -> None:
    """One of the processes. Prints hits, seconds, CPU time of a hit, and the slowest hit."""
    store = _store(folder)
    response = _response(os.urandom(10_000))
    for number in range(200):
        store.put(Item(_key(number), response, response.expires_at))
    store.flush(60)
    worst, count = 0.0, 0
    begin, cpu = time.perf_counter(), time.process_time()
    for number in range(20_000):
        if number % 10 == 0:
            key = _key(1000 + seed * 100_000 + number)
            store.put(Item(key, response, response.expires_at))
        if number % 100 == 0:
            store.flush(60)
        started = time.perf_counter()
        count += store.get(_key(number % 200)) is not None
        worst = max(worst, time.perf_counter() - started)
    seconds, cost = time.perf_counter() - begin, (time.process_time() - cpu) / count * 1e6
    store.close(60)
    _print(f"{count} {seconds} {cost} {worst * 1e3}")


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
