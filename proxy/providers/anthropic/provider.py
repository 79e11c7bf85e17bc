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

from proxy.core.errors import ClientError
from proxy.core.media_type import is_json
from proxy.providers.anthropic.errors import client_status, event_status, openai_error
from proxy.providers.anthropic.headers import chat_headers, request_headers
from proxy.providers.anthropic.refused import RefusedParameters, sent_parameters
from proxy.providers.anthropic.request import TranslationOptions, messages_request
from proxy.providers.anthropic.response import chat_completion
from proxy.providers.anthropic.stream import ChatStream
from proxy.providers.anthropic.translated import (
    JSON,
    as_events,
    as_json,
    encoded,
    error_response,
    is_large,
    object_of,
)
from proxy.providers.base import (
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
from proxy.providers.transforms import header

_CHAT: Final = b"/v1/chat/completions"
_MESSAGES: Final = b"/v1/messages"
_NATIVE: Final = frozenset({_MESSAGES, b"/v1/messages/count_tokens"})
_MODELS: Final = b"/v1/models"
#: The largest body that Anthropic takes (https://platform.claude.com/docs/en/api/errors).
MAX_REQUEST_BYTES: Final = 32 * 1024 * 1024


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
        error = error_response(lines, client_status(status), openai_error)
        if error is not None:
            return error
        created = int(now)
        if is_json(header(lines, "content-type")):
            return as_json(lines, lambda text: _completion(text, created), status)
        return as_events(lines, ChatStream(created, include_usage=translation.include_usage))


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
    chat, lost = _with_edits(body.document(), target)
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
    data = encoded(made, large=is_large(request.body))
    headers = [
        line
        for line in request_headers(target, request.headers, upstream_key, translated=True)
        if line[0].lower() not in ("content-type", "content-length")
    ]
    headers += [JSON, ("Content-Length", str(len(data)))]
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
    message = object_of(text, "message")
    if message.get("type") == "error":
        return openai_error(text)
    return orjson.dumps(chat_completion(message, created))
