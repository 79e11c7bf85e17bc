"""Takes secrets out of text that leaves the process: log lines, and a client's words in events.

Known secrets are those of the process: :func:`learn` is called once its settings are read.
"""

import json
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote

#: Paths remembered with what they became, and the longest of them.
_MAX_PATHS: Final = 1000
_MAX_PATH_CHARS: Final = 256


class Sanitizer:
    """Takes secrets out of text: what looks like one, and the very values it was told.

    Tokens and upstream keys (``sk-…``), bearer and basic credentials, and passwords in URLs are
    found by shape; ``known`` values (management tokens, encryption keys) wherever they stand.
    """

    _SHAPES: Final = re.compile(
        r"\bsk-[A-Za-z0-9_-]{8,}"
        r"|(?i:\b(?:bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,})"
        # Up to the last @ before the path, as a password may hold one; never over a quote, or a
        # URL and a mail address in one JSON line would count as one.
        r"|(?<=://)[^\s/\"'<>]+(?=@)"
    )

    def __init__(self, known: Iterable[str] = ()) -> None:
        found = {value for value in known if len(value) >= 6}
        # As they look inside a JSON string, too.
        found |= {json.dumps(value)[1:-1] for value in found}
        values = sorted(found, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, values))) if values else None

    def clean(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub("[secret]", text)
        return self._SHAPES.sub("[secret]", text)

    def clean_path(self, path: str) -> str:
        """A path as it came, or without what is a secret in it, percent-encoded or not."""
        clean = self.clean(path)
        if "%" in clean:
            decoded = unquote(clean, "latin-1")
            found = self.clean(decoded)
            if found != decoded:
                return quote(found, safe="/[]", encoding="latin-1")
        return clean


class Paths(dict[str, str]):
    """Raw path → what may be shown of it. Most requests ask for a few paths, so that one is looked
    up without a call; a full table is emptied."""

    def __missing__(self, path: str) -> str:
        clean = _process.clean_path(path)
        if len(path) <= _MAX_PATH_CHARS:
            if len(self) >= _MAX_PATHS:
                self.clear()
            self[path] = clean
        return clean


#: Of this process.
PATHS: Final = Paths()
_process = Sanitizer()


def learn(known: Iterable[str]) -> None:
    """These are the secrets of this process."""
    global _process
    _process = Sanitizer(known)
    PATHS.clear()


def clean(text: str) -> str:
    """``text`` without this process's secrets, and without what looks like one."""
    return _process.clean(text)
