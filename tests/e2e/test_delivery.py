"""Every event arrives, whatever happens to the sinks and to the shipper: the real process."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import gevent
import pytest
import requests

from proxy.events.sinks.redis import FIELD
from proxy.events.spool.retention import LOCAL, register_sinks
from proxy.events.spool.segment import encode_record
from proxy.events.spool.writer import SegmentWriter
from proxy.store.database import Database
from proxy.store.usage import UsageLedger
from tests.support import fault_proxy
from tests.support.event_receiver import Receiver
from tests.support.event_samples import event
from tests.support.fault_proxy import Middleman
from tests.support.proxy_access import ProxyFactory
from tests.support.server import ROOT, ProxyServer
from tests.support.services import Moto, RedisServer
from tests.support.wait import wait_until

COUNT = 5000
THROTTLED = json.dumps({"__type": "ThrottlingException", "message": "Rate exceeded"}).encode()


class Destinations:
    """The three remote sinks' receivers, each behind a man in the middle."""

    def __init__(self, redis: RedisServer, moto: Moto) -> None:
        self._redis = redis
        self._moto = moto
        self._receiver = Receiver()
        self.name = f"proxy-{uuid4()}"
        self.between = {
            "http": Middleman(self._receiver.port),
            "redis": Middleman(redis.port),
            "cloudwatch": Middleman(moto.port),
        }

    def close(self) -> None:
        for each in self.between.values():
            each.close()
        self._receiver.close()

    def settings(self, *sinks: str) -> dict[str, str]:
        ports = {name: str(each.port) for name, each in self.between.items()}
        every = {
            "http": {"LOGGING_URL": f"http://127.0.0.1:{ports['http']}/in"},
            "redis": {
                "REDIS_URL": self._redis.url.replace(str(self._redis.port), ports["redis"]),
                "EVENT_STREAM": self.name,
            },
            "cloudwatch": {
                **Moto.environ,
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['cloudwatch']}",
                "CLOUDWATCH_LOG_GROUP": self.name,
            },
        }
        return {name: value for sink in sinks for name, value in every[sink].items()}

    def ids(self, sink: str) -> list[str]:
        """Of the events that have arrived, duplicates included."""
        if sink == "http":
            return [each["event_id"] for each in self._receiver.events]
        if sink == "redis":
            with self._redis.client() as client:
                found = [fields[FIELD] for _, fields in client.xrange(self.name)]
        else:
            found = self._moto.messages(self.name)
        return [json.loads(each)["event_id"] for each in found]


@pytest.fixture
def destinations(redis_server: RedisServer, moto: Moto) -> Iterator[Destinations]:
    with closing(Destinations(redis_server, moto)) as made:
        yield made


class Node:
    """A folder with settings and a spool, and its shipper."""

    def __init__(self, folder: Path, settings: dict[str, str], *sinks: str) -> None:
        self._server = ProxyServer(folder, "http://127.0.0.1:9", **settings)
        self._server.migrate()
        root = folder / "data" / "spool"
        register_sinks(root, [*sinks, "ledger"])
        self._writers = [SegmentWriter.create(root, segment_bytes=20_000) for _ in range(2)]
        self.root = root
        self.ids: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    def spool(self, count: int) -> None:
        """``count`` more events, from one of two workers."""
        writer = random.choice(self._writers)
        for _ in range(count):
            made = event(
                started=time.time(),
                project_id=PROJECT,
                token_id=TOKEN,
                metadata={"model": "m", "prompt_tokens": 3},
            )
            self.ids.append(made.event_id)
            writer.append([encode_record(made.line())])

    def start(self) -> None:
        with self._server.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "manage.py"), "events", "ship"],
                cwd=self._server.folder,
                env=self._server.environ,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end(self) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def leave(self) -> None:
        """The workers are gone, what they wrote is not."""
        for writer in self._writers:
            writer.close()
            writer.release()

    def log(self) -> str:
        return self._server.log_text()


PROJECT, TOKEN = str(uuid4()), str(uuid4())

MakeNode = Callable[..., Node]


@pytest.fixture
def node(tmp_path: Path, destinations: Destinations) -> Iterator[MakeNode]:
    made: list[Node] = []

    def make(*sinks: str) -> Node:
        made.append(Node(tmp_path, destinations.settings(*sinks), *sinks))
        return made[-1]

    yield make
    for each in made:
        each.kill()


TROUBLES = {
    "http": [fault_proxy.answering(fault_proxy.http("429 No")), fault_proxy.cut_after(3000)],
    "redis": [fault_proxy.answering(b"-LOADING loading\r\n" * 3), fault_proxy.cut_after(20_000)],
    "cloudwatch": [
        fault_proxy.answering(fault_proxy.http("400 No", THROTTLED)),
        fault_proxy.cut_after(30_000),
    ],
}


@pytest.mark.parametrize("sink", list(TROUBLES))
def test_a_sink_in_trouble_gets_every_event(
    node: MakeNode, destinations: Destinations, sink: str
) -> None:
    """Refused, slow, throttled, cut, and taken with the answer lost; a thousand events each."""
    between = destinations.between[sink]
    running = node(sink)
    running.start()
    throttled, cut = TROUBLES[sink]
    troubles = [fault_proxy.refused, fault_proxy.slow, throttled, cut, fault_proxy.answer_lost]
    for trouble in troubles:
        hindered = between.hindered
        between.meet(trouble)
        for _ in range(10):
            running.spool(COUNT // len(troubles) // 10)
            gevent.sleep(0.01)
        wait_until(lambda hindered=hindered: between.hindered > hindered, 40)
        between.meet(None)
    expected = set(running.ids)
    assert len(expected) == COUNT
    wait_until(lambda: set(destinations.ids(sink)) >= expected, 60)
    assert set(destinations.ids(sink)) == expected
    assert running.end() == 0
    assert "works again" in running.log()


def test_one_sink_s_trouble_is_no_other_s(node: MakeNode, destinations: Destinations) -> None:
    sinks = list(destinations.between)
    running = node(*sinks)
    destinations.between["http"].meet(fault_proxy.silent)
    destinations.between["redis"].meet(fault_proxy.refused)
    running.spool(1000)
    running.start()
    wait_until(lambda: destinations.between["cloudwatch"].calls > 0)
    wait_until(lambda: set(destinations.ids("cloudwatch")) == set(running.ids))
    assert destinations.ids("http") == destinations.ids("redis") == []
    for between in destinations.between.values():
        between.meet(None)
    for sink in ("http", "redis"):
        wait_until(lambda sink=sink: set(destinations.ids(sink)) == set(running.ids), 40)


def test_a_killed_shipper_repeats_and_never_loses(
    node: MakeNode, destinations: Destinations, tmp_path: Path
) -> None:
    """At any moment, so between write, position and unlink too; the ledger does not even repeat."""
    sinks = list(destinations.between)
    running = node(*sinks)
    source = random.Random(11)
    kills = 8
    running.start()
    for _ in range(kills):
        calls = sum(each.calls for each in destinations.between.values())
        running.spool(COUNT // kills)
        wait_until(
            lambda calls=calls: sum(each.calls for each in destinations.between.values()) > calls,
            40,
        )
        gevent.sleep(source.random() * 0.1)
        running.kill()
        running.start()
    running.leave()
    expected = set(running.ids)
    for sink in sinks:
        wait_until(lambda sink=sink: set(destinations.ids(sink)) == expected, 60)
    # What everybody has is let go of.
    wait_until(lambda: not [path for path in running.root.iterdir() if path.is_dir()], 40)
    assert running.end() == 0
    assert summed(f"sqlite:///{tmp_path / 'data' / 'proxy.db'}") == (COUNT // kills * kills,) * 2


def summed(database_url: str) -> tuple[int, int]:
    """Requests in the ledger; prompt tokens in it, of which each has three, divided by three."""
    database = Database.from_url(database_url, pool_size=1)
    long_ago, now = (datetime.fromtimestamp(seconds, UTC) for seconds in (0, time.time()))
    sums = UsageLedger(database).sums(long_ago, now, ["model"], limit=10)
    database.close()
    return sum(each.requests for each in sums), sum(each.prompt_tokens for each in sums) // 3


def test_the_ledger_is_filled_on_every_database(tmp_path: Path, database_url: str) -> None:
    """In a process without gevent's patches, on a thread."""
    node = Node(tmp_path, {"DATABASE_URL": database_url})
    node.spool(2000)
    node.start()
    wait_until(lambda: summed(database_url) == (2000, 2000))
    node.spool(10)
    wait_until(lambda: summed(database_url) == (2010, 2010))
    assert node.end() == 0
    assert "fails" not in node.log()


def test_a_sink_that_is_new_begins_with_what_is_there(
    node: MakeNode, destinations: Destinations
) -> None:
    running = node("http")
    register_sinks(running.root, ["http", LOCAL])  # which has not read anything yet
    running.spool(100)
    running.leave()
    running.start()
    wait_until(lambda: set(destinations.ids("http")) == set(running.ids))


def test_from_the_client_to_the_sink(own_proxy: ProxyFactory, destinations: Destinations) -> None:
    """The whole way, over a killed worker and a stop: what the log has the sinks have too."""
    server, access = own_proxy.started(
        EVENT_SHIPPER="on", **destinations.settings("http", "redis", "cloudwatch")
    )
    headers = {"Authorization": f"Bearer {access.token}"}
    with ThreadPoolExecutor(8) as pool:

        def ask(number: int) -> int:
            if number == 60:
                os.kill(server.worker_pids()[0], signal.SIGKILL)
            try:
                url = f"{server.url}/v1/chat/completions"
                answer = requests.post(url, json={"model": "m"}, headers=headers, timeout=30)
                return answer.status_code
            except requests.ConnectionError:
                return 0

        answers = list(pool.map(ask, range(200)))
    answered = sum(status != 0 for status in answers)
    assert answered > 150
    # Those of the killed worker come once another one has looked after it.
    wait_until(lambda: server.event_log.read_text().count('"status_code":200') >= answered)
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.event_log.read_text().splitlines()]
    logged = {line["event_id"] for line in lines}
    audit = {line["event_id"] for line in lines if "event" in line}
    assert answered <= len(logged - audit) <= len(answers)
    assert len(audit) == 2, "of the project and the token"
    for sink in ("http", "redis", "cloudwatch"):
        assert set(destinations.ids(sink)) == logged, sink
