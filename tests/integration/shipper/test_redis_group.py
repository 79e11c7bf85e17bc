"""A consumer of a group, on a real Redis (``proxy/shipper/redis_group.py``)."""

from uuid import uuid4

import pytest

from proxy.events.sinks.redis import FIELD, RedisSink
from proxy.shipper.redis_group import ConsumerGroup, StreamDeadLetters
from tests.support.services import RedisServer


@pytest.fixture
def stream() -> str:
    return f"events-{uuid4()}"


def add(server: RedisServer, stream: str, *names: str) -> None:
    sink = RedisSink(server.url, stream, max_length=100_000)
    sink.write([f"{name}\n".encode() for name in names])
    sink.close()


def consumer(server: RedisServer, stream: str, name: str, group: str = "g") -> ConsumerGroup:
    made = ConsumerGroup(server.url, stream, group, name)
    made.create()
    return made


def test_entries_older_than_the_group_are_read(redis_server: RedisServer, stream: str) -> None:
    add(redis_server, stream, "a", "b", "c")
    one = consumer(redis_server, stream, "one")
    one.create()  # idempotent
    assert [entry.line for entry in one.new(2, 0)] == [b"a\n", b"b\n"]
    assert [entry.line for entry in one.new(2, 0)] == [b"c\n"]
    assert one.new(2, 0.01) == []


def test_unacknowledged_entries_are_pending_and_counted(
    redis_server: RedisServer, stream: str
) -> None:
    add(redis_server, stream, "a", "b", "c")
    first, *rest = consumer(redis_server, stream, "one").new(10, 0)
    again = consumer(redis_server, stream, "one")  # a restarted consumer
    again.acknowledge([first.id])
    found = again.pending(10)
    assert [entry.id for entry in found] == [entry.id for entry in rest]
    assert [entry.deliveries for entry in found] == [2, 2]
    assert [entry.deliveries for entry in again.pending(1)] == [3]


def test_idle_entries_are_claimed(redis_server: RedisServer, stream: str) -> None:
    add(redis_server, stream, "a", "b")
    given = consumer(redis_server, stream, "one").new(10, 0)
    two = consumer(redis_server, stream, "two")
    assert two.claim(10, 3600) == []
    claimed = two.claim(10, 0)
    assert [entry.id for entry in claimed] == [entry.id for entry in given]
    assert [entry.deliveries for entry in claimed] == [2, 2]
    assert two.claimed == 2


def test_held_entries_are_not_claimed_and_not_counted(
    redis_server: RedisServer, stream: str
) -> None:
    add(redis_server, stream, "a")
    one = consumer(redis_server, stream, "one")
    (entry,) = one.new(10, 0)
    with redis_server.client() as client:
        client.xclaim(stream, "g", "one", 0, [entry.id], idle=60_000, justid=True)
        one.renew([entry.id])
        (pending,) = client.xpending_range(stream, "g", "-", "+", 10)
    assert pending["time_since_delivered"] < 60_000
    assert pending["times_delivered"] == 1
    assert consumer(redis_server, stream, "two").claim(10, 30) == []


def test_trimmed_entries_are_counted_and_acknowledged(
    redis_server: RedisServer, stream: str
) -> None:
    add(redis_server, stream, "a", "b", "c", "d")
    one = consumer(redis_server, stream, "one")
    one.new(10, 0)
    with redis_server.client() as client:
        client.xtrim(stream, maxlen=2, approximate=False)
    assert [entry.line for entry in one.pending(10)] == [b"c\n", b"d\n"]
    assert one.lost == 2
    assert len(one.pending(10)) == 2
    assert one.lost == 2
    with redis_server.client() as client:
        client.xtrim(stream, maxlen=1, approximate=False)
    two = consumer(redis_server, stream, "two")
    assert [entry.line for entry in two.claim(10, 0)] == [b"d\n"]
    assert two.lost == 1


def test_two_groups_each_get_everything(redis_server: RedisServer, stream: str) -> None:
    add(redis_server, stream, "a", "b")
    for group in ("x", "y"):
        assert len(consumer(redis_server, stream, "one", group).new(10, 0)) == 2


def test_a_dead_letter_has_its_reason(redis_server: RedisServer, stream: str) -> None:
    one = consumer(redis_server, stream, "one")
    dead = StreamDeadLetters(one)
    dead.keep([b"a\n", b"b\n"], "HTTP 400")
    dead.close()
    with redis_server.client() as client:
        found = [fields for _, fields in client.xrange(f"{stream}-dead")]
    assert found == [{FIELD: x, "group": "g", "reason": "HTTP 400"} for x in ("a", "b")]
    assert dead.count == 2


def test_the_lag_counts_entries_that_no_consumer_has_read(
    redis_server: RedisServer, stream: str
) -> None:
    one = consumer(redis_server, stream, "one")
    add(redis_server, stream, "a", "b", "c")
    one.new(1, 0)
    assert one.lag() == 2


def test_close_removes_a_consumer_without_entries(redis_server: RedisServer, stream: str) -> None:
    add(redis_server, stream, "a", "b")
    one, two = (consumer(redis_server, stream, name) for name in ("one", "two"))
    one.acknowledge([entry.id for entry in one.new(1, 0)])
    two.new(1, 0)
    one.close()
    two.close()
    with redis_server.client() as client:
        assert [each["name"] for each in client.xinfo_consumers(stream, "g")] == ["two"]
