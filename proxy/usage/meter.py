"""The usage meter of a response: `feed` each chunk, then `finish`; `reading` is the result.

No response waits for the result. Nothing that an upstream sends makes `feed` raise: bytes that
cannot be read are relayed and not metered.
"""

from __future__ import annotations

from proxy.usage.body_reader import BodyReader
from proxy.usage.counts import Usage
from proxy.usage.decompress import ENCODINGS, Inflater
from proxy.usage.event_stream import EventStream
from proxy.usage.extract import read_response
from proxy.usage.json_body import JsonBody
from proxy.usage.kinds import is_generation
from proxy.usage.reading import Reading, source_of
from proxy.usage.sniff import kind_of, without_space

# Never JSON or events, and often large.
_BINARY = ("audio/", "image/", "video/", "font/", "multipart/")
# Files and lists of documents: a "usage" in them is that of an earlier request.
_NO_DOCUMENT = frozenset(
    {
        "application/octet-stream",
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
    }
)
_BRACE = 0x7B  # {
_NOTHING = Reading(None, "none")


class UsageMeter(BodyReader):
    """Reads the usage of one response, by its media type: JSON, SSE, or nothing.

    If the type is missing or does not fit the first bytes, those decide. `max_bytes` bounds what is
    held: larger events and bodies are read while they pass. Compressed responses are inflated on
    the side; with an encoding other than gzip and deflate they are not metered.
    """

    __slots__ = (
        "_beginning",
        "_body",
        "_document",
        "_events",
        "_max",
        "is_event_stream",
        "reading",
    )

    def __init__(
        self, content_type: str, content_encoding: str = "", max_bytes: int = 256 * 1024
    ) -> None:
        media_type = content_type.partition(";")[0].strip().lower()
        encoding = content_encoding.strip().lower()
        self._max = max_bytes
        #: The usage, once the meter is finished.
        self.reading = _NOTHING
        self._body: JsonBody | None = None
        self._events: EventStream | None = None
        self._inflater = None
        self._take = None
        # The first bytes, while they do not decide the kind.
        self._beginning = b""
        #: Whether it is an event stream, by its media type or by its first bytes.
        self.is_event_stream = media_type == "text/event-stream"
        # Whether it may be one JSON document.
        self._document = True
        if encoding in ENCODINGS:
            self._inflater = Inflater(encoding)
        elif encoding not in ("", "identity"):
            return
        if media_type == "application/json":
            self._take = self._begin
        elif self.is_event_stream:
            self._events = EventStream(max_bytes)
            self._take = self._begin_events
        elif not media_type.startswith(_BINARY):
            self._document = media_type not in _NO_DOCUMENT
            self._take = self._begin

    @property
    def at_event_boundary(self) -> bool:
        """Whether an SSE event of the proxy, sent now, would stand alone. False if compressed."""
        return (
            self._events is not None
            and self._inflater is None
            and self._take is not None
            and self._events.at_boundary
        )

    def finish(self, complete: bool) -> None:
        """Set :attr:`reading`. `complete` means that the upstream ended the response itself."""
        if self._take is None:
            self.reading = Reading(self._events.first if self._events else None, "none")
        elif self._events is not None:
            self.reading = self._events.result(complete)
        elif self._body is not None:
            response = self._body.result()
            usage = read_response(response)
            # A JSON body has its counts once, so they are final even if it was cut behind them.
            if not usage.has_counts:
                self.reading = Reading(None if usage == Usage() else usage, "none")
            elif usage.prompt_tokens is None or usage.completion_tokens is None:
                source = source_of(usage, final=True, generated=is_generation(response))
                self.reading = Reading(usage, source)
            else:
                self.reading = Reading(usage, "reported")

    def _begin(self, chunk: bytes) -> None:
        """Read chunks until the first bytes decide the kind."""
        if chunk and chunk[0] == _BRACE and not self._beginning and self._document:
            self._body = JsonBody(self._max)
            self._take = self._body.feed
            self._take(chunk)
            return
        beginning = without_space(self._beginning + chunk)
        kind = kind_of(beginning)
        if kind is None:
            self._beginning = beginning
            return
        self._take = None
        if kind == "events":
            self.is_event_stream = True
            self._events = EventStream(self._max)
            self._take = self._events.feed
        elif kind == "json" and self._document:
            self._body = JsonBody(self._max)
            self._take = self._body.feed
        if self._take is not None:
            self._take(beginning)

    def _begin_events(self, chunk: bytes) -> None:
        """Read the first chunks of a response with the media type of an event stream."""
        if self._events is None:
            return
        beginning = without_space(self._beginning + chunk)
        kind = kind_of(beginning)
        if kind == "json":
            self.is_event_stream = False
            self._events = None
            self._beginning = b""
            self._begin(beginning)
            return
        self._beginning = beginning
        if kind is not None:
            self._take = self._events.feed
        self._events.feed(chunk)
