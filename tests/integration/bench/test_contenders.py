"""Contenders that need nothing but this checkout start, relay, and end with all their processes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.accounting import tree
from bench.contenders import CONTENDERS
from bench.contenders.base import Site
from bench.load.blocking import BlockingClient
from bench.load.message import chat
from bench.processes import NotStarted
from bench.upstreams import Upstream, streaming
from tests.support.wait import wait_until

#: Starts processes.


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    made = streaming(tmp_path, os.sched_getaffinity(0), events=2, interval=0)
    yield made
    made.stop()


@pytest.mark.parametrize("name", ["raw", "floor", "naive", "ours"])
def test_it_relays(name: str, upstream: Upstream, tmp_path: Path) -> None:
    running = CONTENDERS[name].start(Site(tmp_path, upstream.port, os.sched_getaffinity(0)))
    processes = [running.process.pid, *tree(running.process.pid)]
    try:
        for stream in (False, True):
            request = chat(running.port, running.token, running.headers, stream=stream)
            with BlockingClient(running.port, request) as client:
                assert client.ask() > 0
    finally:
        running.stop()
    # A process beside the worker may end after its parent.
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes))


def test_one_that_ends_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NotStarted, match="No module named nothing"):
        Site(tmp_path, 1, os.sched_getaffinity(0)).start_python(["-m", "nothing"], 1, {})
