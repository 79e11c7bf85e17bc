"""Whether a response is complete, and says so: what is stored is served again and again.

A body that came whole may still be half a response: the model's server died, and a gateway ended
the stream in good order. So a body is stored only if it parses, has an output, and says that it has
ended: by a finish reason in each choice and `[DONE]`, by `response.completed`, by `message_stop`.
Refusals and filtered outputs are not stored, since the same request may fare better the next time.

An end that is not known here counts as none. It can only cause a miss.
"""

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, Protocol

import orjson

from proxy.core.media_type import is_event_stream, is_json
from proxy.runtime.yielding import STEP, turn_if_due
from proxy.upstream.headers import is_plain
from proxy.usage.decompress import Inflater
from proxy.usage.json_slices import decoded_in_turns
from proxy.usage.large import LargeObject, LargeValue
from proxy.usage.sse import SseDecoder, SseEvent

#: Bytes of a JSON body that is parsed at once, which takes less than a millisecond.
_AT_ONCE: Final = 64 * 1024
_MAX_MEMBERS: Final = 1000
_MAX_BRACKETS: Final = 1024 * 1024
#: Bytes that are inflated, at most.
_MAX_INFLATED: Final = 64 * 1024 * 1024
#: Bytes that are inflated between two looks at the clock.
_INFLATED_AT_ONCE: Final = 16 * 1024

#: Ends of a choice with an output that is what the model had to say, or all that was asked for: the
#: limit of a `length` is in the request.
_ENDED: Final = frozenset({"stop", "length", "tool_calls", "function_call", "eos"})
_FILTERED: Final = frozenset({"content_filter", "safety", "recitation", "sensitive", "refusal"})
#: The same in Anthropic's dialect.
_MESSAGE_ENDED: Final = frozenset({"end_turn", "max_tokens", "stop_sequence", "tool_use"})
#: In an error: it is about the content, or about a moment or the account, and may pass.
_PASSING_ERROR: Final = re.compile(
    r"polic|filter|moderat|safe|block|flag|refus|invalid_prompt|violat"
    r"|billing|quota|credit|balance|rate.?limit|overload|capacity|temporar|try again|unavailable",
    re.IGNORECASE,
)
#: Items of a response's output that are no output by themselves.
_NO_OUTPUT: Final = frozenset({"reasoning"})
_DONE: Final = b"[DONE]"


class Rejection(StrEnum):
    """Why a response is not stored."""

    # Told from its head.
    STATUS = "status"
    NO_STORE = "no_store"
    PRIVATE = "private"
    VARY = "vary"
    NO_CACHE = "no_cache"
    NO_FRESHNESS = "no_freshness"
    CONTENT_TYPE = "content_type"
    # Told from its body.
    INCOMPLETE = "incomplete"
    UNREADABLE = "unreadable"
    ERROR = "error"
    FILTERED = "filtered"
    EMPTY = "empty"
    BROKEN_ARGUMENTS = "broken_arguments"


class _Rejected(Exception):
    def __init__(self, reason: Rejection) -> None:
        super().__init__(reason)
        self.reason = reason


def body_verdict(
    status: int, content_type: str, content_encoding: str, path: str, body: bytes
) -> Rejection | None:
    """Return why a response is not stored; None: it is complete, and says so.

    `path` is that of the request. `body` came to its end, as far as HTTP can tell. Its head must
    have been found storable before. Lets other greenlets run if the body is large.
    """
    try:
        if is_json(content_type):
            document = _document(b"".join(_content(content_encoding, body)))
            if status >= 400:
                _judge_error(document)
            else:
                _judge_document(path, document)
        elif is_event_stream(content_type) and status < 300:
            _judge_stream(path, content_encoding, body)
        elif status >= 400:
            return Rejection.CONTENT_TYPE
        elif not body:
            return Rejection.EMPTY
    except _Rejected as rejected:
        return rejected.reason
    except (ValueError, TypeError, AttributeError, LookupError):
        # What is not of the shape that its dialect has.
        return Rejection.UNREADABLE
    return None


def _content(content_encoding: str, body: bytes) -> Iterator[bytes]:
    """Yield the content of the body, decompressed, with turns of the event loop."""
    if is_plain(content_encoding):
        yield body
        return
    inflater = Inflater(content_encoding.strip().lower(), max_total=_MAX_INFLATED)
    for start in range(0, len(body), _INFLATED_AT_ONCE):
        turn_if_due()
        yield from inflater.feed(body[start : start + _INFLATED_AT_ONCE])
    if not inflater.complete:
        raise _Rejected(Rejection.INCOMPLETE)


def _document(text: bytes) -> Any:
    """Return the decoded JSON. Of a large one, only what is looked at is decoded."""
    if len(text) <= _AT_ONCE:
        return orjson.loads(text)
    read = LargeObject(text, _MAX_MEMBERS, _MAX_BRACKETS)
    for _ in read.steps():
        turn_if_due()
    for member in read.members:
        name = orjson.loads(member.name)
        # Vectors and lists are not looked into.
        if name != "data" and isinstance(read.values[name], LargeValue):
            read.values[name] = decoded_in_turns(text, member.value_start, member.end)
    return read.values


# Whole bodies.


def _judge_error(document: Any) -> None:
    error = document.get("error")
    if not isinstance(error, dict):
        raise _Rejected(Rejection.UNREADABLE)
    inner = error.get("innererror")
    texts = [error.get(name) for name in ("code", "type", "message")]
    texts.append(inner.get("code") if isinstance(inner, dict) else None)
    if any(_PASSING_ERROR.search(str(text)) for text in texts if text is not None):
        raise _Rejected(Rejection.ERROR)


def _judge_document(path: str, document: Any) -> None:
    if isinstance(document, list) and path not in _JUDGES:
        return
    if not isinstance(document, dict):
        raise _Rejected(Rejection.UNREADABLE)
    _judge_no_error(document)
    judge = _JUDGES.get(path)
    if judge is not None:
        judge(document)
    elif not document or (path == "/v1/models" and not _is_filled(document.get("data"))):
        raise _Rejected(Rejection.EMPTY)


def _judge_no_error(document: Mapping[str, Any]) -> None:
    if document.get("error") is not None or document.get("type") == "error":
        raise _Rejected(Rejection.ERROR)


def _is_filled(value: object) -> bool:
    """Whether it is a list with items, perhaps one that was too large to be decoded."""
    return isinstance(value, LargeValue) or (isinstance(value, list) and bool(value))


def _judge_choices(document: Mapping[str, Any]) -> None:
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices:
        raise _Rejected(Rejection.EMPTY)
    for each in choices:
        choice = _Choice()
        choice.see(each, each.get("message"))
        choice.end()


def _judge_embeddings(document: Mapping[str, Any]) -> None:
    data = document.get("data")
    if not _is_filled(data) or (
        isinstance(data, list) and not all(item["embedding"] for item in data)
    ):
        raise _Rejected(Rejection.EMPTY)


def _judge_moderation(document: Mapping[str, Any]) -> None:
    if not _is_filled(document.get("results")):
        raise _Rejected(Rejection.EMPTY)


def _judge_response(document: Mapping[str, Any]) -> None:
    """https://platform.openai.com/docs/api-reference/responses/object"""
    if document.get("status") != "completed" or document.get("incomplete_details") is not None:
        raise _Rejected(Rejection.INCOMPLETE)
    has_output = False
    for item in document["output"]:
        if item.get("status", "completed") != "completed":
            raise _Rejected(Rejection.INCOMPLETE)
        kind = item["type"]
        if kind == "message":
            has_output = _has_parts(item["content"]) or has_output
        elif kind == "function_call":
            _judge_arguments(item["arguments"])
            has_output = True
        elif kind not in _NO_OUTPUT:
            has_output = True
    if not has_output:
        raise _Rejected(Rejection.EMPTY)


def _judge_message(document: Mapping[str, Any]) -> None:
    """https://docs.anthropic.com/en/api/messages"""
    _judge_stop_reason(document.get("stop_reason"))
    if not _has_parts(document["content"]):
        raise _Rejected(Rejection.EMPTY)


def _judge_stop_reason(reason: object) -> None:
    if reason in _FILTERED:
        raise _Rejected(Rejection.FILTERED)
    if reason not in _MESSAGE_ENDED:
        raise _Rejected(Rejection.INCOMPLETE)


def _has_parts(parts: Any) -> bool:
    """Whether parts of a content are an output. A refusal among them is raised."""
    found = False
    for part in parts:
        kind = part["type"]
        if kind == "refusal":
            raise _Rejected(Rejection.FILTERED)
        if kind in ("text", "output_text"):
            found = bool(part["text"].strip()) or found
        elif kind == "tool_use":
            if not isinstance(part["input"], dict):
                raise _Rejected(Rejection.BROKEN_ARGUMENTS)
            found = True
        elif kind not in ("thinking", "redacted_thinking"):
            found = True
    return found


def _judge_arguments(arguments: str) -> None:
    try:
        valid = isinstance(orjson.loads(arguments), dict)
    except orjson.JSONDecodeError:
        valid = False
    if not valid:
        raise _Rejected(Rejection.BROKEN_ARGUMENTS)


class _Choice:
    """One choice of a chat or a completion, whole or in chunks."""

    def __init__(self) -> None:
        self._finish_reason: object = None
        self._has_output = False
        self._is_refusal = False
        #: The arguments of each call, in pieces.
        self._arguments: dict[object, list[str]] = {}

    def see(self, choice: Mapping[str, Any], said: Mapping[str, Any] | None) -> None:
        """Take a choice, or a chunk of it. `said` is its message, or the part that is new."""
        if choice.get("finish_reason") is not None:
            self._finish_reason = choice["finish_reason"]
        text = choice.get("text")
        if isinstance(text, str) and text.strip():
            self._has_output = True
        if said is None:
            return
        content = said.get("content")
        if content:
            self._see_content(content)
        if said.get("audio") or said.get("images"):
            self._has_output = True
        if said.get("refusal"):
            self._is_refusal = True
        for call in said.get("tool_calls") or ():
            self._see_call(call)
        if said.get("function_call"):
            self._add("function_call", said["function_call"])

    def _see_content(self, content: Any) -> None:
        if isinstance(content, str):
            self._has_output = self._has_output or bool(content.strip())
        else:
            self._has_output = _has_parts(content) or self._has_output

    def _see_call(self, call: Mapping[str, Any]) -> None:
        self._has_output = True
        # A whole call has no index. A call of another kind has a text, which may be anything.
        if call.get("function"):
            self._add(call.get("index", len(self._arguments)), call["function"])

    def _add(self, index: object, function: Mapping[str, Any]) -> None:
        self._has_output = True
        pieces = self._arguments.setdefault(index, [])
        if function.get("arguments"):
            pieces.append(function["arguments"])

    def end(self) -> None:
        """Raise _Rejected unless the choice is complete."""
        reason = self._finish_reason
        if reason in _FILTERED or self._is_refusal:
            raise _Rejected(Rejection.FILTERED)
        if reason == "error":
            raise _Rejected(Rejection.ERROR)
        if reason not in _ENDED:
            raise _Rejected(Rejection.INCOMPLETE)
        for pieces in self._arguments.values():
            _judge_arguments("".join(pieces))
        if not self._has_output:
            raise _Rejected(Rejection.EMPTY)


_JUDGES: Final = {
    "/v1/chat/completions": _judge_choices,
    "/v1/completions": _judge_choices,
    "/v1/embeddings": _judge_embeddings,
    "/v1/moderations": _judge_moderation,
    "/v1/responses": _judge_response,
    "/v1/messages": _judge_message,
}


# Streams.


class _Stream(Protocol):
    """The events of a stream, in their order. Both methods raise _Rejected."""

    def see(self, event: SseEvent, data: Mapping[str, Any] | None) -> None:
        """Take one event. `data` is None for `[DONE]`."""

    def end(self) -> None: ...


class _Choices:
    """A stream of chat or completion chunks; it ends with `[DONE]`."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}
        self._done = False

    def see(self, event: SseEvent, data: Mapping[str, Any] | None) -> None:
        if data is None:
            self._done = True
            return
        for each in data.get("choices") or ():
            choice = self._choices.setdefault(each.get("index", 0), _Choice())
            choice.see(each, each.get("delta"))

    def end(self) -> None:
        if not self._done:
            raise _Rejected(Rejection.INCOMPLETE)
        if not self._choices:
            raise _Rejected(Rejection.EMPTY)
        for choice in self._choices.values():
            choice.end()


class _Response:
    """A stream of the Responses API. Its last event has the whole response."""

    def __init__(self) -> None:
        self._response: Mapping[str, Any] | None = None

    def see(self, event: SseEvent, data: Mapping[str, Any] | None) -> None:
        if data is None:
            return
        if self._response is not None:
            raise _Rejected(Rejection.UNREADABLE)
        kind = data.get("type", event.name)
        if kind == "response.failed":
            raise _Rejected(Rejection.ERROR)
        if kind == "response.completed":
            self._response = data["response"]

    def end(self) -> None:
        if self._response is None:
            raise _Rejected(Rejection.INCOMPLETE)
        _judge_no_error(self._response)
        _judge_response(self._response)


class _Message:
    """A stream of Anthropic's Messages API; it ends with `message_stop`.

    https://docs.anthropic.com/en/docs/build-with-claude/streaming
    """

    def __init__(self) -> None:
        self._open: set[object] = set()
        #: The arguments of each call, in pieces; Anthropic sends none for an empty object.
        self._arguments: dict[object, list[str]] = {}
        self._stop_reason: object = None
        self._has_output = False
        self._stopped = False

    def see(self, event: SseEvent, data: Mapping[str, Any] | None) -> None:
        if data is None:
            return
        kind, index = data.get("type", event.name), data.get("index")
        if kind == "content_block_start":
            self._open.add(index)
            block = data["content_block"]
            if block["type"] == "tool_use":
                self._arguments[index] = []
            # An empty text block is filled by what follows it.
            self._has_output = _has_parts([block]) or self._has_output
        elif kind == "content_block_delta":
            self._see_delta(index, data["delta"])
        elif kind == "content_block_stop":
            self._open.discard(index)
        elif kind == "message_delta":
            self._stop_reason = data["delta"].get("stop_reason") or self._stop_reason
        elif kind == "message_stop":
            self._stopped = True

    def _see_delta(self, index: object, delta: Mapping[str, Any]) -> None:
        if delta["type"] == "text_delta" and delta["text"].strip():
            self._has_output = True
        elif delta["type"] == "input_json_delta":
            self._arguments[index].append(delta["partial_json"])

    def end(self) -> None:
        if not self._stopped or self._open:
            raise _Rejected(Rejection.INCOMPLETE)
        _judge_stop_reason(self._stop_reason)
        for pieces in self._arguments.values():
            _judge_arguments("".join(pieces) or "{}")
        if not self._has_output:
            raise _Rejected(Rejection.EMPTY)


_STREAMS: Final[Mapping[str, type[_Choices] | type[_Response] | type[_Message]]] = {
    "/v1/chat/completions": _Choices,
    "/v1/completions": _Choices,
    "/v1/responses": _Response,
    "/v1/messages": _Message,
}


def _judge_stream(path: str, content_encoding: str, body: bytes) -> None:
    kind = _STREAMS.get(path)
    if kind is None:
        raise _Rejected(Rejection.CONTENT_TYPE)
    stream: _Stream = kind()
    # No event is larger than the whole.
    decoder = SseDecoder(max_event_bytes=_MAX_INFLATED)
    last = b""
    for piece in _content(content_encoding, body):
        for start in range(0, len(piece), STEP):
            chunk = piece[start : start + STEP]
            for event in decoder.feed(chunk):
                _see(stream, event)
            last = (last + chunk)[-4:]
            turn_if_due()
    # A CR ends a line by itself. After lines that end with CRLF, its LF is missing.
    if not decoder.at_boundary or last.endswith(b"\r\n\r"):
        raise _Rejected(Rejection.INCOMPLETE)
    stream.end()


def _see(stream: _Stream, event: SseEvent) -> None:
    if event.name == "error":
        raise _Rejected(Rejection.ERROR)
    if event.data == _DONE:
        stream.see(event, None)
        return
    data = orjson.loads(event.data)
    if not isinstance(data, dict):
        raise _Rejected(Rejection.UNREADABLE)
    _judge_no_error(data)
    stream.see(event, data)
