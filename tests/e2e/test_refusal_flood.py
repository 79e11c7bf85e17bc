"""Requests without a token, by the thousand, while a sink is away and the spool is small."""

import json
import socket
from typing import Any

import gevent
import requests

from proxy.events.spool.offsets import START
from proxy.events.spool.retention import writer_folders
from proxy.events.spool.segment import read_batch
from tests.support.ports import free_port
from tests.support.proxy_access import ProxyFactory
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

PAID = 20
FLOOD = 4000


def flood(server: ProxyServer, count: int) -> None:
    request = b"GET /v1/" + b"a" * 900 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    for _ in range(count):
        sock.sendall(request)
        answer = b""
        while not answer.endswith(b"}}"):
            answer += sock.recv(65536)
        assert answer.startswith(b"HTTP/1.1 401 ")
    sock.close()


def spooled(server: ProxyServer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for folder in writer_folders(server.folder / "data" / "spool"):
        batch = read_batch(folder, START, max_lines=100_000, max_bytes=1 << 30)
        found += [json.loads(line) for line in batch.lines]
    return found


def test_it_pushes_out_nothing_that_was_paid_for(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(
        WEB_CONCURRENCY="1",
        EVENT_LOG="off",
        SPOOL_MAX_BYTES="1MiB",
        LOGGING_URL=f"http://127.0.0.1:{free_port()}/",  # nobody is there, and nobody ships
    )
    for number in range(PAID):
        headers = {"Authorization": f"Bearer {access.token}", "X-Request-ID": f"paid-{number}"}
        assert requests.get(f"{server.url}/v1/models", headers=headers, timeout=30).ok
    gevent.joinall([gevent.spawn(flood, server, FLOOD // 8) for _ in range(8)], raise_error=True)

    def seen() -> int:
        text = requests.get(f"{server.url}/metrics", timeout=30).text
        return sum(
            int(float(line.rpartition(" ")[2]))
            for line in text.splitlines()
            if line.startswith("proxy_requests_total") and 'status="401"' in line
        )

    wait_until(lambda: seen() == FLOOD)  # all are counted, also those that are no lines
    assert server.stop() == 0
    events = spooled(server)
    paid = [each["request_id"] for each in events if each.get("request_id", "")[:5] == "paid-"]
    assert sorted(paid) == sorted(f"paid-{number}" for number in range(PAID))
    summaries = [each for each in events if each.get("event") == "rejected_summary"]
    assert {each["error_code"] for each in summaries} == {"invalid_token"}
    # What had a line of its own: as many as a minute may have, or of two when it turned meanwhile.
    assert 600 <= FLOOD - sum(each["count"] for each in summaries) <= 1200
