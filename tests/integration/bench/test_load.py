"""The clients and the streaming upstream, against each other."""

import asyncio
import json
import socket

import pytest
from gevent.server import StreamServer

from bench.load.blocking import BlockingClient
from bench.load.connection import Response, connect
from bench.load.message import chat, chat_body
from bench.load.steady import steadily
from bench.load.wrk import LoadFailed, parse
from bench.processes import free_port
from bench.servers.chat import ANSWER, HEADERS
from bench.servers.sse import serve


def test_the_request_is_that_of_an_sdk() -> None:
    head, _, body = chat(80, "sk-x", {"x-more": "1"}, stream=True).partition(b"\r\n\r\n")
    names = [line.partition(b":")[0].lower() for line in head.splitlines()[1:]]
    assert len(names) == len(set(names)) == 17 + len(["x-more"])
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body)["stream"] is True
    assert 250 <= len(chat_body(stream=False)) <= 350
    assert 600 <= len(ANSWER) <= 900
    # Server, Date, Content-Type, Content-Length and Connection come from the server.
    assert len(HEADERS) + 5 == 22


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", "cut off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", "cut off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "end of the response head"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "not 200"),
    ],
)
def test_a_latency_is_that_of_a_whole_answer(response: bytes, problem: str | None) -> None:
    def send(connection: socket.socket, _: object) -> None:
        connection.recv(65536)
        for at in range(0, len(response), 7):
            connection.sendall(response[at : at + 7])
        connection.close()

    server = StreamServer(("127.0.0.1", 0), send)
    server.start()
    try:
        with BlockingClient(server.server_port, b"GET / HTTP/1.1\r\n\r\n") as client:
            if problem is None:
                assert client.ask() > 0
            else:
                with pytest.raises(LoadFailed, match=problem):
                    client.ask()
    finally:
        server.stop()


RESULT = (
    'RESULT {"requests": %d, "duration_us": 2000000, "not_2xx": %d, "broken": %d, '
    '"max_us": 9000, "p50_us": 1000, "p99_us": 5000}\n'
)


def test_what_wrk_says() -> None:
    load = parse("Running 2s test\n" + RESULT % (400, 0, 0))
    assert (load.requests, load.seconds, load.p50_ms, load.longest_ms) == (400, 2.0, 1.0, 9.0)


@pytest.mark.parametrize("output", ["", RESULT % (0, 0, 0), RESULT % (9, 1, 0), RESULT % (9, 0, 1)])
def test_a_run_with_failures_does_not_count(output: str) -> None:
    with pytest.raises(LoadFailed):
        parse(output)


async def _beside_upstream(events: int, request_count: int, *, stream: bool) -> list[Response]:
    """Answers to requests on one connection."""
    port = free_port()
    server = asyncio.create_task(serve(port, events, 0.005))
    try:
        for _ in range(200):
            try:
                connection = await connect(port)
                break
            except OSError:
                await asyncio.sleep(0.01)
        request = chat(port, "sk-x", {}, stream=stream)
        responses = [await connection.ask(request) for _ in range(request_count)]
        connection.close()
        return responses
    finally:
        server.cancel()


def test_a_stream_has_all_its_events_each_by_itself_and_an_end() -> None:
    for response in asyncio.run(_beside_upstream(7, 2, stream=True)):
        assert (response.status, response.events, response.complete) == (200, 7, True)
        assert response.done_seen
        assert response.first_byte < response.total


def test_a_chat_without_a_stream_is_answered_at_once() -> None:
    for response in asyncio.run(_beside_upstream(7, 2, stream=False)):
        assert (response.status, response.complete, response.done_seen) == (200, True, False)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut"])
def test_a_cut_answer_is_not_complete(sent: bytes) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        writer.close()

    async def ask() -> Response:
        server = await asyncio.start_server(cut, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await (await connect(port)).ask(chat(port, "sk-x", {}))

    assert not asyncio.run(ask()).complete


def test_a_steady_load_counts_what_failed() -> None:
    async def refuse() -> int:
        return (await steadily(free_port(), b"", per_second=100, seconds=0.05)).failed

    assert asyncio.run(refuse()) == 5
