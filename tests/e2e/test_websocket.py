"""WebSockets through the proxy: a foreign implementation (wsproto) at both ends."""

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from gevent.event import Event
from gevent.server import StreamServer
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from tests.certificates import Authority
from tests.e2e.conftest import Access, Maker
from tests.e2e.test_refusals import error_of
from tests.rawclient import RawClient
from tests.server import UPSTREAM_KEY, ProxyServer
from tests.waiting import wait_until

USAGE = {"total_tokens": 9, "input_tokens": 4, "output_tokens": 5}
DONE = {"type": "response.done", "response": {"id": "resp_9", "usage": USAGE}}


class Realtime:
    """A server of the realtime API: says hello, echoes, and counts in `response.done`."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.headers: list[list[tuple[bytes, bytes]]] = []
        self.closed = Event()
        options = {"ssl_context": context} if context else {}
        self._server = StreamServer(("127.0.0.1", 0), self._serve, **options)
        self._server.start()
        scheme = "https" if context else "http"
        self.url = f"{scheme}://localhost:{self._server.server_port}"

    def stop(self) -> None:
        self._server.stop(timeout=1)

    def _serve(self, sock: socket.socket, address: object) -> None:
        talk = WSConnection(ConnectionType.SERVER)
        try:
            while data := sock.recv(65536):
                talk.receive_data(data)
                for event in talk.events():
                    self._answer(sock, talk, event)
        except OSError:
            pass
        finally:
            self.closed.set()
            sock.close()

    def _answer(self, sock: socket.socket, talk: WSConnection, event: object) -> None:
        if isinstance(event, Request):
            self.requests.append(event)
            if event.target.startswith("/v1/refuse"):
                head = RejectConnection(
                    status_code=403,
                    headers=[(b"Content-Type", b"application/json"), (b"Content-Length", b"2")],
                    has_body=True,
                )
                sock.sendall(talk.send(head) + talk.send(RejectData(data=b"{}")))
                return
            protocol = next(iter(event.subprotocols), None)
            created = {"type": "session.created", "session": {"model": "gpt-realtime"}}
            # The first message comes in one packet with the head.
            sock.sendall(
                talk.send(AcceptConnection(subprotocol=protocol))
                + talk.send(Message(data=json.dumps(created)))
            )
        elif isinstance(event, TextMessage) and event.message_finished:
            if event.data == "done":
                sock.sendall(talk.send(Message(data=json.dumps(DONE))))
            elif event.data == "drop":
                sock.close()
            else:
                sock.sendall(talk.send(Message(data=f"echo {event.data}")))
        elif isinstance(event, BytesMessage):
            sock.sendall(talk.send(Message(data=bytes(event.data))))
        elif isinstance(event, Ping | CloseConnection):
            sock.sendall(talk.send(event.response()))


class Client:
    """A WebSocket client on a plain socket."""

    def __init__(self, port: int, request: Request) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._talk = WSConnection(ConnectionType.CLIENT)
        self._events: list[object] = []
        self.sock.sendall(self._talk.send(request))

    def send(self, data: str | bytes) -> None:
        self.sock.sendall(self._talk.send(Message(data=data)))

    def ping(self) -> None:
        self.sock.sendall(self._talk.send(Ping(payload=b"p")))

    def close(self) -> None:
        self.sock.sendall(self._talk.send(CloseConnection(code=1000)))

    def next(self) -> object:
        while not self._events:
            data = self.sock.recv(65536)
            self._talk.receive_data(data or None)
            self._events.extend(self._talk.events())
        return self._events.pop(0)

    def text(self) -> str:
        data = ""
        while True:
            event = self.next()
            assert isinstance(event, TextMessage), event
            data += event.data
            if event.message_finished:
                return data


@pytest.fixture
def realtime() -> Iterator[Realtime]:
    server = Realtime()
    yield server
    server.stop()


def opening(token: str, target: str = "/v1/realtime?model=gpt-realtime") -> Request:
    headers = [(b"Authorization", f"Bearer {token}".encode()), (b"OpenAI-Beta", b"realtime=v1")]
    return Request(host="t", target=target, extra_headers=headers)


def converse(server: ProxyServer, access: Access, realtime: Realtime) -> None:
    client = Client(server.port, opening(access.token))
    accepted = client.next()
    assert isinstance(accepted, AcceptConnection)
    names = {name.lower() for name, _ in accepted.extra_headers}
    assert b"x-proxy-request-id" in names
    assert json.loads(client.text())["type"] == "session.created"
    client.send("hello")
    assert client.text() == "echo hello"
    client.ping()
    assert isinstance(client.next(), Pong)
    blob = bytes(range(256)) * 4000
    client.send(blob)
    got = b""
    while len(got) < len(blob):
        event = client.next()
        assert isinstance(event, BytesMessage)
        got += event.data
    assert got == blob
    client.send("done")
    assert json.loads(client.text()) == DONE
    client.send("done")
    assert json.loads(client.text()) == DONE
    client.close()
    assert isinstance(client.next(), CloseConnection)
    client.sock.close()
    assert realtime.closed.wait(20)
    sent = realtime.requests[-1]
    assert sent.target == "/v1/realtime?model=gpt-realtime"
    lines = {name.lower(): value for name, value in sent.extra_headers}
    assert lines[b"authorization"] == f"Bearer {UPSTREAM_KEY}".encode()
    assert lines[b"openai-beta"] == b"realtime=v1"
    assert sent.extensions == []
    (event,) = server.events(1)
    assert (event["status_code"], event["outcome"]) == (101, "completed")
    assert event["bytes_in"] > len(blob)
    assert event["bytes_out"] > len(blob)
    assert event["usage_source"] == "reported"
    assert event["metadata"]["total_tokens"] == 18
    assert event["metadata"]["model"] == "gpt-realtime"
    assert event["token_id"] == access.token_id


def test_a_conversation(own_proxy: Maker, realtime: Realtime) -> None:
    server, access = own_proxy.started(UPSTREAM_BASE_URL=realtime.url, WEB_CONCURRENCY="1")
    converse(server, access, realtime)
    converse(server, access, realtime)


def test_a_tls_upstream(own_proxy: Maker, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    realtime = Realtime(authority.server("localhost"))
    try:
        server, access = own_proxy.started(
            UPSTREAM_BASE_URL=realtime.url, SSL_CERT_FILE=str(authority.ca_file)
        )
        converse(server, access, realtime)
    finally:
        realtime.stop()


def test_a_browsers_token_comes_in_a_subprotocol(own_proxy: Maker, realtime: Realtime) -> None:
    server, access = own_proxy.started(UPSTREAM_BASE_URL=realtime.url)
    protocols = ["realtime", f"openai-insecure-api-key.{access.token}", "openai-beta.realtime-v1"]
    client = Client(server.port, Request(host="t", target="/v1/realtime", subprotocols=protocols))
    accepted = client.next()
    assert isinstance(accepted, AcceptConnection)
    assert accepted.subprotocol == "realtime"
    sent = realtime.requests[-1]
    assert sent.subprotocols == ["realtime", "openai-beta.realtime-v1"]
    lines = {name.lower(): value for name, value in sent.extra_headers}
    assert lines[b"authorization"] == f"Bearer {UPSTREAM_KEY}".encode()
    assert access.token not in repr(sent)
    client.sock.close()
    assert server.events(1)[0]["outcome"] == "completed"


def test_refusals_are_ours_or_the_upstreams(own_proxy: Maker, realtime: Realtime) -> None:
    server, access = own_proxy.started(UPSTREAM_BASE_URL=realtime.url)
    upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ]
    with RawClient(server.port) as client:
        client.request("GET", "/v1/realtime", upgrade)
        answer = client.read_answer()
        assert (answer.status, error_of(answer)) == (401, "invalid_token")
        assert not realtime.requests
        client.request("GET", "/v1/refuse", [access.bearer, *upgrade])
        answer = client.read_answer()
        assert (answer.status, answer.body) == (403, b"{}")
    assert [e["outcome"] for e in server.events(2)] == ["rejected", "completed"]


def test_both_sides_leaving_passes(own_proxy: Maker, realtime: Realtime) -> None:
    server, access = own_proxy.started(UPSTREAM_BASE_URL=realtime.url)
    client = Client(server.port, opening(access.token))
    client.next()
    client.text()
    client.sock.close()
    assert realtime.closed.wait(20), "a client that drops ends the upstream's connection"
    realtime.closed.clear()
    client = Client(server.port, opening(access.token))
    client.next()
    client.text()
    client.send("drop")
    assert client.sock.recv(100) == b"", "an upstream that drops ends the client's"
    client.sock.close()
    server.events(2)


def test_a_stop_ends_tunnels(own_proxy: Maker, realtime: Realtime) -> None:
    server, access = own_proxy.started(
        UPSTREAM_BASE_URL=realtime.url, WEB_CONCURRENCY="1", GRACEFUL_TIMEOUT="4"
    )
    client = Client(server.port, opening(access.token))
    client.next()
    client.text()
    server.terminate()
    last = client.next()
    assert isinstance(last, CloseConnection)
    assert (last.code, last.reason) == (1001, "draining")
    assert client.sock.recv(100) == b""
    assert server.wait() == 0
    (event,) = server.events(1)
    assert (event["outcome"], event["error_code"]) == ("aborted", "draining")


def test_an_unreachable_upstream_is_502(own_proxy: Maker) -> None:
    server, access = own_proxy.started(UPSTREAM_BASE_URL="http://127.0.0.1:9")
    with RawClient(server.port) as client:
        headers = [access.bearer, ("Connection", "Upgrade"), ("Upgrade", "websocket")]
        client.request("GET", "/v1/realtime", headers)
        answer = client.read_answer()
    assert (answer.status, error_of(answer)) == (502, "upstream_unreachable")
    wait_until(lambda: len(server.events(1)) == 1)
