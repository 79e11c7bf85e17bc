"""The request that ``manage.py bench`` repeats, made of its options.

It is made once as bytes, so that no work on it is measured.

Note: a value of an option could hold a line end and become a header of its own, so such a value is
refused as wrong usage.
"""

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import click
import orjson

from proxy.cli.client import base_url
from proxy.tools.loadtest.connection import Address, Asked
from proxy.tools.verify.raw_client import Endpoint, Unreachable

CHAT: Final = "/v1/chat/completions"
_DEFAULT_BODY: Final = {
    "model": "gpt-4.1-mini",
    "messages": [{"role": "user", "content": "Say hello."}],
}
_VISIBLE: Final = re.compile(r"[!-~]+")  # without characters that end a line or a word
_METHOD: Final = re.compile(r"[A-Z][A-Z-]*")


@dataclass(frozen=True, slots=True)
class Request:
    """The checked request. With ``body`` None no length is sent. Raises BadParameter."""

    method: str
    endpoint: str
    body: bytes | None

    def __post_init__(self) -> None:
        if not _METHOD.fullmatch(self.method):
            raise click.BadParameter("expected a method's name", param_hint="--method")
        if not (self.endpoint.startswith("/") and _VISIBLE.fullmatch(self.endpoint)):
            raise click.BadParameter("expected a path: /v1/…", param_hint="--endpoint")

    def to(self, at: Endpoint, bearer: str, stream: bool) -> Asked:
        """Raises :class:`Unreachable`."""
        parts = urlsplit(at.url)
        lines = [
            f"{self.method} {at.prefix}{self.endpoint} HTTP/1.1",
            f"Host: {parts.netloc}",
            f"Authorization: Bearer {bearer}",
            f"Accept: {'text/event-stream' if stream else 'application/json'}",
            "Accept-Encoding: identity",
            "User-Agent: openai-proxy-bench",
        ]
        if self.body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(self.body)}"]
        head = "\r\n".join([*lines, "", ""]).encode()
        try:
            address = Address.of(at, parts.hostname or "")
        except Unreachable as error:
            raise Unreachable(f"no response from {at.url}: {error}") from error
        return Asked(address, self.method, head + (self.body or b""), stream)


def body(given: str | None, method: str, endpoint: str, *, stream: bool) -> bytes | None:
    """Returns the body to send: ``given`` unchanged, except for ``"stream": true`` on request."""
    if given is None:
        if method == "POST" and endpoint == CHAT:
            return orjson.dumps({**_DEFAULT_BODY, "stream": True} if stream else _DEFAULT_BODY)
        return None if method in ("GET", "HEAD") else b""
    try:
        content: Any = orjson.loads(given)
    except orjson.JSONDecodeError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--json") from error
    if stream and isinstance(content, dict) and not content.get("stream"):
        return orjson.dumps({**content, "stream": True})
    return given.encode()


def endpoint_of(url: str, option: str) -> Endpoint:
    """Raises BadParameter; its message does not quote ``url``, which may hold a password."""
    try:
        if urlsplit(url).port == 0 or any(sign in url for sign in "@?#") or not url.isascii():
            raise ValueError
        return Endpoint(base_url(url))
    except (ValueError, click.BadParameter):
        message = "expected http(s)://host[:port][/prefix]"
        raise click.BadParameter(message, param_hint=option) from None
