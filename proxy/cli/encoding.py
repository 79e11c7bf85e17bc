"""Terminals and pipes that are not UTF-8: `LANG=C`, legacy code pages."""

import io
import sys
from typing import Any


def show_anything() -> None:
    """From here on, stdout and stderr print `?` for what their encoding lacks, and never raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests put others in its place
            stream.reconfigure(errors="replace")


def is_unicode(stream: Any) -> bool:
    """Whether every letter can be printed."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return str(encoding).lower().startswith("utf")
