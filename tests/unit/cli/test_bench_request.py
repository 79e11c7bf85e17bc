"""proxy/cli/benchrequest.py: the bytes that go out, and options that cannot become any."""

import click
import orjson
import pytest

from proxy.cli.benchrequest import CHAT, Request, body, endpoint_of
from tests.support.bench_server import OK, Serve, serve

__all__ = ["serve"]


def test_the_bytes(serve: Serve) -> None:
    url = serve([OK]).url
    at = endpoint_of(f"{url}/prefix/v1/", "--base-url")
    asked = Request("POST", "/v1/a%2Fb?x=1", b"{}").to(at, "sk-a", stream=False)
    host = url.removeprefix("http://")
    assert asked.request == (
        b"POST /prefix/v1/a%2Fb?x=1 HTTP/1.1\r\n"
        b"Host: " + host.encode() + b"\r\n"
        b"Authorization: Bearer sk-a\r\n"
        b"Accept: application/json\r\n"
        b"Accept-Encoding: identity\r\n"
        b"User-Agent: openai-proxy-bench\r\n"
        b"Content-Type: application/json\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    )
    bare = Request("GET", "/v1/models", None).to(at, "sk-a", stream=True).request
    assert b"Content-" not in bare
    assert b"Accept: text/event-stream\r\n" in bare


def test_bodies() -> None:
    default = orjson.loads(body(None, "POST", CHAT, stream=False) or b"")
    assert set(default) == {"model", "messages"}
    assert orjson.loads(body(None, "POST", CHAT, stream=True) or b"") == {**default, "stream": True}
    assert body(None, "GET", CHAT, stream=False) is None
    assert body(None, "POST", "/v1/files", stream=True) == b""
    given = '{ "model" : "é" }'
    assert body(given, "POST", CHAT, stream=False) == given.encode()
    assert body(given, "POST", CHAT, stream=True) == '{"model":"é","stream":true}'.encode()
    streamed = '{"stream": true }'
    assert body(streamed, "POST", CHAT, stream=True) == streamed.encode()
    assert body("[1]", "POST", CHAT, stream=True) == b"[1]"
    with pytest.raises(click.BadParameter):
        body("{", "POST", CHAT, stream=False)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET /", "/v1"), ("", "/v1"), ("GET", "v1"), ("GET", "/v1 HTTP/1.1\r\nA: b"), ("GET", "/é")],
)
def test_no_second_line(method: str, path: str) -> None:
    with pytest.raises(click.BadParameter):
        Request(method, path, None)


@pytest.mark.parametrize(
    "url",
    ["host", "ftp://host", "http://me:secret@host", "http://host:99999", "http://h/?q", "http://é"],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(click.BadParameter) as error:
        endpoint_of(url, "--compare-url")
    assert "secret" not in str(error.value)
