"""Which paths are allowed: patterns by whole segments.

``*`` stands for one segment, a last ``**`` for one or more; all else is exact, case included.
``/v1/models`` matches neither ``/v1/modelsX`` nor ``/v1/models/`` nor ``/v1/models/a``.

Note: the path counts as the upstream will read it, and upstreams differ in how they read ``//``,
``;``, ``\\`` and ``%2F``. So a path that can be read in two ways matches nothing. Each segment must
consist of the plain characters below, written as they are or as one escape each.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from proxy.core.errors import ClientError

#: RFC 3986 ``pchar`` without ``;``, which servlet containers cut off, and ``*``.
_SEGMENT: Final = "[A-Za-z0-9._~:@!$&'()+,=-]+"
_PLAIN_SEGMENT: Final = re.compile(_SEGMENT)
_PLAIN_PATH: Final = re.compile(f"(?:/{_SEGMENT})+")
_PATTERN: Final = re.compile(rf"/v1(?:/(?:{_SEGMENT}|\*))*/(?:{_SEGMENT}|\*\*?)")

#: The error message for a path that has a second reading.
AMBIGUOUS: Final = (
    "The rules of this access token need a path that can be read in one way only: plain segments, "
    "without empty ones, `;`, a backslash or an escaped slash."
)


class Endpoints:
    """The paths that one rule allows. ``patterns`` come from :func:`endpoint_pattern`."""

    __slots__ = ("_exact", "_patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        given = tuple(patterns)
        self._exact = frozenset(pattern for pattern in given if "*" not in pattern)
        self._patterns = tuple(tuple(pattern[1:].split("/")) for pattern in given)

    def allow(self, path: str) -> bool:
        """Whether a raw ``path`` without its query is allowed. An ambiguous path is not."""
        if path in self._exact:
            return True
        segments = plain_segments(path)
        return segments is not None and any(_fits(segments, one) for one in self._patterns)


def endpoint_pattern(value: str) -> str:
    """Return ``value`` if it is a pattern of endpoints. Raises ValueError."""
    if not _PATTERN.fullmatch(value) or not _is_undotted(value.split("/")):
        raise ValueError(
            "a path such as `/v1/chat/completions`, in which `*` may stand for a whole segment "
            "and a last `**` for the rest"
        )
    return value


@lru_cache(maxsize=512)
def plain_segments(path: str) -> tuple[str, ...] | None:
    """Return the unescaped segments of a raw path, or None if it has more than one reading."""
    if "%" not in path:
        if not _PLAIN_PATH.fullmatch(path):
            return None
        segments = path[1:].split("/")
    else:
        if not path.startswith("/"):
            return None
        # Unescape once: a `%` that remains could be decoded a second time by the upstream.
        segments = [unquote(segment, "latin-1") for segment in path[1:].split("/")]
        if not all(map(_PLAIN_SEGMENT.fullmatch, segments)):
            return None
    return tuple(segments) if _is_undotted(segments) else None


def ambiguous() -> ClientError:
    return ClientError(AMBIGUOUS, code="endpoint_not_found")


def _is_undotted(segments: Iterable[str]) -> bool:
    return not any(segment in (".", "..") for segment in segments)


def _fits(segments: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if pattern[-1] == "**":
        pattern = pattern[:-1]
        if len(segments) <= len(pattern):
            return False
    elif len(segments) != len(pattern):
        return False
    return all(part in ("*", segment) for part, segment in zip(pattern, segments, strict=False))
