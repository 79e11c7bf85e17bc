"""Anthropic: its Messages API for its own clients as it is, and translated for OpenAI's.

| path | upstream |
|---|---|
| `POST /v1/chat/completions` | `/v1/messages`, translated in both directions |
| `POST /v1/messages`, `/v1/messages/count_tokens` | the same bytes but for the model's name |
| `GET /v1/models`, `/v1/models/{id}` | the same, in Anthropic's shape |

It has no other endpoint of OpenAI's.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import orjson

from proxy.core.errors import ClientError, ResponseBroken
from proxy.core.media_type import is_event_stream, is_json
from proxy.providers.anthropic.errors import client_status, event_status, openai_error
from proxy.providers.anthropic.headers import chat_headers, request_headers
from proxy.providers.anthropic.refused import RefusedParameters, sent_parameters
from proxy.providers.anthropic.request import TranslationOptions, messages_request
from proxy.providers.anthropic.response import chat_completion
from proxy.providers.anthropic.stream import ChatStream
from proxy.providers.base import (
    BodyTransform,
    EditableBody,
    HeaderList,
    OutboundRequest,
    PreparedCall,
    ResponseTransform,
    Target,
    Translation,
)
from proxy.providers.edits import plan
from proxy.providers.preparing import call_to, edited, not_supported
from proxy.providers.transforms import header, transformed
from proxy.runtime.yielding import joined
from proxy.usage.decompress import ENCODINGS, Inflater
from proxy.usage.json_slices import AT_ONCE
from proxy.usage.json_text import LargeDict, encoded_in_turns

_CHAT: Final = b"/v1/chat/completions"
_MESSAGES: Final = b"/v1/messages"
_NATIVE: Final = frozenset({_MESSAGES, b"/v1/messages/count_tokens"})
_MODELS: Final = b"/v1/models"
#: The largest body that Anthropic takes (https://platform.claude.com/docs/en/api/errors).
MAX_REQUEST_BYTES: Final = 32 * 1024 * 1024
#: The largest message that is translated. No model writes as much.
MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
#: Bytes that are copied in half a millisecond.
_JOINED_AT_ONCE: Final = 2 * 1024 * 1024
_NOT_OF_JSON: Final = frozenset({"content-type", "content-encoding"})
_JSON: Final = ("Content-Type", "application/json")


class AnthropicProvider:
    """Sends the key as `x-api-key`; a token of OAuth as a bearer.

    Remembers which parameters a model has refused.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._refused = RefusedParameters(clock)

    def prepare(
        self,
        request: OutboundRequest,
        target: Target,
        upstream_key: str | None,
        body: EditableBody | None = None,
    ) -> PreparedCall:
        """Return the call, translated for OpenAI's chat.

        Raises ClientError: `endpoint_not_supported`; `request_too_large`; `invalid_request` for
        what cannot be translated, or is not taken where `params` is `strict`.
        """
        path = request.target.partition(b"?")[0]
        if request.method == "POST" and path == _CHAT:
            return _translated(request, target, upstream_key, body, self._refused)
        if request.method == "POST" and path in _NATIVE:
            request, dropped = edited(request, target, body)
        elif request.method in ("GET", "HEAD") and (
            path == _MODELS or path.startswith(_MODELS + b"/")
        ):
            dropped = ()
        else:
            raise not_supported(path)
        headers = request_headers(target, request.headers, upstream_key, translated=False)
        return call_to(target, request, request.target, headers, dropped=dropped)

    def transform(
        self,
        target: Target,
        path: str,
        status: int,
        headers: HeaderList,
        translation: Translation | None = None,
    ) -> ResponseTransform | None:
        """Return how the response to a translated request becomes OpenAI's. Others pass."""
        if translation is None:
            return None
        now = time.time()
        lines = chat_headers(headers, now)
        encoding = header(headers, "content-encoding").strip().lower()
        content_type = header(headers, "content-type")
        whole = is_json(content_type)
        if encoding not in ("", "identity", *ENCODINGS) or not (
            whole or (is_event_stream(content_type) and status < 400)
        ):
            # A page of a server between the two. A rate limit stays one, whoever sets it.
            status = status if status == 429 else 502
            return _as_json(lines, _Whole(lambda text: openai_error(b"", status)), status)
        created = int(now)
        body: BodyTransform
        if status >= 400:
            shown = client_status(status)
            body = _Whole(lambda text: openai_error(text, shown))
            return _as_json(lines, _plain(body, encoding), shown)
        if whole:
            body = _Whole(lambda text: _completion(text, created))
            return _as_json(lines, _plain(body, encoding), status)
        body = ChatStream(created, include_usage=translation.include_usage)
        lines = [line for line in lines if line[0].lower() != "content-encoding"]
        return transformed(lines, _plain(body, encoding))


def _translated(
    request: OutboundRequest,
    target: Target,
    upstream_key: str | None,
    body: EditableBody | None,
    refused: RefusedParameters,
) -> PreparedCall:
    if body is None:
        raise ClientError("The body of this request must be a JSON object.")
    if isinstance(request.body, bytes) and len(request.body) > MAX_REQUEST_BYTES:
        raise ClientError(
            f"The provider of this model takes at most {MAX_REQUEST_BYTES // 1024**2} MiB.",
            code="request_too_large",
        )
    chat, lost = _with_edits(body.document(long_strings=True), target)
    model = target.model or chat.get("model")
    if not isinstance(model, str) or not model:
        raise ClientError("`model` is missing.", param="model")
    made, dropped = messages_request(
        chat,
        TranslationOptions(
            model=model,
            max_tokens=target.config.max_tokens,
            strict=target.config.strict,
            keep_thinking=not target.foreign,
            facts=target.facts,
            refused=refused.of(target.provider, model),
        ),
    )
    sent = sent_parameters(made)
    data = _dumped(made, large=_is_large(request.body))
    headers = [
        line
        for line in request_headers(target, request.headers, upstream_key, translated=True)
        if line[0].lower() not in ("content-type", "content-length")
    ]
    headers += [_JSON, ("Content-Length", str(len(data)))]
    options = chat.get("stream_options")
    return call_to(
        target,
        OutboundRequest("POST", request.target, headers, data),
        _MESSAGES,
        headers,
        dropped=tuple(dict.fromkeys([*lost, *dropped])),
        translation=Translation(
            include_usage=isinstance(options, dict) and options.get("include_usage") is True,
            error_status=event_status,
            note_refusal=partial(refused.note_refusal, target.provider, model, sent),
        ),
    )


def _is_large(body: Any) -> bool:
    return isinstance(body, bytes) and len(body) > AT_ONCE


def _dumped(made: dict[str, Any], *, large: bool) -> bytes:
    """Encode a request. `large`: in turns."""
    try:
        if not large:
            return orjson.dumps(made)
        pieces = encoded_in_turns(LargeDict(made))
    except (TypeError, RecursionError) as error:
        raise ClientError("The body of this request nests too deep.") from error
    size = sum(map(len, pieces))
    return b"".join(pieces) if size <= _JOINED_AT_ONCE else joined(pieces)


def _with_edits(
    document: Mapping[str, Any], target: Target
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the request with the edits of the mapping, and what the client loses by them."""
    edits = target.edits
    changes = plan(document, defaults=edits.defaults, override=edits.override, drop=edits.drop)
    chat = {
        name: changes.replaced.get(name, value)
        for name, value in document.items()
        if name not in changes.removed
    }
    chat.update(changes.added)
    return chat, tuple(name for name in sorted(edits.drop) if document.get(name) is not None)


def _completion(text: bytes, created: int) -> bytes:
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ResponseBroken("the upstream's message is no JSON") from error
    if not isinstance(message, dict):
        raise ResponseBroken("the upstream's message is no object")
    if message.get("type") == "error":
        return openai_error(text)
    return orjson.dumps(chat_completion(message, created))


def _as_json(lines: HeaderList, body: BodyTransform, status: int) -> ResponseTransform:
    lines = [line for line in lines if line[0].lower() not in _NOT_OF_JSON]
    found = transformed([*lines, _JSON], body)
    return ResponseTransform(found.headers, found.body, status)


def _plain(body: BodyTransform, encoding: str) -> BodyTransform:
    """Return `body` for input that is compressed, although the request asks for none."""
    return _Inflated(body, encoding) if encoding in ENCODINGS else body


class _Whole:
    """A body that is held until its end, and then changed."""

    __slots__ = ("_change", "_held")

    at_event_boundary = False

    def __init__(self, change: Callable[[bytes], bytes]) -> None:
        self._change = change
        self._held = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """Return nothing. Raises ResponseBroken for a body that is too large."""
        self._held += chunk
        if len(self._held) > MAX_MESSAGE_BYTES:
            raise ResponseBroken("the upstream's message is too large to be translated")
        return b""

    def end(self) -> bytes:
        return self._change(bytes(self._held))


class _Inflated:
    """A transform whose input is compressed."""

    __slots__ = ("_body", "_inflater")

    def __init__(self, body: BodyTransform, encoding: str) -> None:
        self._body = body
        self._inflater = Inflater(encoding)

    @property
    def at_event_boundary(self) -> bool:
        return self._body.at_event_boundary

    def feed(self, chunk: bytes) -> bytes:
        """Raises ResponseBroken for what is not compressed as it says."""
        try:
            return b"".join([self._body.feed(piece) for piece in self._inflater.feed(chunk)])
        except ValueError as error:
            raise ResponseBroken("the upstream's compression is broken") from error

    def end(self) -> bytes:
        return self._body.end()
