"""An estimate of the usage of a response whose upstream reports none: text, at 4 bytes a token.

Decoded text counts: the strings of a JSON document, or of the events of a stream. Framing, escapes,
compression, base64 and numbers of embeddings are not text. An estimate counts against limits; it
never replaces reported usage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from proxy.usage.body_reader import BodyReader
from proxy.usage.decompress import ENCODINGS, Inflater
from proxy.usage.large import LargeValue
from proxy.usage.sse import SseDecoder

BYTES_PER_TOKEN = 4

# Parameters of a request that a model reads.
_PROMPTS = (
    "messages",
    "prompt",
    "suffix",
    "input",
    "instructions",
    "system",
    "tools",
    "functions",
    "response_format",
    "text",
)
# Members with names in them: short strings there are not text.
_NAMES = frozenset(
    {
        "call_id",
        "finish_reason",
        "id",
        "object",
        "role",
        "status",
        "stop_reason",
        "stop_sequence",
        "tool_call_id",
        "tool_use_id",
        "type",
    }
)
_MAX_NAME = 64
# Members that may hold a file, or data that only the upstream can read.
_FILES = frozenset({"b64_json", "data", "encrypted_content", "file_data", "signature"})
# The beginning of base64, of a data URL too.
_BASE64 = re.compile(r"(?:data:[^,\s]{0,128}+,)?+[A-Za-z0-9+/_-]*+=*+\s*+")
_DATA_URL = re.compile(r"data:[^,\s]{0,128};base64,")
_MATCHED_BYTES = 4096
# Values that are visited: 10 ms of the event loop. Only arrays of token numbers have as many.
_MAX_VALUES = 100_000
# A response in one piece that is larger is not parsed.
_MAX_WHOLE = 1024 * 1024
_MAX_EVENT = 1024 * 1024
_SSE_FIELDS = (b"data", b"event", b"id", b"retry", b":")


def tokens_of(text_bytes: int) -> int:
    """Return LLM tokens, rounded up."""
    return -(-text_bytes // BYTES_PER_TOKEN)


def prompt_bytes(parameters: Mapping[str, Any], body_bytes: int) -> int:
    """Return the bytes of text in the parameters of a request with a body of `body_bytes`."""
    return text_bytes([parameters.get(name) for name in _PROMPTS], body_bytes)


def text_bytes(value: object, max_bytes: int = _MAX_WHOLE) -> int:
    """Return the UTF-8 bytes of the strings in a decoded JSON value.

    A number counts as one token. A value with too many parts counts as `max_bytes`.
    """
    size = values = 0
    rest = [value]
    while rest:
        item = rest.pop()
        values += 1
        if values > _MAX_VALUES:
            return max_bytes
        if isinstance(item, str):
            if not (_DATA_URL.match(item) and _is_base64(item)):
                size += len(item) if item.isascii() else len(item.encode(errors="replace"))
        elif isinstance(item, dict):
            for name, member in item.items():
                if not (isinstance(member, str) and _is_no_text(name, member)):
                    rest.append(member)
        elif isinstance(item, list):
            rest += item
        elif type(item) is int:
            size += BYTES_PER_TOKEN
        elif isinstance(item, LargeValue):
            size += item.text
    return size


def _is_no_text(name: str, value: str) -> bool:
    if name in _NAMES:
        return len(value) <= _MAX_NAME
    return name in _FILES and _is_base64(value)


def _is_base64(value: str) -> bool:
    """Return whether a string is base64, which has no blanks.

    Only the beginning is matched: a match of megabytes would hold up other requests.
    """
    if " " in value or not value.isascii():
        return False
    return _BASE64.fullmatch(value[:_MATCHED_BYTES]) is not None


def response_bytes(response: object) -> int:
    """Return the bytes of text that a model wrote in a complete response.

    It knows chat completions, completions, the Responses API and Anthropic's messages. Embeddings
    have no text.
    """
    if not isinstance(response, dict):
        return 0
    choices = response.get("choices")
    if isinstance(choices, list):
        return _choices_bytes(choices)
    return text_bytes([response.get("output"), response.get("content")])


def event_bytes(event: object) -> int:
    """Return the bytes of text that one event of a stream adds."""
    if not isinstance(event, dict):
        return 0
    choices = event.get("choices")
    if isinstance(choices, list):
        return _choices_bytes(choices)
    kind = event.get("type")
    if isinstance(kind, str) and kind.endswith("audio.delta"):  # base64
        return 0
    return text_bytes(event.get("delta"))


def _choices_bytes(choices: list[object]) -> int:
    names = ("delta", "text", "message")
    found = [choice.get(name) for choice in choices if isinstance(choice, dict) for name in names]
    return text_bytes(found)


class ResponseText(BodyReader):
    """A body observer that counts the text of one response: `feed`, `finish`, then `size`.

    The first bytes decide its kind. It never raises. Bytes that cannot be read (broken compression,
    an encoding other than gzip and deflate) add nothing.
    """

    __slots__ = ("_decoder", "_held", "_more", "_size")

    def __init__(self, content_type: str, content_encoding: str) -> None:
        encoding = content_encoding.strip().lower()
        self._inflater = Inflater(encoding) if encoding in ENCODINGS else None
        self._decoder: SseDecoder | None = None
        self._size = 0
        # Of a response that is no stream: its beginning, and the number of bytes behind it.
        self._held = bytearray()
        self._more = 0
        self._take = None
        if self._inflater is not None or encoding in ("", "identity"):
            is_stream = content_type.lower().startswith("text/event-stream")
            self._take = self._open_stream() if is_stream else self._begin

    def finish(self, complete: bool) -> None:
        """End the last event, which counts even if it was cut."""
        if self._decoder is not None:
            self.feed(b"" if self._inflater else b"\n\n")  # an event without its blank line

    def size(self) -> int:
        """Return the bytes of text of the finished response."""
        if self._decoder is not None:
            return self._size
        held = bytes(self._held).removeprefix(b"\xef\xbb\xbf").strip()
        if not self._more:
            try:
                return response_bytes(orjson.loads(held))
            except orjson.JSONDecodeError:
                pass
        # Cut short, very large, or not JSON: nearly all of it is text.
        return len(held) + self._more

    def _begin(self, chunk: bytes) -> None:
        self._buffer(chunk)
        start = bytes(self._held[:64]).removeprefix(b"\xef\xbb\xbf").lstrip()
        if len(start) >= 8:
            if start.startswith(_SSE_FIELDS):
                held, self._held = bytes(self._held), bytearray()
                self._take = self._open_stream()
                self._take(held)
            else:
                self._take = self._buffer

    def _buffer(self, chunk: bytes) -> None:
        if self._more or len(self._held) + len(chunk) > _MAX_WHOLE:
            self._more += len(chunk)
        else:
            self._held += chunk

    def _open_stream(self) -> Callable[[bytes], None]:
        self._decoder = SseDecoder(_MAX_EVENT)
        return self._read_events

    def _read_events(self, chunk: bytes) -> None:
        assert self._decoder is not None  # noqa: S101
        for event in self._decoder.feed(chunk):
            try:
                self._size += event_bytes(orjson.loads(event.data))
            except orjson.JSONDecodeError:
                continue  # `[DONE]`
