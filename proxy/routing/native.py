"""Routes of requests in Anthropic's dialect, which nothing translates.

Claude Code and Anthropic's SDKs ask `/v1/messages`. Only providers that have this endpoint can
serve them, with the body as the client wrote it. What a model has thought is signed by its provider
and comes back in the next turn. Another provider refuses the signature, so

- after the first target only those of the same provider are tried, unless the mapping of the target
  before says `native_fallback`;
- a target of another provider gets the conversation without the thoughts.
"""

from dataclasses import replace
from typing import Any, Final

from proxy.core.errors import ClientError
from proxy.providers.base import EditableBody, Target
from proxy.routing.router import Route, RouteTarget

#: Blocks of an assistant's turn that carry a signature.
_THOUGHTS: Final = frozenset({"thinking", "redacted_thinking"})
#: Thoughts are taken out of smaller bodies only, since each is parsed at once, in milliseconds.
MAX_STRIPPED_BYTES: Final = 1024 * 1024


def native_route(
    route: Route, path: str, body: EditableBody | None = None, text: bytes = b""
) -> Route:
    """Return the route without the targets that cannot serve `path` as it is.

    `path` is `/v1/messages` or below. `body` is the scan of the request's body, `text` its bytes.

    Raises ClientError ``endpoint_not_supported`` when no target is left.
    """
    able = [each for each in route.targets if each.provider is None or _speaks(each.target, path)]
    if not able:
        raise ClientError(
            f"No provider of this model has the endpoint {path[:100]!r}. It takes one of the type"
            " `anthropic`: map the model to it, or write `provider/model`.",
            code="endpoint_not_supported",
            param="model",
        )
    first = able[0].target.provider
    kept = able[:1]
    for each in able[1:]:
        if each.target.provider == first:
            kept.append(each)
        elif kept[-1].options.native_fallback:
            stripped = _without_thoughts(each, body, text)
            if stripped is not None:
                kept.append(stripped)
    return replace(route, targets=tuple(kept))


def _speaks(target: Target, path: str) -> bool:
    """Whether a shared provider has the endpoint."""
    if target.provider_type == "ollama":
        return path == "/v1/messages"  # https://docs.ollama.com/api/anthropic-compatibility
    return target.provider_type == "anthropic" or target.config.messages


def _without_thoughts(
    target: RouteTarget, body: EditableBody | None, text: bytes
) -> RouteTarget | None:
    """Return the target with edits that take signed thoughts out. None: they cannot be."""
    if body is None or b"thinking" not in text:
        return target
    if len(text) > MAX_STRIPPED_BYTES:
        return None
    messages = body.value("messages")
    if not isinstance(messages, list):
        return target
    kept = [found for message in messages if (found := _stripped(message)) is not None]
    if kept == messages:
        return target
    edits = target.target.edits
    drop = edits.drop
    if _awaits_results(kept):
        # With thinking on, Anthropic wants the thoughts that led to the call.
        drop = drop | {"thinking"}
    edits = replace(edits, override={**edits.override, "messages": kept}, drop=drop)
    return replace(target, target=replace(target.target, edits=edits))


def _stripped(message: Any) -> Any:
    """Return the message without thoughts; None when nothing else is in it."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return message
    kept = [
        block
        for block in content
        if not (isinstance(block, dict) and block.get("type") in _THOUGHTS)
    ]
    if len(kept) == len(content):
        return message
    return {**message, "content": kept} if kept else None


def _awaits_results(messages: list[Any]) -> bool:
    """Whether the last turn of the assistant calls tools."""
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "assistant":
            content = message.get("content")
            return isinstance(content, list) and any(
                isinstance(block, dict) and block.get("type") == "tool_use" for block in content
            )
    return False
