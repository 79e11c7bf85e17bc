"""A second upstream, whose HTTP was written by somebody else: uvicorn with h11."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import openai
import pytest
import requests

from tests.support.comparable_response import comparable
from tests.support.ports import free_port
from tests.support.proxy_access import Access
from tests.support.raw_client import Headers, RawClient, RawResponse
from tests.support.server import ROOT, UPSTREAM_KEY, ProxyServer
from tests.support.wait import wait_until


@dataclass
class Both:
    """The ways to the same upstream."""

    server: ProxyServer
    access: Access
    direct_port: int

    def ask(
        self,
        method: str,
        target: str,
        headers: Headers,
        body: bytes,
    ) -> tuple[RawResponse, RawResponse]:
        """Direct, then relayed."""
        answers = []
        for port, token in (
            (self.direct_port, UPSTREAM_KEY),
            (self.server.port, self.access.token),
        ):
            with RawClient(port) as client:
                bearer = ("Authorization", f"Bearer {token}")
                client.request(method, target, [bearer, *headers], body)
                answers.append(client.read_response(method))
        return answers[0], answers[1]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.support.foreign_app:app", "--http", "h11"]
    options = ["--port", str(port), "--log-level", "warning", "--ws", "none", "--lifespan", "off"]
    with subprocess.Popen([*command, *options], cwd=ROOT) as uvicorn:
        try:
            wait_until(lambda: _answers(port))
            folder = tmp_path_factory.mktemp("foreign")
            url = f"http://127.0.0.1:{port}"
            server = ProxyServer(folder, url, WEB_CONCURRENCY="1").start()
            project = server.create_project()
            token = server.mint(project["id"])
            access = Access(project["id"], token["id"], token["token"])
            yield Both(server, access, port)
            assert server.stop() == 0
            assert "Traceback" not in server.log_text()
        finally:
            uvicorn.terminate()


def _answers(port: int) -> bool:
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"http://127.0.0.1:{port}/", timeout=5).status_code == 404
    return False


JSON_TYPE = ("Content-Type", "application/json")


@pytest.mark.parametrize(
    ("method", "target", "headers", "body"),
    [
        ("GET", "/v1/echo", [], b""),
        ("HEAD", "/v1/echo", [], b""),
        ("PUT", "/v1/echo/", [], b"x"),
        ("POST", "/v1/echo?a=1&a=2&b=&c=%2F+%zz&d", [JSON_TYPE], b'{"a": 1}'),
        ("PATCH", "/v1/echo", [("Content-Type", "text/plain")], bytes(range(256)) * 1000),
        ("DELETE", "/v1/nothing", [], b""),
        ("POST", "/v1/chat/completions", [JSON_TYPE], b'{"model": "foreign", "messages": []}'),
        ("POST", "/v1/chat/completions", [JSON_TYPE], b'{"stream": true, "messages": []}'),
        ("OPTIONS", "/v1/nothing", [("Origin", "https://a.example")], b""),
    ],
)
def test_raw(both: Both, method: str, target: str, headers: Headers, body: bytes) -> None:
    direct, relayed = both.ask(method, target, headers, body)
    assert comparable(relayed) == comparable(direct)
    assert both.server.events(1)[0]["outcome"] == "completed"


def test_a_chunked_upload(both: Both) -> None:
    bodies = []
    for port, token in ((both.direct_port, UPSTREAM_KEY), (both.server.port, both.access.token)):
        with RawClient(port) as client:
            client.send(
                b"POST /v1/echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n"
                b"Authorization: Bearer " + token.encode() + b"\r\n\r\n"
            )
            for size in (1, 10, 70_000):
                client.send(b"%x\r\n%b\r\n" % (size, b"u" * size))
            client.send(b"0\r\n\r\n")
            bodies.append(client.read_response().body)
    assert bodies[0] == bodies[1]
    assert bodies[1].endswith(b"u" * 70_011)
    both.server.events(1)


def test_chunks_as_they_come(both: Both) -> None:
    with RawClient(both.server.port) as client:
        client.request("GET", "/v1/step", [both.access.bearer])
        client.read_head()
        for number in range(5):
            go = requests.post(f"http://127.0.0.1:{both.direct_port}/v1/go", timeout=20)
            assert go.status_code == 204
            assert client.read_chunk() == b"step %d" % number
        assert client.read_chunk() == b""
    both.server.events(1)


def test_the_official_client(both: Both) -> None:
    seen = []
    for url, key in (
        (f"http://127.0.0.1:{both.direct_port}/v1", UPSTREAM_KEY),
        (f"{both.server.url}/v1", both.access.token),
    ):
        with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
            raw = client.chat.completions.with_raw_response.create(model="foreign", messages=[])
            stream = client.chat.completions.create(model="foreign", messages=[], stream=True)
            words = [event.choices[0].delta.content for event in stream]
            with pytest.raises(openai.NotFoundError) as caught:
                client.models.list()
            seen.append(
                (
                    raw.content,
                    raw.parse()._request_id,
                    words,
                    caught.value.code,
                    caught.value.body,
                    caught.value.request_id,
                )
            )
    assert seen[0] == seen[1]
    assert "".join(seen[1][2]) == "Grüße from elsewhere"
    events = both.server.events(3)
    assert [e["status_code"] for e in events] == [200, 200, 404]
    assert events[0]["metadata"]["total_tokens"] == 5
