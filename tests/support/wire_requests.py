"""Requests of the upstream adapter to a `WireServer`, and the types of the fixtures for them."""

from collections.abc import Callable
from typing import Any

import requests

from proxy.upstream.http1_codec import HeaderPairs
from tests.support.wire_server import WireServer

Serve = Callable[..., WireServer]
Ask = Callable[..., requests.Response]


def prepared(
    method: str, url: str, headers: list[tuple[str, str]] | None = None, body: Any = None
) -> requests.PreparedRequest:
    request = requests.PreparedRequest()
    request.method, request.url, request.body = method, url, body
    lines = HeaderPairs(headers or [("Host", "upstream.test")])
    if isinstance(body, bytes):
        lines.append(("Content-Length", str(len(body))))
    request.headers = lines  # type: ignore[assignment]
    return request


def read_all(response: requests.Response) -> bytes:
    parts = []
    while part := response.raw.read1():
        parts.append(part)
    return b"".join(parts)
