"""One connection that is always ready, and the others of the same worker: they are served between.

Counted, not timed: how many requests of another client are answered while the first one's are.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from tests.support.fake_upstream import Upstream
from tests.support.raw_client import RawClient
from tests.support.server import ProxyServer


@pytest.fixture(scope="module")
def single(
    tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream
) -> Iterator[ProxyServer]:
    """One worker, so that all are on the same loop."""
    folder = tmp_path_factory.mktemp("turns")
    server = ProxyServer(folder, session_upstream.url, WEB_CONCURRENCY="1").start()
    yield server
    assert server.stop() == 0, server.log_text()


def served_meanwhile(server: ProxyServer, flood: Any) -> int:
    """How many requests of another client are answered until ``flood`` has ended."""
    served = 0
    with RawClient(server.port) as other:
        while not flood.dead:
            other.request("GET", "/health")
            assert other.read_response().status == 200
            served += 1
    flood.get()
    return served


@pytest.mark.parametrize("target", ["/v1/a", "/health", "/nowhere"])
def test_pipelined_requests_take_one_turn_each(single: ProxyServer, target: str) -> None:
    count = 3000

    def flood() -> None:
        request = f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        with RawClient(single.port) as client:
            sending = gevent.spawn(client.send, request * count)
            # The others are counted once the flood has come to the server.
            for _ in range(count):
                client.read_response()
            sending.get()

    assert served_meanwhile(single, gevent.spawn(flood)) > count / 20


@pytest.mark.parametrize("target", ["/health", "/nowhere", "/manage/projects", "/v1/files"])
def test_a_body_of_tiny_chunks_is_refused_or_left(single: ProxyServer, target: str) -> None:
    """And its connection closed: what follows cannot be told from the body's rest."""
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with RawClient(single.port) as client:
        client.send(head + b"1\r\nx\r\n" * 10)
        sending = gevent.spawn(_send_or_fail, client, b"1\r\nx\r\n" * 1_000_000 + b"0\r\n\r\n")
        assert client.read_response().status in (400, 401, 404, 405)
        while client.receive_more():
            pass
        assert client.take() == b"", "nothing after the one response"
        sending.get(timeout=20)


def _send_or_fail(client: RawClient, data: bytes) -> None:
    with contextlib.suppress(OSError):
        client.send(data)
