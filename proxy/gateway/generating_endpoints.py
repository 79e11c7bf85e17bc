"""Endpoints that generate or embed text, recognised by every path that an upstream may take for
one of them."""

from typing import Final
from urllib.parse import unquote

#: The endpoints whose streams report usage only when asked to (`stream_options`).
CHATS: Final = frozenset({"chat/completions", "completions"})
#: Before the name of a model in the path.
_MODELS: Final = frozenset({"engines", "deployments"})


def generating(method: str, path: str) -> str | None:
    """`chat/completions`, `completions`, `embeddings`, `responses`, `messages`, or for services
    that complete otherwise `…/completions`; None: an endpoint of another kind.

    `path` is raw. Servers differ in what they take for the same path, so escapes are undone, the
    case is ignored, and so are empty and dot segments, parameters (`;…`) and backslashes.
    """
    if method != "POST":
        return None
    if "%" in path:
        path = unquote(path, "latin-1")
    segments: list[str] = []
    for segment in path.replace("\\", "/").lower().split("/"):
        name = segment.partition(";")[0].strip()
        if name == "..":
            del segments[-1:]
        elif name not in ("", "."):
            segments.append(name)
    last = segments[-1] if segments else ""
    if last == "completions" and segments[-2:-1] == ["chat"]:
        return "chat/completions"
    if last == "completions" and len(segments) > 2 and segments[-3] not in _MODELS:
        return "…/completions"
    if last in ("completions", "embeddings"):
        return last
    # With more in front they are other things: `/v1/threads/{id}/messages` generates nothing.
    return last if last in ("responses", "messages") and len(segments) == 2 else None
