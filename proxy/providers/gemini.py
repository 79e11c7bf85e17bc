"""Gemini's OpenAI-compatible API, with Google's errors and tool calls made OpenAI's.

Source: https://ai.google.dev/gemini-api/docs/openai. The prefix of its targets ends with
`/v1beta/openai`, below which its paths are OpenAI's without `/v1`.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.core.errors import error_type
from proxy.providers.base import (
    EditableBody,
    HeaderList,
    OutboundRequest,
    PreparedCall,
    ResponseTransform,
    Target,
    Translation,
)
from proxy.providers.preparing import bearer, below_v1, call_to, edited, headers_for
from proxy.providers.transforms import (
    ToolCalls,
    WholeBody,
    chunks_changed,
    json_changed,
    kind_of,
    transformed,
)

_CHAT: Final = "/v1/chat/completions"
_MODELS: Final = "/v1/models"
_PREFIXED_ID: Final = re.compile(rb'("id"[ \t\r\n]*:[ \t\r\n]*")models/')
#: Google's status → `type` and `code`. https://cloud.google.com/apis/design/errors#handling_errors
_ERRORS: Final[Mapping[str, tuple[str, str | None]]] = {
    "RESOURCE_EXHAUSTED": ("rate_limit_error", "rate_limit_exceeded"),
    "UNAUTHENTICATED": ("authentication_error", "invalid_api_key"),
    "PERMISSION_DENIED": ("permission_error", "permission_denied"),
    "INVALID_ARGUMENT": ("invalid_request_error", "invalid_argument"),
    "FAILED_PRECONDITION": ("invalid_request_error", "failed_precondition"),
    "NOT_FOUND": ("not_found_error", "model_not_found"),
    "UNAVAILABLE": ("server_error", "overloaded"),
    "DEADLINE_EXCEEDED": ("server_error", "timeout"),
    "INTERNAL": ("server_error", "internal"),
}
#: How it refuses a key with status 400.
_BAD_KEY: Final = "api key not valid"


class GeminiProvider:
    """Sends the key as a bearer."""

    def prepare(
        self,
        request: OutboundRequest,
        target: Target,
        upstream_key: str | None,
        body: EditableBody | None = None,
    ) -> PreparedCall:
        """Return the call below the prefix. All parameters pass: it refuses what it lacks.

        Raises ClientError `endpoint_not_supported` for a path that is not below `/v1/`.
        """
        request, dropped = edited(request, target, body)
        rest, query = below_v1(request.target)
        headers = headers_for(target, request.headers, bearer(upstream_key), plain=True)
        return call_to(target, request, b"/" + rest + query, headers, dropped=dropped)

    def transform(
        self,
        target: Target,
        path: str,
        status: int,
        headers: HeaderList,
        translation: Translation | None = None,
    ) -> ResponseTransform | None:
        """Errors get OpenAI's shape, tool calls their numbers, models their names."""
        kind = kind_of(headers)
        if kind == "events":
            return transformed(headers, chunks_changed(_Repair(status)))
        if kind != "json":
            return None
        if status >= 400 or path == _CHAT:
            repair = _Repair(status)
            return transformed(headers, WholeBody(lambda text: json_changed(text, repair)))
        if path == _MODELS or path.startswith(_MODELS + "/"):
            return transformed(headers, WholeBody(_without_prefixes))
        return None


class _Repair:
    """Repairs one response."""

    def __init__(self, status: int) -> None:
        self._status = status
        self._calls = ToolCalls()

    def __call__(self, chunk: Any) -> bytes | None:
        error = as_openai(chunk, self._status)
        if error is not None:
            return orjson.dumps(error)
        if not isinstance(chunk, dict):
            return None
        changed = self._calls.repair(chunk)
        model = chunk.get("model")
        if isinstance(model, str) and model.startswith("models/"):
            chunk["model"] = model.removeprefix("models/")
            changed = True
        return orjson.dumps(chunk) if changed else None


def as_openai(body: Any, status: int) -> dict[str, Any] | None:
    """Return Google's error in OpenAI's shape; None if `body` is none of Google's.

    Its member `error` has a `code`, a `message` and a `status`; it stands alone or in the first
    item of a list. `status` is that of the response, used where the error has no code. What Google
    adds as `details` stays.
    """
    found = body[0] if isinstance(body, list) and body else body
    error = found.get("error") if isinstance(found, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("status"), str):
        return None
    message = error.get("message")
    message = message if isinstance(message, str) else ""
    google = error["status"]
    code = error.get("code")
    kind, name = _ERRORS.get(
        google, (error_type(code if isinstance(code, int) else status), google.lower())
    )
    if _BAD_KEY in message.lower():
        kind, name = _ERRORS["UNAUTHENTICATED"]
    shaped = {"message": message, "type": kind, "param": None, "code": name}
    if "details" in error:
        shaped["details"] = error["details"]
    return {"error": shaped}


def _without_prefixes(text: bytes) -> bytes:
    return _PREFIXED_ID.sub(rb"\1", text)
