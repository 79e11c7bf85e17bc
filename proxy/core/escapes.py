"""Every reading of a text with percent escapes: some servers decode more than once."""

from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

#: How many times an escape may have been escaped.
MAX_DECODINGS: Final = 4


def readings(text: str) -> Iterator[str]:
    """Yield the text as it is written, then decoded once, twice, and so on (as latin-1)."""
    yield text
    for _ in range(MAX_DECODINGS):
        if "%" not in text:
            return
        text = unquote(text, "latin-1")
        yield text
