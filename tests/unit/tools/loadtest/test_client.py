"""proxy/tools/loadtest/connection.py: what one request measures, and what a broken answer is
called."""

import selectors
import time
from collections.abc import Generator
from typing import Any

import pytest

from proxy.tools.loadtest.connection import Address, Asked, Client, Sample
from proxy.tools.verify.raw_client import Endpoint
from tests.support.bench_server import OK, Serve, serve
from tests.support.wait import wait_until

__all__ = ["serve"]

REQUEST = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"


def client_of(url: str, method: str = "GET", *, stream: bool = False) -> Client:
    address = Address.of(Endpoint(url), "127.0.0.1")
    return Client(Asked(address, method, REQUEST, stream), selectors.DefaultSelector())


#: How far apart the times are that a client is sent: more than any real ones.
STEP = 1000.0


def ask(client: Client, woken: list[int] | None = None) -> Sample:
    """Run one call, connected before; the n-th time that it is sent is n steps late.

    ``woken`` counts along.
    """
    finish(client, client.connect(), [])
    sample = finish(client, client.call(), [] if woken is None else woken)
    assert isinstance(sample, Sample)
    return sample


def finish(client: Client, steps: Generator[None, float, Any], woken: list[int]) -> Any:
    try:
        next(steps)
        while True:
            if client.channel._selector.select(10):
                woken.append(len(woken) + 1)
                steps.send(time.perf_counter() + len(woken) * STEP)
    except StopIteration as end:
        return end.value


def test_times_are_those_it_is_sent(serve: Serve) -> None:
    sample = ask(client_of(serve([OK]).url))
    assert sample.succeeded
    assert sample.head == sample.total == pytest.approx(STEP, abs=STEP / 10)


def test_head_and_body_are_told_apart(serve: Serve) -> None:
    woken: list[int] = []
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
    timing = b"x-upstream-request-start: 1000\r\nX-UPSTREAM-Request-Stop: 2001000\r\n\r\n"
    until = lambda count: lambda: wait_until(lambda: len(woken) == count)  # noqa: E731
    script = [head + timing, until(1), b"2\r\nok\r\n", until(2), b"0\r\n\r\n"]
    sample = ask(client_of(serve(script).url), woken)
    assert sample.upstream == 0.002
    assert sample.head == pytest.approx(STEP, abs=STEP / 10)
    assert sample.total == pytest.approx(3 * STEP, abs=STEP / 10)
    assert sample.events == 0


def test_the_connection_is_used_again_and_closed_when_told(serve: Serve) -> None:
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: Close\r\n\r\n")
    server = serve([OK], [closing, None], [OK])
    client = client_of(server.url)
    assert [ask(client).status for _ in range(4)] == [200] * 4
    assert (server.connections, client.channel.opened) == (2, 2)


def test_a_body_until_the_close(serve: Serve) -> None:
    server = serve([b"HTTP/1.0 200 OK\r\n\r\nsome", b"thing", None])
    client = client_of(server.url)
    assert [ask(client).status for _ in range(2)] == [200, 200]
    assert client.channel.opened == 2


def test_interim_answers_are_no_answers(serve: Serve) -> None:
    server = serve([b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK])
    assert ask(client_of(server.url)).status == 200


def test_an_answer_to_head_has_no_body(serve: Serve) -> None:
    server = serve([b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"])
    assert ask(client_of(server.url, "HEAD")).succeeded


def test_events(serve: Serve) -> None:
    woken: list[int] = []
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    event, ping = b"9\r\ndata: 1\n\n\r\n", b"8\r\n: ping\n\n\r\n"
    until = lambda count: lambda: wait_until(lambda: len(woken) == count)  # noqa: E731
    script = [head, until(1), event * 2, until(2), ping, until(3), event + b"0\r\n\r\n"]
    sample = ask(client_of(serve(script).url, stream=True), woken)
    assert sample.events == 3
    assert sample.first_event == pytest.approx(2 * STEP, abs=STEP / 10)
    assert sample.stall == pytest.approx(2 * STEP, abs=STEP / 10)
    assert sample.total == pytest.approx(4 * STEP, abs=STEP / 10)


def test_the_code_of_an_error(serve: Serve) -> None:
    head = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\n\r\n"
    found = []
    for code in (b'"token_expired"', b'"sk-secret"', b"7", b"null"):
        body = b'{"error": {"message": "sk-secret", "code": ' + code + b"}}"
        found.append(ask(client_of(serve([head % len(body) + body]).url)))
    assert [sample.code for sample in found] == ["token_expired", "", "", ""]
    assert not any(sample.succeeded for sample in found)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ([b"HTTP/1.1 200 OK\r\nContent-Le", None], "before the end of the response head"),
        ([None], "before the end of the response head"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", None], "cut off"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", None], "cut off"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"], "not a number"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nok"], "more came"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n\r\n"], "not HTTP"),
        ([b"HTTP/1.1 OK\r\n\r\n"], "not HTTP"),
        ([b"HTTP/1.1 200 OK\r\n" + b"a" * 300_000], "too much came"),
    ],
)
def test_broken_answers(serve: Serve, script: list[bytes | None], problem: str) -> None:
    client = client_of(serve(script, [OK]).url)
    broken = ask(client)
    assert (broken.status, broken.succeeded) == (0, False)
    assert problem in broken.problem
    assert ask(client).succeeded  # on a new connection


def test_nobody_there(serve: Serve) -> None:
    server = serve([OK])
    client = client_of(server.url)
    server.stop()
    assert ask(client).problem == "Connection refused"
