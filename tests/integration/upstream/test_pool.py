"""Idle connections and new ones."""

import resource
import socket
import ssl
from collections.abc import Iterator
from types import SimpleNamespace

import gevent
import gevent.socket
import pytest
from gevent.event import Event

from proxy.gateway.inflight import ClientDisconnected
from proxy.upstream import pool as pool_module
from proxy.upstream.pool import AddressRefused, ConnectionPool, ConnectTimedOut, tls_context
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.wait import wait_until
from tests.support.wire_requests import Serve
from tests.support.wire_server import Connection


def quiet(connection: Connection) -> None:
    connection.wait_end()


@pytest.fixture
def pools(_no_socket_left: None) -> Iterator[list[ConnectionPool]]:
    made: list[ConnectionPool] = []
    yield made
    for pool in made:
        pool.close()


def make(
    pools: list[ConnectionPool], origin: str, max_idle: int = 10, timeout: float = 5.0
) -> ConnectionPool:
    pools.append(
        ConnectionPool(origin, connect_timeout=timeout, max_idle=max_idle, context=tls_context)
    )
    return pools[-1]


def test_the_newest_idle_connection_is_used_first(
    serve: Serve, pools: list[ConnectionPool]
) -> None:
    pool = make(pools, serve(quiet).origin)
    assert pool.acquire() is None
    first, second = pool.connect(), pool.connect()
    pool.release(first)
    pool.release(second)
    assert pool.idle_count == 2
    assert pool.acquire() is second
    assert pool.acquire() is first
    assert pool.acquire() is None
    first.close()
    second.close()


def test_a_new_connection_takes_the_place_of_the_oldest(
    serve: Serve, pools: list[ConnectionPool]
) -> None:
    pool = make(pools, serve(quiet).origin)
    pool.make_room()
    first, second = pool.connect(), pool.connect()
    pool.release(first)
    pool.release(second)
    pool.make_room()
    assert (first.fileno(), pool.idle_count) == (-1, 1)
    assert pool.acquire() is second
    second.close()


@pytest.mark.parametrize("bound", [0, 1, 2])
def test_idle_connections_are_bounded(
    serve: Serve, pools: list[ConnectionPool], bound: int
) -> None:
    server = serve(quiet)
    pool = make(pools, server.origin, max_idle=bound)
    open_ones = [pool.connect() for _ in range(4)]
    for sock in open_ones:
        pool.release(sock)
    assert pool.idle_count == bound
    assert [sock.fileno() >= 0 for sock in open_ones] == [False] * (4 - bound) + [True] * bound
    wait_until(lambda: sum(one.ended.is_set() for one in server.connections) == 4 - bound)


def test_old_idle_connections_are_closed(
    serve: Serve, pools: list[ConnectionPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(pool_module, "time", SimpleNamespace(monotonic=lambda: now))
    server = serve(quiet)
    pool = make(pools, server.origin)
    old, fresh = pool.connect(), pool.connect()
    pool.release(old)
    now += pool_module.MAX_IDLE_SECONDS
    pool.release(fresh)
    now += 1
    assert pool.acquire() is fresh
    assert old.fileno() == -1
    assert pool.idle_count == 0
    pool.release(fresh)
    now += pool_module.MAX_IDLE_SECONDS + 1
    assert pool.acquire() is None
    wait_until(lambda: all(one.ended.is_set() for one in server.connections))


@pytest.mark.parametrize("what", ["closed", "reset", "stray bytes"])
def test_what_is_readable_is_not_used_again(
    serve: Serve, pools: list[ConnectionPool], what: str
) -> None:
    act, acted = Event(), Event()

    def handler(connection: Connection) -> None:
        assert act.wait(20)
        if what == "reset":
            connection.reset()
        elif what == "stray bytes":
            connection.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        else:
            connection.close()
        acted.set()

    pool = make(pools, serve(handler).origin)
    sock = pool.connect()
    pool.release(sock)
    act.set()
    assert acted.wait(20)
    wait_until(lambda: not pool_module._is_quiet(sock))
    assert pool.acquire() is None
    assert sock.fileno() == -1


def test_after_close_nothing_is_kept(serve: Serve, pools: list[ConnectionPool]) -> None:
    pool = make(pools, serve(quiet).origin)
    in_use, idle = pool.connect(), pool.connect()
    pool.release(idle)
    pool.close()
    pool.release(in_use)
    assert (idle.fileno(), in_use.fileno(), pool.idle_count) == (-1, -1, 0)


def test_descriptors_above_1023(serve: Serve, pools: list[ConnectionPool]) -> None:
    """select() refuses them; nothing here may depend on it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip(f"the hard limit on open files is {hard}; raise it above 1200")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    pool = make(pools, serve(quiet).origin)
    ends = [socket.socketpair() for _ in range(520)]
    try:
        sock = pool.connect()
        assert sock.fileno() > 1023
        pool.release(sock)
        assert pool.acquire() is sock
        pool.release(sock)
    finally:
        for pair in ends:
            for end in pair:
                end.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_socket_options(serve: Serve, pools: list[ConnectionPool]) -> None:
    sock = make(pools, serve(quiet).origin).connect()
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    sock.close()


# Connecting.


def test_connect_timeout(full_listener: str, pools: list[ConnectionPool]) -> None:
    with pytest.raises(ConnectTimedOut):
        make(pools, full_listener, timeout=0.1).connect()


def test_a_silent_tls_server_is_a_connect_timeout(
    serve: Serve, pools: list[ConnectionPool]
) -> None:
    origin = serve(quiet).origin.replace("http:", "https:")
    with pytest.raises(ConnectTimedOut):
        make(pools, origin, timeout=0.1).connect()


def test_another_timeout_propagates(full_listener: str, pools: list[ConnectionPool]) -> None:
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.05) as outer:
        make(pools, full_listener, timeout=20).connect()
    assert caught.value is outer


def addresses(*origins: str) -> list[tuple[object, ...]]:
    ports = [int(origin.rpartition(":")[2]) for origin in origins]
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    return [(*kind, ("127.0.0.1", port)) for port in ports]


def test_an_address_that_swallows_packets_leaves_time_to_the_next(
    full_listener: str,
    serve: Serve,
    pools: list[ConnectionPool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = serve(quiet)
    pool = make(pools, server.origin, timeout=0.4)
    monkeypatch.setattr(
        pool._connector, "_resolve", lambda: addresses(full_listener, server.origin)
    )
    sock = pool.connect()
    assert sock.getpeername()[1] == server.port
    sock.close()


def resolved(*found: str) -> list[tuple[object, ...]]:
    kinds = {True: socket.AF_INET6, False: socket.AF_INET}
    return [(kinds[":" in one], socket.SOCK_STREAM, 6, "", (one, 9)) for one in found]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "168.63.129.16",
        "::1",
        "fe80::1",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
    ],
)
def test_a_name_that_leads_inside_is_refused_before_anything_is_opened(
    pools: list[ConnectionPool], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    pool = make(pools, "public+https://name.example")
    tried: list[object] = []
    monkeypatch.setattr(pool._connector, "_resolve", lambda: resolved(address))
    monkeypatch.setattr(pool._connector, "_create_tcp_socket", lambda *args: tried.append(args))
    with pytest.raises(AddressRefused, match="private, local or metadata address"):
        pool.connect()
    assert tried == []


def test_of_several_addresses_only_public_ones_are_tried(
    pools: list[ConnectionPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make(pools, "public+http://name.example")
    tried: list[str] = []

    def connect(sock: socket.socket, address: tuple[str, int]) -> socket.socket:
        tried.append(address[0])
        return sock

    monkeypatch.setattr(
        pool._connector, "_resolve", lambda: resolved("127.0.0.1", "::1", "8.8.8.8", "10.0.0.1")
    )
    monkeypatch.setattr(pool._connector, "_connect_socket", connect)
    pool.connect().close()
    assert tried == ["8.8.8.8"]


def test_what_is_checked_is_what_is_connected_to(
    pools: list[ConnectionPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that changes its address between two look-ups gains nothing: there is one."""
    pool = make(pools, "public+http://name.example")
    turns = iter([resolved("8.8.8.8"), resolved("127.0.0.1")])
    tried: list[str] = []

    def connect(sock: socket.socket, address: tuple[str, int]) -> socket.socket:
        tried.append(address[0])
        return sock

    monkeypatch.setattr(gevent.socket, "getaddrinfo", lambda *args: next(turns))
    monkeypatch.setattr(pool._connector, "_connect_socket", connect)
    pool.connect().close()
    assert tried == ["8.8.8.8"]
    with pytest.raises(AddressRefused):
        pool.connect()


def test_the_time_is_for_all_addresses(
    full_listener: str, pools: list[ConnectionPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timeout is not taken for the failure of one address."""
    pool = make(pools, full_listener, timeout=1)
    tried = []
    monkeypatch.setattr(pool._connector, "_resolve", lambda: addresses(full_listener) * 3)
    original = pool._connector._connect_socket
    monkeypatch.setattr(
        pool._connector, "_connect_socket", lambda *args: (tried.append(args), original(*args))[1]
    )
    with pytest.raises(ConnectTimedOut):
        pool.connect()
    assert len(tried) == 3


def test_the_first_failure_is_reported(
    pools: list[ConnectionPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = f"http://127.0.0.1:{free_port()}"
    pool = make(pools, origin)
    monkeypatch.setattr(pool._connector, "_resolve", lambda: addresses(origin, origin))
    with pytest.raises(ConnectionRefusedError):
        pool.connect()
    monkeypatch.setattr(pool._connector, "_resolve", list)
    with pytest.raises(OSError, match="no address"):
        pool.connect()


@pytest.mark.parametrize(
    "order", ["answered, silent", "silent, answered", "silent, answered, silent"]
)
def test_an_address_that_responded_is_reported_before_a_silent_one(
    order: str, pools: list[ConnectionPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = order.split(", ")
    failures = {"answered": ssl.SSLError("unknown CA"), "silent": ConnectionRefusedError()}
    pool = make(pools, "https://127.0.0.1:1")

    def fail(sock: object, address: object) -> None:
        raise failures[kinds.pop(0)]

    monkeypatch.setattr(pool._connector, "_connect_socket", fail)
    monkeypatch.setattr(
        pool._connector, "_resolve", lambda: addresses(*["https://127.0.0.1:1"] * len(kinds))
    )
    with pytest.raises(ssl.SSLError, match="unknown CA"):
        pool.connect()
    assert not kinds


def test_an_interrupted_connect_tries_nothing_else(
    full_listener: str,
    serve: Serve,
    pools: list[ConnectionPool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client left while the first address was tried: it is not a failed address."""
    server = serve(quiet)
    pool = make(pools, server.origin, timeout=20)
    monkeypatch.setattr(
        pool._connector, "_resolve", lambda: addresses(full_listener, server.origin)
    )
    caller = gevent.spawn(pool.connect)
    gevent.sleep(0.02)
    caller.kill(ClientDisconnected)
    assert isinstance(caller.value, ClientDisconnected)
    assert server.connections == []


# TLS.


def test_the_context_verifies(trusted: Authority) -> None:
    context = tls_context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1


def test_without_any_ca_store_certifi_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path}/none.pem")
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path}")
    assert len(tls_context().get_ca_certs()) > 50


def test_a_name_and_an_ip_v6_address_in_connect(pools: list[ConnectionPool]) -> None:
    connector = pool_module._connector(
        "https://[::1]:8443", 1.0, tls_context, "http://u%40:p%3A@proxy.test:3128"
    )
    request = connector._proxy_connect_request()
    assert request.startswith("CONNECT [::1]:8443 HTTP/1.1\r\nHost: [::1]:8443\r\n")
    assert "Proxy-Authorization: Basic dUA6cDo=\r\n" in request
    assert connector.ssl_options["server_hostname"] == "::1"
    assert (connector._connection_host, connector._connection_port) == ("proxy.test", 3128)


@pytest.mark.parametrize("kill_with", [ClientDisconnected, gevent.GreenletExit])
def test_an_interrupted_handshake_leaves_no_descriptor(
    serve: Serve, pools: list[ConnectionPool], kill_with: type[BaseException]
) -> None:
    server = serve(quiet)
    pool = make(pools, server.origin.replace("http", "https"), timeout=20)
    caller = gevent.spawn(pool.connect)
    wait_until(lambda: bool(server.connections))
    caller.kill(kill_with)
    wait_until(server.connections[0].ended.is_set)


def test_connections_are_counted(serve: Serve, pools: list[ConnectionPool]) -> None:
    pool = make(pools, serve(quiet).origin)
    first = pool.connect()
    second = pool.connect()
    assert pool.acquire() is None
    for _ in range(3):
        pool.release(first)
        assert pool.acquire() is first
    assert (pool.made, pool.reused) == (2, 3)
    first.close()
    second.close()
