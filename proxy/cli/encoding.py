"""Terminals and pipes that are not UTF-8: `LANG=C`, legacy code pages."""

import io
import sys
from typing import Any


def show_anything() -> None:
    """Makes stdout and stderr print `?` for characters that their encoding lacks, not raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests replace it by other types
            stream.reconfigure(errors="replace")


def is_unicode(stream: Any) -> bool:
    """Whether every letter can be printed."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return str(encoding).lower().startswith("utf")
