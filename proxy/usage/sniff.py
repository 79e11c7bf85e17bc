"""The kind of a body by its first bytes, for media types that are missing or wrong."""

from __future__ import annotations

from typing import Literal

_SPACE = b"\xef\xbb\xbf \t\r\n"
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")


def without_space(beginning: bytes) -> bytes:
    """Return what follows a byte order mark and blanks, which JSON and SSE both allow."""
    return beginning.lstrip(_SPACE)


def kind_of(beginning: bytes) -> Literal["json", "events", "other"] | None:
    """Return the kind of a body with this beginning, or None while more bytes are needed."""
    beginning = without_space(beginning)
    if not beginning:
        return None
    if beginning[0] in b"{[":
        return "json"
    if beginning.startswith(_FIELDS):
        return "events"
    return None if any(field.startswith(beginning) for field in _FIELDS) else "other"
