"""Flights of workers that are processes, and what a kill does to them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from proxy.cache.fetched import Fetched
from proxy.cache.flight_claims import NodeClaims
from proxy.cache.flights import FlightFigures, Flights
from proxy.core.errors import UpstreamError
from tests.support.flight_worker import KEY
from tests.support.paths import ROOT
from tests.support.scripted_source import END, ScriptedSource, body, fetched, served
from tests.support.wait import wait_until


class WorkerProcess:
    """The process that owns the flight."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.flight_worker", str(directory)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self) -> str:
        assert self.process.stdout is not None
        with gevent.Timeout(60):
            return self.process.stdout.readline().strip()

    def tell(self, *words: str) -> None:
        assert self.process.stdin is not None
        for word in words:
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
            assert self.hear() == "done"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(tmp_path / "run")
    try:
        assert worker.hear() == "claimed"
        yield worker
    finally:
        worker.kill()
        worker.close()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Flights]]:
    """Two other workers."""
    made = [Flights(entry_bytes=1 << 20, claims=[NodeClaims(tmp_path / "run")]) for _ in range(2)]
    yield made
    for flights in made:
        flights.stop(seconds=20)
        assert flights.figures() == FlightFigures(0, 0, 0)


class Upstream:
    def __init__(self) -> None:
        self.calls = 0
        self.source = ScriptedSource()

    def __call__(self) -> Fetched:
        self.calls += 1
        gevent.sleep(0)
        return fetched(self.source)


def test_the_response_crosses_processes_whole(owner: WorkerProcess, workers: list[Flights]) -> None:
    upstream = Upstream()
    readers = [flights.join_or_begin(KEY, upstream) for flights in workers for _ in range(5)]
    jobs = [gevent.spawn(body, reader) for reader in readers]
    owner.tell("head", "one", "two", "three", "end")
    gevent.joinall(jobs, timeout=60)
    assert [job.value for job in jobs] == [b"onetwothree"] * 10
    assert upstream.calls == 0
    for reader in readers:
        reader.close()


def test_a_kill_in_the_body_breaks_the_followers_off(
    owner: WorkerProcess, workers: list[Flights]
) -> None:
    """Also between the last chunk and its end (resumable-stream#47)."""
    upstream = Upstream()
    readers = [flights.join_or_begin(KEY, upstream) for flights in workers]
    owner.tell("head", "one")
    assert [reader.read() for reader in readers] == [b"one"] * 2
    owner.kill()
    for reader in readers:
        with pytest.raises(UpstreamError):
            reader.read()
        assert not reader.complete
        reader.close()
    assert upstream.calls == 0
    again = workers[0].join_or_begin(KEY, upstream)
    assert again.head() is None, "the claim was not looked at"
    again.close()
    again = workers[0].join_or_begin(KEY, upstream)
    assert again.owns, "the claim of the killed worker is not free"
    again.close()


def test_a_kill_before_the_head_makes_one_of_those_that_wait_the_owner(
    owner: WorkerProcess, workers: list[Flights]
) -> None:
    upstream = Upstream()

    jobs = [gevent.spawn(served, flights, KEY, upstream) for flights in workers for _ in range(10)]
    wait_until(lambda: sum(flights.figures().readers for flights in workers) == 20)
    owner.kill()
    wait_until(lambda: sum(flights.figures().readers for flights in workers) == 21)
    upstream.source.put(b"a", END)
    gevent.joinall(jobs, timeout=60)
    assert [job.value for job in jobs] == [b"a"] * 20
    assert upstream.calls == 1, "not all of them at once"
