"""proxy/tools/loadtest/connection.py: connections over TCP and TLS that never block."""

import selectors
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import gevent
import pytest

from proxy.tools.loadtest.connection import Address, Channel
from proxy.tools.verify.raw_client import Endpoint, Unreachable
from tests.support.bench_server import OK, Serve, serve
from tests.support.certificates import Authority
from tests.support.wait import wait_until

__all__ = ["serve"]


def finish(channel: Channel, steps: Generator[None, float, Any]) -> Any:
    try:
        next(steps)
        while True:
            assert channel._selector.select(10), "waits for nothing"
            steps.send(time.perf_counter())
    except StopIteration as end:
        return end.value


def channel_to(url: str) -> Channel:
    channel = Channel(
        Address.of(Endpoint(url), "127.0.0.1"), selectors.DefaultSelector(), "the owner"
    )
    finish(channel, channel.open())
    return channel


def read(channel: Channel, count: int) -> bytes:
    data = b""
    while len(data) < count:
        ((key, _),) = channel._selector.select(10)
        assert key.data == "the owner"
        piece = channel.received()
        assert piece is not None
        data += piece
    return data


def test_there_and_back(serve: Serve) -> None:
    server = serve([OK])
    channel = channel_to(server.url)
    for _ in range(2):
        began = time.perf_counter()
        assert finish(channel, channel.send(b"ask")) >= began
        assert read(channel, len(OK)) == OK
    assert (channel.received(), channel.opened, server.connections) == (b"", 1, 1)
    channel.close()
    assert not channel.is_open
    assert not channel._selector.get_map()
    with pytest.raises(OSError, match="not connected"):
        channel.received()


def test_tls(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    answer = b"x" * 300_000  # many records, of which select must report each
    server = serve([answer], tls=authority.server("127.0.0.1"))
    with pytest.raises(Unreachable, match="TLS"):
        Address.of(Endpoint(server.url), "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    channel = channel_to(server.url)
    channel.close_if_stale()  # session tickets are nothing that was not asked for
    assert channel.is_open
    finish(channel, channel.send(b"ask"))
    assert read(channel, len(answer)) == answer
    channel.close()


def test_what_was_closed_meanwhile_is_stale(serve: Serve) -> None:
    server = serve([OK, None], [OK])
    channel = channel_to(server.url)
    finish(channel, channel.send(b"ask"))
    read(channel, len(OK))
    assert channel._selector.select(10)  # its end has arrived
    channel.close_if_stale()
    assert not channel.is_open
    finish(channel, channel.open())
    channel.close_if_stale()
    assert (channel.is_open, channel.opened) == (True, 2)
    channel.close()


def test_a_request_that_the_other_side_takes_slowly(serve: Serve) -> None:
    server = serve([lambda: gevent.sleep(0.1)], [])
    channel = channel_to(server.url)
    size = 8 * 1024 * 1024
    finish(channel, channel.send(b"x" * size))
    wait_until(lambda: sum(map(len, server.requests)) == size)
    channel.close()


def test_nobody_there(serve: Serve) -> None:
    server = serve([OK])
    address = Address.of(Endpoint(server.url), "127.0.0.1")
    server.stop()
    channel = Channel(address, selectors.DefaultSelector(), None)
    with pytest.raises(ConnectionRefusedError):
        finish(channel, channel.open())
    channel.close()
    with pytest.raises(Unreachable):
        Address.of(Endpoint(server.url), "127.0.0.1")
