"""``manage.py events`` as processes of their own, on a real Redis."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import requests

from proxy.events.sinks.redis import RedisSink
from proxy.events.spool.retention import register_sinks
from tests.support import fault_proxy, spool_factories
from tests.support.event_receiver import Receiver
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.services import RedisServer
from tests.support.wait import wait_until


class Running:
    """``manage.py events …`` in ``folder``; none of a server's secrets are there."""

    def __init__(self, folder: Path, *arguments: str, **environ: str) -> None:
        self.output = folder / "output"
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "manage.py"), "events", *arguments],
                cwd=folder,
                stdout=output,
                stderr=output,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(folder),
                    **{k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")},
                    **environ,
                },
            )

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def stream() -> str:
    return f"events-{uuid4()}"


@pytest.fixture
def running() -> Iterator[list[Running]]:
    made: list[Running] = []
    yield made
    for each in made:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


def written(path: Path) -> list[str]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line)["event_id"] for line in text.splitlines()]


def test_killed_dispatchers_lose_nothing(
    redis_server: RedisServer, stream: str, tmp_path: Path, running: list[Running]
) -> None:
    """Two share a group; each is killed in the middle, and others come in their place."""
    path = tmp_path / "events.jsonl"
    settings = {"REDIS_URL": redis_server.url, "EVENT_STREAM": stream}
    sink = RedisSink(redis_server.url, stream, max_length=100_000)
    expected = [f"e{number}" for number in range(5000)]

    def add(names: list[str]) -> None:
        for start in range(0, len(names), 100):
            sink.write([b'{"event_id":"%s"}\n' % name.encode() for name in names[start:][:100]])

    def start(name: str) -> Running:
        where = ("dispatch", "--to", "file", "--path", str(path), "--consumer", name)
        running.append(Running(tmp_path, *where, "--claim-idle", "2", **settings))
        return running[-1]

    one, two = start("one"), start("two")
    add(expected[:2500])
    wait_until(lambda: len(written(path)) > 0)
    one.end(signal.SIGKILL)
    add(expected[2500:4000])
    two.end(signal.SIGKILL)
    three = start("one")  # of the same name: goes on at once; what two held is claimed
    add(expected[4000:])
    wait_until(lambda: len(set(written(path))) == 5000, seconds=40)
    assert set(written(path)) == set(expected)
    with redis_server.client() as client:
        wait_until(lambda: client.xpending(stream, "file")["pending"] == 0)
    assert three.end() == 0
    sink.close()


def test_what_the_destination_calls_bad_is_in_the_dead_letter_stream(
    redis_server: RedisServer, stream: str, tmp_path: Path, running: list[Running]
) -> None:
    receiver = Receiver()
    receiver.judge = lambda batch: (
        "400 No" if "e3" in [event["event_id"] for event in batch] else "200 OK"
    )
    sink = RedisSink(redis_server.url, stream, max_length=1000)
    sink.write([spool_factories.line(number) for number in range(10)])
    sink.close()
    settings = {"REDIS_URL": redis_server.url, "EVENT_STREAM": stream, "LOGGING_URL": receiver.url}
    running.append(Running(tmp_path, "dispatch", "--to", "http", **settings))
    wait_until(lambda: len(receiver.events) == 9)
    with redis_server.client() as client:
        wait_until(lambda: client.xlen(f"{stream}-dead") == 1)
        ((_, fields),) = client.xrange(f"{stream}-dead")
        assert (fields["event"], fields["group"]) == (
            spool_factories.line(3).decode().strip(),
            "http",
        )
        wait_until(lambda: client.xpending(stream, "http")["pending"] == 0)
    receiver.close()


def test_a_shipper_alone_delivers_what_is_there_before_it_ends(
    tmp_path: Path, running: list[Running]
) -> None:
    receiver = Receiver()
    root = tmp_path / "data" / "spool"
    register_sinks(root, ["http"])
    writer = spool_factories.write(root, range(100))
    first = Running(tmp_path, "ship", LOGGING_URL=receiver.url)
    running.append(first)
    wait_until(lambda: len(receiver.events) == 100)
    second = Running(tmp_path, "ship", LOGGING_URL=receiver.url)
    running.append(second)
    wait_until(lambda: "another shipper" in second.output.read_text())
    assert second.end() == 0
    assert f"reading the spool {root}" in first.output.read_text()
    first.process.send_signal(signal.SIGUSR2)  # for workers; it must not end a shipper
    spool_factories.append(writer, range(100, 5000))
    assert first.end() == 0
    assert sorted(int(event["event_id"][1:]) for event in receiver.events) == list(range(5000))
    receiver.close()


def test_status_and_a_clean_stop(
    redis_server: RedisServer, stream: str, tmp_path: Path, running: list[Running]
) -> None:
    port = free_port()
    dispatch = Running(
        tmp_path,
        *("dispatch", "--to", "file", "--path", str(tmp_path / "events.jsonl")),
        *("--listen", f"127.0.0.1:{port}"),
        REDIS_URL=redis_server.url,
        EVENT_STREAM=stream,
    )
    running.append(dispatch)

    def ready() -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    wait_until(ready)
    started = f"dispatching the stream {stream}, group file, to the file {tmp_path}/events.jsonl"
    assert started in dispatch.output.read_text()
    metrics = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
    assert "\nproxy_dispatcher_delivered_total 0\n" in metrics
    assert dispatch.end(signal.SIGINT) == 0
    assert redis_server.password not in dispatch.output.read_text()
    with redis_server.client() as client:
        assert client.xinfo_consumers(stream, "file") == []


def test_a_redis_that_is_away_is_said_once(
    redis_server: RedisServer, stream: str, tmp_path: Path, running: list[Running]
) -> None:
    between = fault_proxy.Middleman(redis_server.port)
    between.meet(fault_proxy.refused)
    path = tmp_path / "events.jsonl"
    url = redis_server.url.replace(str(redis_server.port), str(between.port))
    dispatch = Running(
        tmp_path,
        *("dispatch", "--to", "file", "--path", str(path)),
        REDIS_URL=url,
        EVENT_STREAM=stream,
    )
    running.append(dispatch)
    wait_until(lambda: between.hindered > 2)
    assert "dispatcher: Redis: fails, waiting for it: " in dispatch.output.read_text()
    between.meet(None)
    wait_until(lambda: "dispatcher: Redis: works again" in dispatch.output.read_text())
    assert dispatch.end() == 0
    between.close()
    said = dispatch.output.read_text()
    assert said.count("Redis: fails") == 1
    assert redis_server.password not in said


@pytest.mark.parametrize(
    ("arguments", "settings", "expected"),
    [
        (["--to", "file", "--path", "x"], {}, "EVENT_STREAM"),
        (["--to", "http"], {"EVENT_STREAM": "s", "REDIS_URL": "redis://h"}, "LOGGING_URL"),
        (["--to", "file"], {"EVENT_STREAM": "s", "REDIS_URL": "redis://h"}, "--path"),
        (["--to", "redis"], {}, "--to"),
        (
            ["--to", "file", "--path", "x", "--listen", "nowhere"],
            {"EVENT_STREAM": "s", "REDIS_URL": "redis://h"},
            "--listen: nowhere: expected HOST:PORT",
        ),
    ],
)
def test_what_does_not_fit_is_said(
    tmp_path: Path,
    running: list[Running],
    arguments: list[str],
    settings: dict[str, str],
    expected: str,
) -> None:
    dispatch = Running(tmp_path, "dispatch", *arguments, **settings)
    running.append(dispatch)
    assert dispatch.process.wait(20) == 2
    assert expected in dispatch.output.read_text()
