"""Endpoints that generate or embed text, by every path that an upstream may read as one of them."""

from typing import Final
from urllib.parse import unquote

#: The endpoints whose streams report usage only when asked to (`stream_options`).
CHATS: Final = frozenset({"chat/completions", "completions"})
#: The segments in front of the name of a model.
_MODELS: Final = frozenset({"engines", "deployments"})


def generating(method: str, path: str) -> str | None:
    """Return the kind of a generating endpoint, or None for any other endpoint.

    The kinds are `chat/completions`, `completions`, `embeddings`, `responses`, `messages`, and
    `…/completions` for services with other paths. `path` is raw. Servers differ in which paths are
    the same to them, so escapes are decoded, backslashes count as slashes, and case, empty and dot
    segments and parameters (`;…`) are ignored.
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
    # With more segments in front it is another endpoint: `/v1/threads/{id}/messages` generates
    # nothing.
    return last if last in ("responses", "messages") and len(segments) == 2 else None
