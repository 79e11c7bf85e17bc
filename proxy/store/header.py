"""The first line of an export: what the file is, what it needs, and how much must follow.

The counts are there because a file that was cut off between two lines looks whole otherwise.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy.store.portable import TransferError

FORMAT: Final = "openai-proxy export"
VERSION: Final = 1
_KEY_ID: Final = re.compile(r"[0-9a-f]{8}")
_NAMES: Final = {"format", "version", "schema", "key_ids", "projects", "tokens"}


@dataclass(frozen=True, slots=True)
class Header:
    #: The newest migration of the database that was exported.
    schema: int
    #: Of every encryption key that the file's ciphertexts need.
    key_ids: tuple[str, ...]
    projects: int
    tokens: int

    def to_line(self) -> bytes:
        content = {
            "format": FORMAT,
            "version": VERSION,
            "schema": self.schema,
            "key_ids": self.key_ids,
            "projects": self.projects,
            "tokens": self.tokens,
        }
        return orjson.dumps(content) + b"\n"

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> "Header":
        """TransferError: no header, or of a version that is not known here."""
        if content.get("format") != FORMAT:
            raise TransferError("line 1: this is no export of openai-proxy.")
        if content.get("version") != VERSION:
            raise TransferError("line 1: the file has a format that this version does not know.")
        numbers = [content.get(name) for name in ("schema", "projects", "tokens")]
        key_ids = content.get("key_ids")
        if (
            content.keys() != _NAMES
            or not all(type(number) is int and number >= 0 for number in numbers)
            or not isinstance(key_ids, list)
            or not all(isinstance(item, str) and _KEY_ID.fullmatch(item) for item in key_ids)
        ):
            raise TransferError("line 1: the header is damaged.")
        schema, projects, tokens = numbers
        return cls(schema, tuple(key_ids), projects, tokens)  # type: ignore[arg-type]
