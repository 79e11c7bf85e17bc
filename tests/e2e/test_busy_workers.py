"""Connections that never pause: every answer has its event, whatever the loop is busy with."""

import re

import gevent
import gevent.socket
import pytest
import requests
from gevent.server import StreamServer

from tests.support.proxy_access import Access, ProxyFactory
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

CONNECTIONS = 50
#: Of each connection: many times what the queue of these tests holds.
REQUESTS = 200
QUEUE = 200

_BODY = b'{"id":"c","object":"chat.completion","model":"m","choices":[],"usage":{"prompt_tokens":1,'
_BODY += b'"completion_tokens":1,"total_tokens":2}}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


def answer_all(sock: gevent.socket.socket, _address: object) -> None:
    """Whatever comes in one piece is one request: cheaper than the worker that is to be busy."""
    while sock.recv(65536):
        sock.sendall(_ANSWER % (len(_BODY), _BODY))


def ask_without_pause(server: ProxyServer, access: Access, statuses: list[bytes]) -> None:
    chat = b'{"model":"m","messages":[]}'
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
    ) % (access.token.encode(), len(chat), chat)
    sock = gevent.socket.create_connection(("127.0.0.1", server.port), timeout=120)
    for _ in range(REQUESTS):
        sock.sendall(request)
        answer = b""
        while not answer.endswith((_BODY, b"}}")):
            piece = sock.recv(65536)
            assert piece, answer
            answer += piece
        statuses.append(answer[9:12])
    sock.close()


@pytest.mark.parametrize("mode", ["wait", "refuse"])
def test_every_answer_has_an_event(own_proxy: ProxyFactory, mode: str) -> None:
    upstream = StreamServer(("127.0.0.1", 0), answer_all)
    upstream.start()
    server, access = own_proxy.started(
        WEB_CONCURRENCY="1",
        EVENT_QUEUE_SIZE=str(QUEUE),
        EVENT_QUEUE_FULL=mode,
        UPSTREAM_BASE_URL=f"http://127.0.0.1:{upstream.server_port}",
    )
    statuses: list[bytes] = []
    asking = [gevent.spawn(ask_without_pause, server, access, statuses) for _ in range(CONNECTIONS)]
    gevent.joinall(asking, raise_error=True)
    upstream.stop()
    total = CONNECTIONS * REQUESTS
    assert len(statuses) == total
    assert set(statuses) <= ({b"200"} if mode == "wait" else {b"200", b"503"})

    def events() -> list[str]:
        lines = server.event_log.read_text().splitlines()
        return [line for line in lines if '"event":"audit"' not in line]

    answered = statuses.count(b"200")
    wait_until(lambda: sum('"status_code":200' in line for line in events()) >= answered, 60)
    assert sum('"status_code":200' in line for line in events()) == answered
    if mode == "wait":
        assert len(events()) == total
    figures = requests.get(f"{server.url}/metrics", timeout=30).text
    lost = re.findall(
        r"^proxy_(?:events_dropped|inflight_table_full)_total(?:{.*?})? (.*)", figures, re.M
    )
    assert len(lost) > 4
    assert set(map(float, lost)) == {0.0}
    assert server.stop() == 0
    assert len(events()) == len(set(events()))
