"""Reading a streamed chat completion from a ``requests`` response, each delta as it arrives.

Not ``iter_lines``: with a chunk size of one byte it burns a core, with None it holds an answer
that is not chunked back to the very end. ``raw.read1`` returns what has arrived.
"""

from collections.abc import Iterator
from typing import Any

import orjson
import requests
import urllib3

_READ = 65536


class StreamBroken(Exception):
    """The answer ended before ``[DONE]``, or says an error in the middle."""


def deltas(response: requests.Response) -> Iterator[dict[str, Any]]:
    """The decoded chunks of a ``text/event-stream`` answer, up to ``[DONE]``.

    Reads on to the end of the body, so that the connection can be used again and the server does
    not see a client that left. Raises :class:`StreamBroken`.
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
    raise StreamBroken("the answer was cut off before its end")


def content(chunk: dict[str, Any]) -> str:
    """The text of a chat completion chunk; empty for the first, the last and the usage chunk."""
    choices = chunk.get("choices") or [{}]
    return (choices[0].get("delta") or {}).get("content") or ""


def _lines(response: requests.Response) -> Iterator[bytes]:
    """Complete lines, without their ends. A chunk may end inside a line, or inside a character."""
    rest = b""
    while True:
        try:
            received = response.raw.read1(_READ, decode_content=True)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise StreamBroken("the connection broke in the middle of the answer") from error
        if not received:
            break
        *complete, rest = (rest + received).split(b"\n")
        yield from (line.rstrip(b"\r") for line in complete)
    if rest:
        yield rest


def _message(error: Any) -> str:
    return str(error.get("message") or error) if isinstance(error, dict) else str(error)
