"""Removes secrets from text that leaves the process: log lines, and a client's values in events.

:func:`set_secrets` is called with the secrets of the process once its settings are read.
"""

import json
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote

#: Maximum cached paths, and characters of a cached path.
_MAX_PATHS: Final = 1000
_MAX_PATH_CHARS: Final = 256


class Sanitizer:
    """Removes secrets from text: by shape, and by value.

    Access tokens and upstream keys (``sk-…``), bearer and basic credentials, and passwords in URLs
    are found by shape; `known` values (management tokens, encryption keys) wherever they stand.
    """

    _SHAPES: Final = re.compile(
        r"\bsk-[A-Za-z0-9_-]{8,}"
        r"|(?i:\b(?:bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,})"
        # Up to the last @ before the path, because a password may contain one. Never across a
        # quote, or a URL and a mail address in one JSON line would count as one.
        r"|(?<=://)[^\s/\"'<>]+(?=@)"
    )

    def __init__(self, known: Iterable[str] = ()) -> None:
        found = {value for value in known if len(value) >= 6}
        # Also as they look inside a JSON string.
        found |= {json.dumps(value)[1:-1] for value in found}
        values = sorted(found, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, values))) if values else None

    def clean(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub("[secret]", text)
        return self._SHAPES.sub("[secret]", text)

    def clean_path(self, path: str) -> str:
        """`path` without secrets in it, percent-encoded or not."""
        clean = self.clean(path)
        if "%" in clean:
            decoded = unquote(clean, "latin-1")
            found = self.clean(decoded)
            if found != decoded:
                return quote(found, safe="/[]", encoding="latin-1")
        return clean


class Paths(dict[str, str]):
    """Cache: raw path → path without secrets.

    Most requests use a few paths, which are looked up without a call. A full cache is emptied.
    """

    def __missing__(self, path: str) -> str:
        clean = _process.clean_path(path)
        if len(path) <= _MAX_PATH_CHARS:
            if len(self) >= _MAX_PATHS:
                self.clear()
            self[path] = clean
        return clean


#: The cache of this process.
PATHS: Final = Paths()
_process = Sanitizer()


def set_secrets(known: Iterable[str]) -> None:
    """Set the secrets of this process."""
    global _process
    _process = Sanitizer(known)
    PATHS.clear()


def clean(text: str) -> str:
    """`text` without this process's secrets, and without what looks like a secret."""
    return _process.clean(text)
