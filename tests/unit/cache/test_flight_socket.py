"""Following a flight of another worker (``proxy/cache/flight_socket.py``)."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from proxy.cache.fetched import UNKNOWN_COST, Fetched, NoResponse
from proxy.cache.flight import Abandoned, Flight, FlightReader, FlightRoom
from proxy.cache.flight_socket import (
    FlightPrivate,
    FlightServer,
    OwnerGone,
    OwnerSilent,
    _frame,
    follow,
    is_alive,
)
from proxy.cache.key import CacheKey
from proxy.core.errors import (
    ClientError,
    ConnectFailed,
    ProxyError,
    ResponseBroken,
    UpstreamError,
    UpstreamTimeout,
)
from tests.support.scripted_source import END, ScriptedSource, fetched
from tests.support.wait import wait_until

KEY = CacheKey("project-1:tökén", b"k" * 32)


class Owner:
    """A worker with one flight."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = ScriptedSource()
        self.room = FlightRoom(1 << 26)
        self.flight: Flight | None = None
        self.reader: FlightReader | None = None
        self.server = FlightServer(path, self._join)
        self.server.start()

    def begin(self, **options: Any) -> FlightReader:
        self.flight = Flight(self.room, limit=1 << 22)
        self.reader = self.flight.open()
        self.flight.start(options.pop("fetch", partial(fetched, self.source)), **options)
        return self.reader

    def _join(self, key: CacheKey) -> FlightReader | None:
        if self.flight is None or key != KEY or not self.flight.joinable:
            return None
        return self.flight.join()

    def close(self) -> None:
        if self.flight is not None:
            self.flight.stop()
            assert self.flight.wait_until_over(20)
        self.server.close()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    owner = Owner(tmp_path / "worker.sock")
    yield owner
    owner.close()


def all_of(got: Fetched) -> list[bytes]:
    found = []
    while chunk := got.source.read():
        found.append(chunk)
        if got.source.complete:
            break
    got.close()
    return found


def test_the_socket_is_for_its_owner_alone_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    server = FlightServer(path, lambda _: None)
    server.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert is_alive(path)
    server.close()
    server.close()
    assert list(tmp_path.iterdir()) == []
    assert not is_alive(path)


def test_a_follower_gets_head_and_chunks_as_they_come(owner: Owner) -> None:
    reader = owner.begin()
    owner.source.put(b"a")
    assert reader.read() == b"a"
    got = follow(owner.path, KEY)
    assert (got.head.status, got.head.reason) == (200, "OK")
    assert got.head.headers == [("Content-Type", "application/json")]
    assert got.head.shareable
    assert got.source.read() == b"a"
    job = gevent.spawn(got.source.read)
    owner.source.put(b"b")
    assert job.get(timeout=20) == b"b"
    assert reader.read() == b"b"
    owner.source.put(END)
    assert (got.source.read(), got.source.complete) == (b"", True)
    got.close()
    assert owner.flight is not None
    wait_until(lambda: owner.flight.readers == 1)


def test_the_last_chunk_is_known_to_be_the_last(owner: Owner) -> None:
    owner.source = ScriptedSource(b"a", last=2)
    owner.begin(on_abandoned=lambda _: Abandoned.DRAIN).close()
    got = follow(owner.path, KEY)
    assert got.source.read() == b"a"
    assert not got.source.complete
    owner.source.put(b"b")
    assert (got.source.read(), got.source.complete) == (b"b", True)
    got.close()


@pytest.mark.parametrize("known", [True, False])
def test_what_the_response_cost_is_known_to_its_followers(owner: Owner, known: bool) -> None:
    def count(flight: Flight) -> None:
        flight.cost = (9, None, "m")

    reader = owner.begin(on_end=[count] if known else [])
    got = follow(owner.path, KEY)
    owner.source.put(b"a", END)
    assert reader.read() == b"a"
    assert (got.source.read(), got.source.read()) == (b"a", b"")
    assert got.cost() == ((9, None, "m") if known else UNKNOWN_COST)
    got.close()


def test_an_owner_without_a_head_says_nothing_of_the_response(owner: Owner) -> None:
    go = Event()

    def fetch() -> Fetched:
        go.wait()
        raise NoResponse

    reader = owner.begin(fetch=fetch)
    job = gevent.spawn(follow, owner.path, KEY)
    wait_until(lambda: reader.flight.readers == 2)
    go.set()
    with pytest.raises(OwnerGone):
        job.get(timeout=20)
    reader.close()


def test_what_a_response_cost_stays_unknown_when_its_worker_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with scripted(path, _frame(b"O"), HEAD, _frame(b"L", b"all of it")):
        got = follow(path, KEY)
        assert (got.source.read(), got.source.complete) == (b"all of it", True)
        assert got.cost() == UNKNOWN_COST
        got.close()


def test_large_bodies_come_whole(owner: Owner) -> None:
    body = [bytes([number]) * 60_000 for number in range(40)]
    reader = owner.begin()
    job = gevent.spawn(lambda: b"".join(all_of(follow(owner.path, KEY))))
    wait_until(lambda: reader.flight.readers == 2)
    owner.source.put(*body, END)
    while reader.read():
        pass
    assert job.get(timeout=20) == b"".join(body)


@pytest.mark.parametrize(
    "error",
    [
        ConnectFailed("no way", retry_after=3),
        ClientError("no", code="request_too_large", headers=[("x-should-retry", "false")]),
        ProxyError(code="draining", retry_after=1),
    ],
)
def test_a_failure_before_the_head_is_the_followers_failure(
    owner: Owner, error: ProxyError
) -> None:
    go = gevent.event.Event()

    def fetch() -> Fetched:
        go.wait()
        raise error

    owner.begin(fetch=fetch)
    job = gevent.spawn(follow, owner.path, KEY)
    assert owner.flight is not None
    wait_until(lambda: owner.flight.readers == 2)
    go.set()
    with pytest.raises(ProxyError) as caught:
        job.get(timeout=20)
    found = caught.value
    assert isinstance(found, UpstreamError) == isinstance(error, UpstreamError)
    assert isinstance(found, ClientError) == isinstance(error, ClientError)
    assert (found.code, str(found), found.headers) == (error.code, str(error), error.headers)
    assert (found.retry_after is None) == (error.status < 500)


def test_a_failure_in_the_body_breaks_the_follower_off(owner: Owner) -> None:
    owner.begin()
    owner.source.put(b"a")
    got = follow(owner.path, KEY)
    assert got.source.read() == b"a"
    assert owner.reader is not None
    assert owner.reader.read() == b"a"
    owner.source.put(UpstreamTimeout())
    with pytest.raises(UpstreamError) as caught:
        got.source.read()
    assert caught.value.code == "upstream_timeout"
    assert not got.source.complete
    got.close()


def test_a_private_response_is_not_for_followers(owner: Owner) -> None:
    go = gevent.event.Event()

    def fetch() -> Fetched:
        go.wait()
        return fetched(owner.source, shareable=False)

    owner.begin(fetch=fetch)
    jobs = [gevent.spawn(follow, owner.path, KEY) for _ in range(20)]
    assert owner.flight is not None
    wait_until(lambda: owner.flight.readers == 21)
    go.set()
    gevent.joinall(jobs, timeout=20)
    assert {type(job.exception) for job in jobs} == {FlightPrivate}


def test_there_is_no_such_flight(owner: Owner) -> None:
    with pytest.raises(OwnerGone):
        follow(owner.path, KEY)
    owner.begin()
    with pytest.raises(OwnerGone):
        follow(owner.path, CacheKey("project-2", KEY.digest))


def test_there_is_no_such_worker(tmp_path: Path, owner: Owner) -> None:
    with pytest.raises(OwnerGone):
        follow(tmp_path / "nobody.sock", KEY)
    owner.server.close()
    with pytest.raises(OwnerGone):
        follow(owner.path, KEY)


@contextmanager
def scripted(path: Path, *frames: bytes, falls_silent: bool = False) -> Iterator[Any]:
    """A worker that sends these bytes to its follower, and then closes the connection or falls
    silent."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"".join(frames))
            if falls_silent:
                gevent.sleep(600)

    job = gevent.spawn(serve)
    try:
        yield job
    finally:
        job.kill()
        listener.close()


HEAD = _frame(b"H", b'[200,"OK",[],null,null]')


def test_a_worker_that_dies_before_the_head_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with scripted(path, _frame(b"O"), _frame(b".")), pytest.raises(OwnerGone):
        follow(path, KEY)


@pytest.mark.parametrize("rest", [b"", _frame(b"C", b"abc")[:-1], b"C", _frame(b".")])
def test_a_connection_without_a_last_frame_is_a_cut(tmp_path: Path, rest: bytes) -> None:
    """resumable-stream#47: the owner died between the last chunk and the end."""
    path = tmp_path / "a.sock"
    with scripted(path, _frame(b"O"), HEAD, _frame(b"C", b"all of it"), rest):
        got = follow(path, KEY)
        assert got.source.read() == b"all of it"
        assert not got.source.complete
        with pytest.raises(ResponseBroken):
            got.source.read()
        assert not got.source.complete
        got.close()


def test_a_worker_that_does_not_respond_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.cache.flight_socket._HELLO_SECONDS", 0.01)
    path = tmp_path / "a.sock"
    with scripted(path, falls_silent=True), pytest.raises(OwnerSilent):
        follow(path, KEY)


def test_a_worker_that_falls_silent_is_a_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.cache.flight_socket._SILENCE_SECONDS", 0.01)
    path = tmp_path / "a.sock"
    with scripted(path, _frame(b"O"), HEAD, falls_silent=True):
        got = follow(path, KEY)
        with pytest.raises(ResponseBroken):
            got.source.read()
        got.close()


def test_a_follower_that_leaves_is_noticed_while_nothing_comes(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.cache.flight_socket._ALIVE_SECONDS", 0.01)
    go = gevent.event.Event()

    def fetch() -> Fetched:
        go.wait()
        return fetched(owner.source)

    owner.begin(fetch=fetch)
    job = gevent.spawn(follow, owner.path, KEY)
    assert owner.flight is not None
    wait_until(lambda: owner.flight.readers == 2)
    job.kill()
    wait_until(lambda: owner.flight.readers == 1)
    go.set()
    owner.source.put(b"a")
    got = follow(owner.path, KEY)
    assert got.source.read() == b"a"
    got.close()
    wait_until(lambda: owner.flight.readers == 1)


def test_nothing_comes_in_time(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.cache.flight_socket._ALIVE_SECONDS", 0.001)
    owner.begin()
    owner.source.put(b"a")
    got = follow(owner.path, KEY)
    assert got.source.read() == b"a"
    assert not got.source.ready
    assert got.source.read_within(0.05) is None
    assert not got.source.ready, "a sign of life is no chunk"
    got.close()


def test_what_is_no_follower_is_not_served(owner: Owner) -> None:
    for request in (b"GET / HTTP/1.1\r\n\r\n", _frame(b"J", b"short"), _frame(b"C", b"x" * 40)):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(20)
            stranger.connect(str(owner.path))
            stranger.sendall(request)
            assert stranger.recv(100) == b""


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    owner = Owner(directory / "worker.sock")
    owner.begin()
    assert is_alive(owner.path)
    got = follow(owner.path, KEY)
    owner.source.put(b"a", END)
    assert all_of(got) == [b"a"]
    owner.close()
    assert list(directory.iterdir()) == []
