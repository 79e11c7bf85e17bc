"""The filter for a response that may be an event stream, by its first bytes.

For media types that are missing or wrong: where it is a stream, it is filtered as one; of anything
else all bytes pass when they come.
"""

from __future__ import annotations

from proxy.usage.sniff import kind_of, without_space
from proxy.usage.strip_usage import UsageStripper


class SniffedStripper:
    """:class:`UsageStripper` where that is meant, nothing elsewhere."""

    __slots__ = ("_beginning", "_decided", "_filter")

    def __init__(self) -> None:
        self._filter: UsageStripper | None = None
        self._decided = False
        # What has come and does not show yet what it is: the beginning of a field's name.
        self._beginning = b""

    @property
    def at_event_boundary(self) -> bool:
        """Whether an event of one's own, sent now, would stand alone."""
        return self._filter is not None and self._filter.at_event_boundary

    def feed(self, chunk: bytes) -> bytes:
        """What may go out now, perhaps nothing. Never raises."""
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
        """What is held when the response has come to its end."""
        return self._beginning if self._filter is None else self._filter.end()


def unasked_filter(content_type: str, *, sized: bool) -> UsageStripper | SniffedStripper | None:
    """The filter for a response to a request that was made to ask for its usage.

    None: JSON of a known length is a response that is not streamed.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "text/event-stream":
        return UsageStripper()
    if sized and (media_type == "application/json" or media_type.endswith("+json")):
        return None
    return SniffedStripper()
