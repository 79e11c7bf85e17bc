"""The one request that everybody sends: the head of the official Python SDK and a small chat.

Made once as bytes; wrk, the blocking client and the asyncio client all send these bytes.
"""

import json
from collections.abc import Mapping
from typing import Final

MODEL: Final = "gpt-4.1-mini"
CHAT_PATH: Final = "/v1/chat/completions"
_QUESTION: Final = (
    "Explain in two short sentences what a reverse proxy does, and name one reason to put one "
    "between an application and a language model."
)
_HEADERS: Final = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "User-Agent": "OpenAI/Python 2.8.1",
    "X-Stainless-Lang": "python",
    "X-Stainless-Package-Version": "2.8.1",
    "X-Stainless-OS": "Linux",
    "X-Stainless-Arch": "x64",
    "X-Stainless-Runtime": "CPython",
    "X-Stainless-Runtime-Version": "3.11.7",
    "X-Stainless-Async": "false",
    "X-Stainless-Retry-Count": "0",
    "X-Stainless-Read-Timeout": "600",
    "Accept-Encoding": "gzip, deflate",
    "Connection": "keep-alive",
}


def chat_body(*, stream: bool) -> bytes:
    """About 300 bytes of JSON."""
    body = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a terse assistant."},
            {"role": "user", "content": _QUESTION},
        ],
        "temperature": 0.2,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body, separators=(",", ":")).encode()


def chat(port: int, token: str, more: Mapping[str, str], *, stream: bool = False) -> bytes:
    """A POST of a chat; ``more`` are headers that only some contender needs."""
    body = chat_body(stream=stream)
    length = {"Content-Length": str(len(body))}
    return _head("POST", CHAT_PATH, port, token, {**_HEADERS, **more, **length}) + body


def download(port: int, token: str, path: str) -> bytes:
    """A GET of a file, after which the connection is closed."""
    return _head("GET", path, port, token, {"Accept": "*/*", "Connection": "close"})


def _head(method: str, path: str, port: int, token: str, headers: Mapping[str, str]) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"Authorization: Bearer {token}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()
