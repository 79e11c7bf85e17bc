"""Ollama's `/v1`: OpenAI's API with a few parameters and endpoints less.

Source: https://github.com/ollama/ollama, `openai/openai.go` and `middleware/openai.go`. What it
ignores without a word is translated here, or left out and named to the client.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.core.errors import ClientError
from proxy.providers.base import (
    EditableBody,
    HeaderList,
    OutboundRequest,
    PreparedCall,
    ResponseTransform,
    Target,
    Translation,
)
from proxy.providers.preparing import (
    bearer,
    below_v1,
    call_to,
    edited,
    effective,
    headers_for,
    not_supported,
)
from proxy.providers.transforms import (
    ToolCalls,
    WholeBody,
    chunks_changed,
    json_changed,
    kind_of,
    transformed,
)

_CHAT: Final = "/v1/chat/completions"
#: The first segments of paths that it does not have.
_LACKING: Final = frozenset(
    b"assistants audio batches containers conversations evals files fine_tuning moderations"
    b" realtime threads uploads vector_stores".split()
)
_RENAME: Final = {"max_completion_tokens": "max_tokens"}
#: Efforts that it refuses → the nearest one that it knows.
_EFFORTS: Final = {"minimal": "low", "xhigh": "max"}
#: Endpoint → parameters that it ignores → the values that mean nothing anyhow.
_IGNORED: Final[Mapping[bytes, Mapping[str, tuple[Any, ...]]]] = {
    b"chat/completions": {
        "n": (1,),
        "logit_bias": ({},),
        "tool_choice": ("auto", "none"),
    },
    b"completions": {"n": (1,), "best_of": (1,), "echo": (False,), "logit_bias": ({},)},
    b"responses": {"truncation": ("disabled",)},
}
#: Members of a request for a response that continue an earlier one, which it does not keep.
_STATE: Final = ("previous_response_id", "conversation")


class OllamaProvider:
    """Sends no credential but a configured key, which only ollama.com asks for."""

    def prepare(
        self,
        request: OutboundRequest,
        target: Target,
        upstream_key: str | None,
        body: EditableBody | None = None,
    ) -> PreparedCall:
        """Return the call with `max_tokens` for `max_completion_tokens`, and what it ignores gone.

        Raises ClientError: `endpoint_not_supported`; `invalid_request` for a response that
        continues an earlier one, or a parameter that it ignores where `params` is `strict`.
        """
        rest, _ = below_v1(request.target)
        if rest.partition(b"/")[0] in _LACKING:
            raise not_supported(b"/v1/" + rest)
        lacking: list[str] = []
        drop: set[str] = set()
        override: dict[str, Any] = {}
        if body is not None:
            lacking = [
                name
                for name, harmless in _IGNORED.get(rest, {}).items()
                if (value := effective(body, target, name)) is not None and value not in harmless
            ]
            if rest == b"chat/completions":
                if effective(body, target, "tool_choice") == "none":
                    drop = {"tools", "tool_choice"}
                effort = effective(body, target, "reasoning_effort")
                if isinstance(effort, str) and effort in _EFFORTS:
                    override["reasoning_effort"] = _EFFORTS[effort]
            elif rest == b"responses":
                _check_state(body)
        chat = rest == b"chat/completions"
        request, dropped = edited(
            request,
            target,
            body,
            lacking=lacking,
            drop=drop,
            override=override,
            rename=_RENAME if chat else {},
        )
        headers = headers_for(target, request.headers, bearer(upstream_key), plain=chat)
        return call_to(target, request, request.target, headers, dropped=dropped)

    def transform(
        self,
        target: Target,
        path: str,
        status: int,
        headers: HeaderList,
        translation: Translation | None = None,
    ) -> ResponseTransform | None:
        """Repair how a chat ends after tool calls, and errors that are no events."""
        if path != _CHAT or status != 200:
            return None
        kind = kind_of(headers)
        repair = _Repair()
        if kind == "events":
            return transformed(headers, chunks_changed(repair))
        if kind == "json":
            return transformed(headers, WholeBody(lambda text: json_changed(text, repair)))
        return None


class _Repair:
    """Repairs one chat response."""

    def __init__(self) -> None:
        self._calls = ToolCalls()

    def __call__(self, chunk: Any) -> bytes | None:
        if not isinstance(chunk, dict):
            return None
        error = chunk.get("error")
        if isinstance(error, str):  # as its native API writes errors
            found = {"message": error, "type": "server_error", "param": None, "code": None}
            return orjson.dumps({"error": found})
        return orjson.dumps(chunk) if self._calls.repair(chunk) else None


def _check_state(body: EditableBody) -> None:
    for name in _STATE:
        if body.is_set(name):
            raise ClientError(
                f"The provider of this model keeps no responses: leave out `{name}`, and send the"
                " whole conversation.",
                param=name,
            )
