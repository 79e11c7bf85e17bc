"""The requests of ``manage.py verify``: the built-in set, and requests from files.

A probe has neither ``Host`` nor ``Authorization`` nor a length: these differ between the two sides
that it is sent to.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

Headers = tuple[tuple[str, str], ...]

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
#: The codings that the proxy keeps in ``Accept-Encoding``; others would compare two encodings.
_METERED: Final = frozenset({"gzip", "x-gzip", "deflate", "identity"})
_SET_BY_US: Final = frozenset({"host", "authorization", "content-length"})
_COUNT: Final = [{"role": "user", "content": "Count from 1 to 40, one number a line."}]


@dataclass(frozen=True, slots=True)
class Probe:
    """One request. ``generative``: a successful response is made anew each time."""

    name: str
    method: str
    target: str
    headers: Headers = ()
    body: bytes = b""
    generative: bool = False

    @property
    def asks_for_cors(self) -> bool:
        """Whether it is a preflight, to which the proxy itself responds if CORS is configured."""
        names = {name.lower() for name, _ in self.headers}
        return self.method == "OPTIONS" and {"origin", "access-control-request-method"} <= names


def built_in(model: str) -> list[Probe]:
    """Returns seven probes that cost a few hundred tokens; the chats use ``model``."""
    chat = {"model": model, "messages": [{"role": "user", "content": "Say hello."}]}
    stream = {"model": model, "messages": _COUNT, "stream": True}
    stream["stream_options"] = {"include_usage": True}
    unknown = {**chat, "model": "no-such-model"}
    embeddings = {"model": "text-embedding-3-small", "input": "hello"}
    plain = (("Accept", "application/json"), ("Accept-Encoding", "identity"))
    return [
        Probe("models", "GET", "/v1/models", plain),
        _post("chat", "/v1/chat/completions", chat),
        _post("chat, streamed", "/v1/chat/completions", stream),
        _post("embeddings", "/v1/embeddings", embeddings),
        _post("unknown model", "/v1/chat/completions", unknown),
        Probe("head", "HEAD", "/v1/models", plain),
        Probe("odd path", "GET", "/v1/models/a%2Fb?a=1&a=2&empty=&plus=a+b&enc=%2f%20", plain),
    ]


def parse_request(name: str, data: bytes) -> Probe:
    """Parses a request as text: request line, header lines, empty line, body to the last byte.

    Raises ``ValueError``, which says what is wrong and quotes no header value.
    """
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator or b"\n\n" in head:
        head, _, body = data.partition(b"\n\n")
    line, *lines = head.decode("latin-1").replace("\r\n", "\n").rstrip("\n").split("\n")
    words = line.split(" ")
    if len(words) not in (2, 3) or not _TOKEN.fullmatch(words[0]):
        raise ValueError("line 1: expected a method and a path, such as `POST /v1/responses`")
    method, target = words[:2]
    if not target.startswith("/v1/") or not target.isprintable():
        raise ValueError("line 1: expected a path that starts with /v1/")
    headers = []
    for number, text in enumerate(lines, start=2):
        field, colon, value = text.partition(":")
        value = value.strip(" \t")
        if not colon or not _TOKEN.fullmatch(field) or any(c in value for c in "\r\0"):
            raise ValueError(f"line {number}: expected `Name: value`")
        if field.lower() == "transfer-encoding":
            raise ValueError(f"line {number}: the length is set here, leave Transfer-Encoding out")
        if field.lower() == "accept-encoding":
            value = _metered(value)
        if field.lower() not in _SET_BY_US:
            headers.append((field, value))
    return Probe(name, method, target, tuple(headers), body, generative=method == "POST")


def _post(name: str, target: str, body: dict[str, Any]) -> Probe:
    headers = (
        ("Accept", "application/json"),
        ("Accept-Encoding", "identity"),
        ("Content-Type", "application/json"),
    )
    return Probe(name, "POST", target, headers, orjson.dumps(body), generative=True)


def _metered(value: str) -> str:
    items = [item.strip() for item in value.split(",")]
    kept = [item for item in items if item.partition(";")[0].strip().lower() in _METERED]
    return ", ".join(kept) or "identity"
