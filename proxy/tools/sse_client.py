"""Reads a streamed chat completion from a ``requests`` response, each delta as it arrives.

Not by ``iter_lines``: with a chunk size of one byte it uses a whole core, with None it holds a
response that is not chunked back to the end. ``raw.read1`` returns the bytes that have arrived.
"""

from collections.abc import Iterator
from typing import Any

import orjson
import requests
import urllib3

_READ = 65536


class StreamBroken(Exception):
    """The response ended before ``[DONE]``, or contains an error."""


def deltas(response: requests.Response) -> Iterator[dict[str, Any]]:
    """Yields the decoded chunks of a ``text/event-stream`` response, up to ``[DONE]``.

    Reads to the end of the body, so that the connection can be reused and the server does not see a
    client that left. Raises :class:`StreamBroken`.
    """
    lines = _lines(response)
    for line in lines:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            for _ in lines:
                pass
            return
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise StreamBroken("the stream holds something that is not JSON") from error
        if isinstance(chunk, dict) and "error" in chunk:
            raise StreamBroken(_message(chunk["error"]))
        if isinstance(chunk, dict):
            yield chunk
    raise StreamBroken("the response was cut off before its end")


def content(chunk: dict[str, Any]) -> str:
    """Returns a chat completion chunk's text; empty for the first, last and usage chunk."""
    choices = chunk.get("choices") or [{}]
    return (choices[0].get("delta") or {}).get("content") or ""


def _lines(response: requests.Response) -> Iterator[bytes]:
    """Yields complete lines without their ends. A chunk may end inside a line or a character."""
    rest = b""
    while True:
        try:
            received = response.raw.read1(_READ, decode_content=True)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise StreamBroken("the connection broke in the middle of the response") from error
        if not received:
            break
        *complete, rest = (rest + received).split(b"\n")
        yield from (line.rstrip(b"\r") for line in complete)
    if rest:
        yield rest


def _message(error: Any) -> str:
    return str(error.get("message") or error) if isinstance(error, dict) else str(error)
