"""A stream on a real Redis (``proxy/events/sinks/redis.py``)."""

import time
from collections.abc import Iterator
from uuid import uuid4

import pytest
import redis

from proxy.events.sinks import redis as module
from proxy.events.sinks.redis import FIELD, RedisSink
from tests.support import fault_proxy
from tests.support.event_samples import event
from tests.support.services import RedisServer

LINES = [event(f"r{number}").line() for number in range(4)]


@pytest.fixture
def stream() -> str:
    return f"events-{uuid4()}"


def entries(server: RedisServer, stream: str) -> list[bytes]:
    with server.client() as client:
        return [fields[FIELD].encode() + b"\n" for _, fields in client.xrange(stream)]


@pytest.fixture
def between(redis_server: RedisServer) -> Iterator[fault_proxy.Middleman]:
    made = fault_proxy.Middleman(redis_server.port)
    yield made
    made.close()


def through(server: RedisServer, between: fault_proxy.Middleman, stream: str) -> RedisSink:
    url = server.url.replace(str(server.port), str(between.port))
    return RedisSink(url, stream, max_length=1000)


def test_events_become_entries_in_order(redis_server: RedisServer, stream: str) -> None:
    sink = RedisSink(redis_server.url, stream, max_length=1000)
    sink.write(LINES)
    sink.write(LINES[:1])
    sink.close()
    assert entries(redis_server, stream) == LINES + LINES[:1]


def test_the_stream_is_bounded(redis_server: RedisServer, stream: str) -> None:
    sink = RedisSink(redis_server.url, stream, max_length=1000)
    for _ in range(10):
        sink.write(LINES * 100)
    with redis_server.client() as client:
        assert 1000 <= client.xlen(stream) < 1500
    sink.close()


@pytest.mark.parametrize(
    "trouble",
    [
        fault_proxy.refused,
        fault_proxy.cut_after(150),
        fault_proxy.answer_lost,
        fault_proxy.silent,
        fault_proxy.answering(b"-LOADING Redis is loading the dataset in memory\r\n" * 10),
    ],
)
def test_a_broken_connection_is_one_quick_error(
    redis_server: RedisServer,
    between: fault_proxy.Middleman,
    stream: str,
    trouble: fault_proxy.Trouble,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_READ_TIMEOUT", 0.3)
    sink = through(redis_server, between, stream)
    between.meet(trouble)
    started = time.monotonic()
    with pytest.raises(redis.RedisError):
        sink.write(LINES)
    # The library's own default takes four seconds and more.
    assert time.monotonic() - started < 3
    assert between.calls == 1
    between.meet(None)
    sink.write(LINES)
    assert entries(redis_server, stream)[-4:] == LINES
    sink.close()


def test_a_full_redis_is_an_error(redis_server: RedisServer, stream: str) -> None:
    sink = RedisSink(redis_server.url, stream, max_length=1000)
    with redis_server.client() as client:
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(redis.RedisError):
                sink.write(LINES)
        finally:
            client.config_set("maxmemory", "0")
    sink.write(LINES)
    assert entries(redis_server, stream) == LINES
    sink.close()
