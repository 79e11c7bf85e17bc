"""What a Redis can do to the limits (``proxy/ratelimit/redis.py``)."""

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import gevent
import pytest
from redis.crc import key_slot

from proxy.core.errors import LimiterError
from proxy.ratelimit.limiter import Bucket, Charge
from proxy.ratelimit.redis import RedisLimiter
from tests.support.fault_proxy import Middleman
from tests.support.ports import free_port
from tests.support.services import RedisServer

#: Starts a Redis of its own.
pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """One that may be stopped."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def limiter(server: RedisServer) -> Iterator[RedisLimiter]:
    limiter = RedisLimiter.from_url(server.url)
    yield limiter
    limiter.close()


def demand(permits: int = 1, per_minute: int = 60) -> list[Charge]:
    return [Charge(Bucket(f"{uuid4()}", per_minute), permits)]


def test_one_command_for_all_buckets(server: RedisServer, limiter: RedisLimiter) -> None:
    limiter.take(demand())  # connected, and the script is known
    with server.client() as client:
        client.config_resetstat()
        limiter.take([*demand(), *demand(), *demand()])
        calls: Any = client.info("commandstats")
    assert calls["cmdstat_evalsha"]["calls"] == 1
    assert "cmdstat_eval" not in calls
    assert calls["cmdstat_time"]["calls"] == calls["cmdstat_mget"]["calls"] == 1


def test_a_forgotten_script_is_sent_again(server: RedisServer, limiter: RedisLimiter) -> None:
    wanted = demand(40)
    assert limiter.take(wanted).refused is None
    with server.client() as client:
        client.script_flush()
    assert limiter.take(wanted).refused == 0
    with server.client() as client:
        client.script_flush()
    limiter.debit(wanted)
    assert limiter.take(wanted).remaining[0] < 0


def test_keys_lie_together_and_go_when_they_are_full(
    server: RedisServer, limiter: RedisLimiter
) -> None:
    wanted = [*demand(30), *demand(60), *demand(0)]
    limiter.take(wanted)
    with server.client() as client:
        names = [f"proxy:{{limits}}:{each.bucket.key}" for each in wanted]
        assert [client.exists(name) for name in names] == [1, 1, 0]
        half, whole = (client.pttl(name) for name in names[:2])
    assert len({key_slot(name.encode()) for name in names}) == 1
    assert half <= 30_000 < whole <= 60_000


@pytest.mark.parametrize("state", ["garbage", "nan nan", "1e999 -", "", "5"])
def test_damaged_state_is_a_full_bucket(
    server: RedisServer, limiter: RedisLimiter, state: str
) -> None:
    (wanted,) = demand(60)
    with server.client() as client:
        client.set(f"proxy:{{limits}}:{wanted.bucket.key}", state)
    assert limiter.take([wanted]).refused is None
    assert limiter.take([wanted]).refused == 0


def test_another_kind_of_value_is_one_too(server: RedisServer, limiter: RedisLimiter) -> None:
    (wanted,) = demand(60)
    with server.client() as client:
        client.lpush(f"proxy:{{limits}}:{wanted.bucket.key}", "x")
    assert [limiter.take([wanted]).refused for _ in range(2)] == [None, 0]


def test_a_clock_that_went_back_shuts_no_bucket(server: RedisServer, limiter: RedisLimiter) -> None:
    (wanted,) = demand(6000, 6000)
    limiter.take([wanted])
    name = f"proxy:{{limits}}:{wanted.bucket.key}"
    with server.client() as client:
        seconds: Any = client.time()
        # As if it had been an hour later when the bucket was used last.
        client.set(name, f"0 {seconds[0] + 3600}")
        assert limiter.take([wanted]).refused == 0
        _, moment = str(client.get(name)).split()
        assert float(moment) <= seconds[0] + 60
        # Full, of a later moment: not a reason to fail, either.
        client.set(name, f"9e9 {seconds[0] + 3600}")
    assert limiter.take([Charge(wanted.bucket, 0)]).remaining == [6000]


def test_an_idle_connection_that_broke_is_replaced(
    server: RedisServer, limiter: RedisLimiter
) -> None:
    limiter.take(demand())
    with server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    assert limiter.take(demand()).refused is None


def test_a_stopped_server_and_one_that_comes_back(
    server: RedisServer, limiter: RedisLimiter
) -> None:
    wanted = demand(60)
    limiter.take(wanted)
    server.halt()
    try:
        with pytest.raises(LimiterError) as caught:
            limiter.take(wanted)
        assert caught.value.__cause__ is not None
    finally:
        server.run()
    assert limiter.take(wanted).refused == 0  # its memory survives here, the script does not


def test_a_paused_server_is_not_waited_for(server: RedisServer, limiter: RedisLimiter) -> None:
    limiter.take(demand())
    server.pause()
    try:
        with gevent.Timeout(10):
            for _ in range(2):  # on the connection that is open, and on a new one
                with pytest.raises(LimiterError):
                    limiter.take(demand())
                with pytest.raises(LimiterError):
                    limiter.debit(demand())
    finally:
        server.resume()
    # Responses to calls that were given up are never read as another call's.
    wanted = demand(7)
    assert limiter.take(wanted).remaining[0] == 53


def test_more_at_once_than_connections_take_turns(server: RedisServer) -> None:
    limiter = RedisLimiter.from_url(server.url, connections=3)
    wanted = demand(1, 30)
    with server.client() as client:
        before = len(client.client_list())
        greenlets = [gevent.spawn(limiter.take, wanted) for _ in range(30)]
        assert [greenlet.get().refused for greenlet in greenlets] == [None] * 30
        assert len(client.client_list()) <= before + 3
    limiter.close()


def test_no_call_waits_longer_for_a_connection_than_for_a_response(server: RedisServer) -> None:
    limiter = RedisLimiter.from_url(server.url, connections=1)
    limiter.take(demand())

    def fails() -> bool:
        with pytest.raises(LimiterError):
            limiter.take(demand())
        return True

    server.pause()
    try:
        with gevent.Timeout(10):
            greenlets = [gevent.spawn(fails) for _ in range(50)]
            assert all(greenlet.get() for greenlet in greenlets)
    finally:
        server.resume()
    assert limiter.take(demand()).refused is None
    limiter.close()


def test_the_connection_of_a_call_that_is_ended_is_not_used_again(
    server: RedisServer, limiter: RedisLimiter
) -> None:
    limiter.take(demand())
    server.pause()
    try:
        greenlet = gevent.spawn(limiter.take, demand(50))
        gevent.sleep(0.01)
        greenlet.kill()
    finally:
        server.resume()
    wanted = demand(7)
    assert limiter.take(wanted).remaining[0] == 53


def speaking(peer: Callable[[socket.socket], None]) -> tuple[str, gevent.Greenlet]:
    """A server that is no Redis."""
    port = free_port()
    listener = socket.create_server(("127.0.0.1", port))

    def serve() -> None:
        while True:
            peer(listener.accept()[0])

    return f"redis://127.0.0.1:{port}/0", gevent.spawn(serve)


def drip(connection: socket.socket) -> None:
    """Each byte comes before the read's timeout, and the response never ends."""
    connection.send(b"+")
    try:
        while True:
            gevent.sleep(0.05)
            connection.send(b"x")
    except OSError:
        connection.close()


def hang_up(connection: socket.socket) -> None:
    connection.recv(10)
    connection.close()


def nonsense(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + os.urandom(100))
    connection.close()


@pytest.mark.parametrize("peer", [drip, hang_up, nonsense])
def test_every_wrong_response_is_a_limiter_error(peer: Callable[[socket.socket], None]) -> None:
    url, greenlet = speaking(peer)
    limiter = RedisLimiter.from_url(url)
    try:
        with gevent.Timeout(10), pytest.raises(LimiterError) as caught:
            limiter.take(demand())
        assert caught.value.__cause__ is not None
    finally:
        greenlet.kill()
        limiter.close()


def test_a_server_that_says_no_is_a_limiter_error(server: RedisServer) -> None:
    wrong = RedisLimiter.from_url(server.url.replace("s3", "other"))
    with pytest.raises(LimiterError):
        wrong.take(demand())
    with server.client() as client:
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(LimiterError):
                RedisLimiter.from_url(server.url).take(demand())
        finally:
            client.config_set("maxmemory", "0")


def test_a_failover_is_followed(server: RedisServer) -> None:
    """The old primary keeps its connections as a replica; the address leads to the new one."""
    with RedisServer() as new:
        address = Middleman(server.port)
        limiter = RedisLimiter.from_url(server.url_at(address.port))
        try:
            jobs = [gevent.spawn(limiter.take, demand()) for _ in range(8)]
            gevent.joinall(jobs, raise_error=True)
            assert address.calls > 1, "several connections lead to the old one"
            server.follow(new)
            address.lead_to(new.port)
            failures = 0
            for _ in range(20):
                try:
                    limiter.take(demand())
                except LimiterError:
                    failures += 1
            assert failures <= 1, "one call finds out for all"
            jobs = [gevent.spawn(limiter.take, demand()) for _ in range(8)]
            gevent.joinall(jobs, raise_error=True)
        finally:
            limiter.close()
            address.close()
            with server.client() as client:
                client.replicaof("NO", "ONE")  # type: ignore[no-untyped-call]
