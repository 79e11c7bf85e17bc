"""Routes of requests in Anthropic's dialect.

Claude Code and Anthropic's SDKs ask `/v1/messages`. Providers that have this endpoint serve them
with the body as the client wrote it; for those that say `serve_messages` it is translated to a
chat. What a model has thought is signed by its provider and comes back in the next turn. Another
provider refuses the signature, so

- behind a target that has the endpoint only those of the same provider are tried, unless the
  mapping of that target says `native_fallback`;
- a target of another provider gets the conversation without the thoughts;
- where one target of the route translates, the others get no thoughts without a signature: those
  are of a model behind the translation. A chat has none in any case.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from proxy.core.errors import ClientError
from proxy.providers.base import EditableBody, Target
from proxy.routing.router import Route, RouteTarget

_MESSAGES: Final = "/v1/messages"
#: Blocks of an assistant's turn that carry a signature.
_THOUGHTS: Final = frozenset({"thinking", "redacted_thinking"})
#: Thoughts are taken out of smaller bodies only, since each is parsed at once, in milliseconds.
MAX_STRIPPED_BYTES: Final = 1024 * 1024


def native_route(
    route: Route, path: str, body: EditableBody | None = None, text: bytes = b""
) -> Route:
    """Return the route without the targets that cannot serve `path`.

    `path` is `/v1/messages` or below. `body` is the scan of the request's body, `text` its bytes.

    Raises ClientError ``endpoint_not_supported`` when no target is left.
    """
    able = [found for each in route.targets if (found := _able(each, path)) is not None]
    if not able:
        raise ClientError(
            f"No provider of this model has the endpoint {path[:100]!r}. It takes one of the type"
            " `anthropic`: map the model to it, or write `provider/model`.",
            code="endpoint_not_supported",
            param="model",
        )
    mixed = any(each.target.from_messages for each in able)
    first = able[0].target.provider
    kept: list[RouteTarget] = []
    for each in able:
        if each.target.provider == first:
            unsigned = _without_thoughts(each, body, text, _is_unsigned) if mixed else each
            kept.append(unsigned or each)
        elif kept[-1].target.from_messages or kept[-1].options.native_fallback:
            stripped = _without_thoughts(each, body, text, _is_thought)
            if stripped is not None:
                kept.append(stripped)
    return replace(route, targets=tuple(kept))


def _able(target: RouteTarget, path: str) -> RouteTarget | None:
    """Return the target as it serves the endpoint. None: it does not."""
    if target.provider is None:
        return target
    if path == _MESSAGES and target.target.config.translates_messages:
        return replace(target, target=replace(target.target, from_messages=True))
    return target if _speaks(target.target, path) else None


def _speaks(target: Target, path: str) -> bool:
    """Whether a shared provider has the endpoint."""
    if target.provider_type == "ollama":
        return path == _MESSAGES  # https://docs.ollama.com/api/anthropic-compatibility
    return target.provider_type == "anthropic" or target.config.messages


def _is_thought(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") in _THOUGHTS


def _is_unsigned(block: Any) -> bool:
    return (
        isinstance(block, dict) and block.get("type") == "thinking" and not block.get("signature")
    )


def _without_thoughts(
    target: RouteTarget, body: EditableBody | None, text: bytes, left_out: Callable[[Any], bool]
) -> RouteTarget | None:
    """Return the target with edits that take thoughts out. None: they cannot be."""
    if target.target.from_messages or body is None or b"thinking" not in text:
        return target
    if len(text) > MAX_STRIPPED_BYTES:
        return None
    messages = body.value("messages")
    if not isinstance(messages, list):
        return target
    kept = [found for message in messages if (found := _stripped(message, left_out)) is not None]
    if kept == messages:
        return target
    edits = target.target.edits
    drop = edits.drop
    if _awaits_results(kept):
        # With thinking on, Anthropic wants the thoughts that led to the call.
        drop = drop | {"thinking"}
    edits = replace(edits, override={**edits.override, "messages": kept}, drop=drop)
    return replace(target, target=replace(target.target, edits=edits))


def _stripped(message: Any, left_out: Callable[[Any], bool]) -> Any:
    """Return the message without thoughts; None when nothing else is in it."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return message
    kept = [block for block in content if not left_out(block)]
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
