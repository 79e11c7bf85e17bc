"""Announcements through a real Redis: heard, bounded, and found again after it was away."""

import logging
from collections.abc import Callable, Collection, Iterator
from uuid import uuid4

import gevent
import pytest

from proxy.auth import change_bus as redis_module
from proxy.auth.change_bus import CHANNEL, MAX_BYTES, ChangeBus, ids_in
from proxy.routing import health as health_module
from tests.support.fault_proxy import Middleman
from tests.support.ports import free_port
from tests.support.services import RedisServer
from tests.support.wait import wait_until


class Heard:
    """One worker's side of it."""

    def __init__(self) -> None:
        self.calls: list[set[str]] = []
        self.listening: list[bool] = []

    @property
    def ids(self) -> set[str]:
        return set().union(*self.calls)

    def on_message(self, ids: Collection[str]) -> None:
        self.calls.append(set(ids))

    def set_subscribed(self, listening: bool) -> None:
        self.listening.append(listening)


Start = Callable[..., tuple[ChangeBus, Heard]]


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[ChangeBus] = []

    def begin(
        url: str, listening: bool = True, silence: float = 5.0, channel_name: str = CHANNEL
    ) -> tuple[ChangeBus, Heard]:
        heard = Heard()
        channel = ChangeBus(url, heard, channel=channel_name, silence=silence)
        made.append(channel)
        channel.start()
        if listening:
            wait_until(lambda: heard.listening == [True])
        return channel, heard

    yield begin
    for channel in made:
        channel.close()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def new_id() -> str:
    return str(uuid4())


def test_all_hear_it_the_one_who_said_it_too(start: Start, redis_server: RedisServer) -> None:
    (first, at_first), (_, at_second) = start(redis_server.url), start(redis_server.url)
    id_ = new_id()
    first.publish([id_])
    wait_until(lambda: at_first.ids == at_second.ids == {id_})


def test_another_channel_is_not_heard(start: Start, redis_server: RedisServer) -> None:
    """The health of upstream keys has a channel of its own, whose wake-ups are ids too."""
    (revocations, heard) = start(redis_server.url)
    (health, at_health) = start(redis_server.url, channel_name=health_module.CHANNEL)
    health.publish(health_module.WAKE_UP)
    wait_until(lambda: at_health.ids == set(health_module.WAKE_UP))
    id_ = new_id()
    revocations.publish([id_])
    wait_until(lambda: heard.ids == {id_})
    assert id_ not in at_health.ids


def test_much_at_once_is_acted_upon_in_few_steps(start: Start, redis_server: RedisServer) -> None:
    (first, heard) = start(redis_server.url)
    ids = [new_id() for _ in range(800)]
    for id_ in ids[:400]:
        first.publish([id_])
    with redis_server.client() as client, client.pipeline(transaction=False) as pipeline:
        for id_ in ids[400:]:
            pipeline.publish(CHANNEL, id_)
        pipeline.execute()
    wait_until(lambda: heard.ids == set(ids))
    assert len(heard.calls) < 100


def test_what_strangers_say(start: Start, redis_server: RedisServer) -> None:
    (_, heard) = start(redis_server.url)
    id_ = new_id()
    with redis_server.client() as client:
        for nonsense in ("", "x" * 100, "\x00\xff", '{"ids": ["a"]}', "A" * 10_000_000):
            client.publish(CHANNEL, nonsense)
        for _ in range(5000):
            client.publish(CHANNEL, " ".join(new_id() for _ in range(3)))
        wait_until(lambda: len(heard.ids) > 0)
        gevent.sleep(0.2)
        client.publish(CHANNEL, f"nonsense {id_} ../..")
    wait_until(lambda: id_ in heard.ids)
    assert all(len(call) <= 1100 for call in heard.calls)


@pytest.mark.parametrize(
    ("message", "count"),
    [
        (b"", 0),
        (b"' OR 1=1 --", 0),
        (b"0190a1b2-0000-7000-8000-000000000001", 1),
        (b"routing 0190a1b2-0000-7000-8000-000000000001 routings", 2),
        (b"cache_purges routing cache_purge", 2),
        (b"0190A1B2-0000-7000-8000-000000000001", 0),
        (b" 0190a1b2-0000-7000-8000-000000000001\nx 0190a1b2-0000-7000-8000-000000000002 ", 2),
        (b"0190a1b2-0000-7000-8000-000000000001 " * 400, 100),
        (b"0190a1b2-0000-7000-8000-000000000001 " * (MAX_BYTES // 30), 0),
    ],
)
def test_ids_in(message: bytes, count: int) -> None:
    assert len(ids_in(message)) == count


def test_a_redis_that_goes_away_and_comes_back(
    start: Start, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    channel, heard = start(own_redis.url)
    own_redis.halt()
    wait_until(lambda: heard.listening == [True, False])
    for _ in range(5):
        channel.publish([new_id()])
        gevent.sleep(0.05)
    wait_until(lambda: "are not announced" in caplog.text)
    own_redis.run()
    wait_until(lambda: heard.listening == [True, False, True])
    id_ = new_id()
    channel.publish([id_])
    wait_until(lambda: id_ in heard.ids)
    for once in ("are not announced", "are not received", "are received through Redis again"):
        assert caplog.text.count(once) == 1
    assert own_redis.password not in caplog.text


def test_a_redis_that_hangs_is_noticed(start: Start, own_redis: RedisServer) -> None:
    channel, heard = start(own_redis.url, silence=0.2)
    gevent.sleep(1)
    assert heard.listening == [True], "silence alone is no failure"
    own_redis.pause()
    wait_until(lambda: heard.listening == [True, False])
    own_redis.resume()
    wait_until(lambda: heard.listening == [True, False, True])
    id_ = new_id()
    channel.publish([id_])
    wait_until(lambda: id_ in heard.ids)


def test_one_that_was_never_there(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_module, "_MAX_PAUSE", 0.05)
    channel, heard = start(f"redis://127.0.0.1:{free_port()}/0", listening=False)
    for _ in range(5000):
        channel.publish([new_id()])
    wait_until(lambda: heard.listening == [False])
    gevent.sleep(0.5)
    assert heard.listening == [False]
    assert len(channel._to_send) <= 1000
    channel.close()
    channel.close()


def test_one_that_lets_in_and_throws_out(own_redis: RedisServer, start: Start) -> None:
    """It is asked less and less often, and the log does not report it ten times a second."""
    channel, heard = start(own_redis.url)
    with own_redis.client() as client:
        for length in (3, 5, 7):
            client.client_kill_filter(_type="pubsub")
            wait_until(lambda length=length: len(heard.listening) == length)  # type: ignore[misc]
    assert heard.listening[:4] == [True, False, True, False]
    assert channel._backoff._next >= 4 * redis_module._MIN_PAUSE


def test_a_defect_does_not_end_the_announcing(
    start: Start, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    (channel, heard) = start(redis_server.url)
    publish = channel._sender.publish

    def defect(name: str, message: str) -> None:
        raise ZeroDivisionError

    channel._sender.publish = defect  # type: ignore[method-assign]
    channel.publish([new_id()])
    wait_until(lambda: "announcing changes failed" in caplog.text)
    channel._sender.publish = publish  # type: ignore[method-assign]
    id_ = new_id()
    channel.publish([id_])
    wait_until(lambda: id_ in heard.ids)


def test_what_cannot_be_acted_upon_does_not_end_it(
    start: Start, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    (channel, heard) = start(redis_server.url)
    hear = heard.on_message

    def defect(_: Collection[str]) -> None:
        raise ZeroDivisionError

    heard.on_message = defect  # type: ignore[method-assign]
    channel.publish([new_id()])
    wait_until(lambda: "could not be applied" in caplog.text)
    heard.on_message = hear  # type: ignore[method-assign]
    id_ = new_id()
    channel.publish([id_])
    wait_until(lambda: id_ in heard.ids)


def test_an_announcer_follows_a_failover(start: Start, own_redis: RedisServer) -> None:
    """A replica takes a PUBLISH, and a listener at the new primary would not hear it."""
    with RedisServer() as new:
        address = Middleman(own_redis.port)
        try:
            channel, here = start(own_redis.url_at(address.port))
            channel.publish([first := new_id()])
            wait_until(lambda: here.ids == {first})
            _, there = start(new.url)
            own_redis.follow(new)
            address.lead_to(new.port)
            channel.publish([second := new_id()])
            wait_until(lambda: there.ids == {second})
            wait_until(lambda: second in here.ids)  # the old one hears what its primary hears
        finally:
            address.close()


def test_a_subscription_is_made_anew_now_and_then(
    start: Start, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that was replaced is silent, and nothing else would show it."""
    monkeypatch.setattr(redis_module, "_RESUBSCRIBE_AFTER", 0.2)
    with RedisServer() as new:
        address = Middleman(own_redis.port)
        try:
            _, here = start(own_redis.url_at(address.port), silence=0.2)
            address.lead_to(new.port)
            speaker, _ = start(new.url)

            def heard() -> bool:
                speaker.publish([new_id()])
                return bool(here.ids)

            wait_until(heard)
            assert set(here.listening) == {True}, "that is no outage"
        finally:
            address.close()
