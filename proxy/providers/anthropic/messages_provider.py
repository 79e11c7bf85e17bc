"""A provider of chats, for clients of Anthropic's Messages API.

| path | upstream |
|---|---|
| `POST /v1/messages` | `/v1/chat/completions`, translated in both directions |

The call is that of another provider: its paths, its key, its edits of the body, its repairs. So the
`config` of a mapping is in OpenAI's dialect, whoever asks.
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import orjson

from proxy.core.errors import ClientError
from proxy.core.media_type import is_json
from proxy.providers.anthropic.errors import anthropic_error_of, chat_event_status
from proxy.providers.anthropic.from_messages import chat_request
from proxy.providers.anthropic.refused import OF_A_CHAT, RefusedParameters, refused_in_chat
from proxy.providers.anthropic.to_messages import message_of
from proxy.providers.anthropic.to_messages_stream import MessagesStream
from proxy.providers.anthropic.translated import (
    JSON,
    WholeMessage,
    as_events,
    as_json,
    encoded,
    error_response,
    is_large,
    object_of,
)
from proxy.providers.base import (
    BodyTransform,
    EditableBody,
    HeaderList,
    OutboundRequest,
    PreparedCall,
    Provider,
    ResponseTransform,
    Target,
    Translation,
)
from proxy.providers.body import scan
from proxy.providers.preparing import not_supported
from proxy.providers.transforms import header

_MESSAGES: Final = b"/v1/messages"
_CHAT: Final = "/v1/chat/completions"
#: Lines of a request that are about Anthropic's API, or about bytes that are written anew.
_NOT_SENT: Final = frozenset({"content-type", "content-length", "accept-encoding"})
_OF_ANTHROPICS_CLIENTS: Final = ("anthropic-", "x-stainless-")
_EVENTS: Final = ("Content-Type", "text/event-stream; charset=utf-8")


class MessagesProvider:
    """Remembers which parameters a model has refused."""

    def __init__(self, chats: Provider, clock: Callable[[], float] = time.monotonic) -> None:
        """`chats` makes the call."""
        self._chats = chats
        self._refused = RefusedParameters(clock, refused_in_chat)

    def prepare(
        self,
        request: OutboundRequest,
        target: Target,
        upstream_key: str | None,
        body: EditableBody | None = None,
    ) -> PreparedCall:
        """Return the call for a chat.

        Raises ClientError: `endpoint_not_supported`; `invalid_request` for what cannot be
        translated, or is not taken where `params` is `strict`; and as the provider of chats does.
        """
        path = request.target.partition(b"?")[0]
        if request.method != "POST" or path != _MESSAGES:
            raise not_supported(path)
        if body is None:
            raise ClientError("The body of this request must be a JSON object.")
        model = target.model or body.model
        if not model:
            raise ClientError("`model` is missing.", param="model")
        chat, dropped = chat_request(
            body.document(),
            model,
            strict=target.config.strict,
            refused=self._refused.of(target.provider, model),
        )
        sent = OF_A_CHAT & chat.keys()
        streams = "stream" in chat
        data = encoded(chat, large=is_large(request.body))
        headers = [line for line in request.headers if not _is_left_out(line[0].lower())]
        headers += [("Accept-Encoding", "identity"), JSON, ("Content-Length", str(len(data)))]
        call = self._chats.prepare(
            OutboundRequest("POST", _CHAT.encode(), headers, data),
            target,
            upstream_key,
            scan(data, JSON[1]),
        )
        return replace(
            call,
            dropped=tuple(dict.fromkeys([*dropped, *call.dropped])),
            translation=Translation(
                include_usage=True,
                error_status=chat_event_status,
                note_refusal=partial(self._refused.note_refusal, target.provider, model, sent),
                streams=streams,
            ),
        )

    def transform(
        self,
        target: Target,
        path: str,
        status: int,
        headers: HeaderList,
        translation: Translation | None = None,
    ) -> ResponseTransform | None:
        """Return how the response becomes Anthropic's."""
        inner = self._chats.transform(target, _CHAT, status, headers)
        if inner is None:
            return _translated(target, status, headers, translation)
        status = status if inner.status is None else inner.status
        outer = _translated(target, status, inner.headers, translation)
        return replace(outer, body=_Both(inner.body, outer.body), status=outer.status or status)


def _translated(
    target: Target, status: int, headers: HeaderList, translation: Translation | None
) -> ResponseTransform:
    lines = _messages_headers(headers)
    error = error_response(lines, status, anthropic_error_of)
    if error is not None:
        return error
    model, spare_id = target.model or "", uuid.uuid4().hex
    if not is_json(header(lines, "content-type")):
        return as_events(lines, MessagesStream(model, spare_id))
    if translation is None or not translation.streams:
        return as_json(lines, lambda text: _message(text, model, spare_id), status)
    # It is whole, although a stream was asked for.
    lines = [line for line in lines if line[0].lower() != "content-type"]
    return as_events([*lines, _EVENTS], WholeMessage(lambda text: _events(text, model, spare_id)))


def _is_left_out(name: str) -> bool:
    return name in _NOT_SENT or name.startswith(_OF_ANTHROPICS_CLIENTS)


def _messages_headers(headers: HeaderList) -> HeaderList:
    """Return the lines of a response, with the identifier where Anthropic's clients look for it."""
    identifier = header(headers, "x-request-id")
    if not identifier or header(headers, "request-id"):
        return list(headers)
    return [*headers, ("request-id", identifier)]


def _message(text: bytes, model: str, spare_id: str) -> bytes:
    completion = object_of(text, "completion")
    if completion.get("error"):
        return anthropic_error_of(text)
    return orjson.dumps(message_of(completion, model, spare_id))


def _events(text: bytes, model: str, spare_id: str) -> bytes:
    """Return a whole completion as events: it is a stream of one chunk."""
    completion = object_of(text, "completion")
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(choice, dict):
        completion["choices"] = [{**choice, "delta": choice.get("message")}]
    stream = MessagesStream(model, spare_id)
    found = stream.feed(b"data: " + orjson.dumps(completion) + b"\n\n")
    return found if completion.get("error") else found + stream.end()


class _Both:
    """A transform whose input is that of another one."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: BodyTransform, second: BodyTransform) -> None:
        self._first = first
        self._second = second

    @property
    def at_event_boundary(self) -> bool:
        return self._second.at_event_boundary

    def feed(self, chunk: bytes) -> bytes:
        return self._second.feed(self._first.feed(chunk))

    def end(self) -> bytes:
        last = self._first.end()
        return (self._second.feed(last) if last else b"") + self._second.end()
