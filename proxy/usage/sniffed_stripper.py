"""A usage stripper for responses whose media type is missing or wrong.

The first bytes decide. An event stream is stripped; the bytes of any other body pass as they
arrive.
"""

from __future__ import annotations

from proxy.core.media_type import is_event_stream, is_json
from proxy.usage.sniff import kind_of, without_space
from proxy.usage.strip_usage import UsageStripper


class SniffedStripper:
    """A body transform: :class:`UsageStripper` for an event stream, nothing for another body."""

    __slots__ = ("_beginning", "_decided", "_filter")

    def __init__(self) -> None:
        self._filter: UsageStripper | None = None
        self._decided = False
        # The first bytes, while they do not decide the kind: the beginning of a field's name.
        self._beginning = b""

    @property
    def at_event_boundary(self) -> bool:
        """Whether an event of the proxy, sent now, would stand alone."""
        return self._filter is not None and self._filter.at_event_boundary

    def feed(self, chunk: bytes) -> bytes:
        """Return the bytes that may go out now, perhaps none. Never raises."""
        if self._filter is not None:
            return self._filter.feed(chunk)
        if self._decided:
            return chunk
        text = self._beginning + chunk
        content = without_space(text)
        space = text[: len(text) - len(content)]
        kind = kind_of(content)
        if kind is None:
            self._beginning = content
            return space
        self._beginning = b""
        self._decided = True
        if kind != "events":
            return text
        self._filter = UsageStripper()
        return space + self._filter.feed(content)

    def end(self) -> bytes:
        """Return the bytes that are held when the response has ended."""
        return self._beginning if self._filter is None else self._filter.end()


def unasked_filter(content_type: str, *, sized: bool) -> UsageStripper | SniffedStripper | None:
    """Return the body transform for a response to a request with injected `include_usage`.

    Returns None for JSON of a known length, which is a response that is not streamed.
    """
    if is_event_stream(content_type):
        return UsageStripper()
    if sized and is_json(content_type):
        return None
    return SniffedStripper()
