"""The usage that a WebSocket server reports in its messages.

It comes from responses in WebSocket mode (`response.completed`, `.incomplete`, `.failed`), from
realtime speech (`response.done`) and from transcription
(`conversation.item.input_audio_transcription.completed`): any final event with counts. Sources:
https://platform.openai.com/docs/api-reference/realtime-server-events, and `responses-streaming`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping

import orjson

from proxy.usage.counts import Usage
from proxy.usage.event_stream import USAGE
from proxy.usage.extract import read_response
from proxy.usage.frames import FrameReader, Message
from proxy.usage.kinds import is_final, is_generation
from proxy.usage.reading import Reading, source_of
from proxy.usage.skeleton import members_of

_MAX_MESSAGE = 256 * 1024
_MAX_RESPONSES = 1000  # whose ids are remembered; repetitions come soon
# The events that begin or end a response, whether they have counts or not.
_RESPONSE = re.compile(rb'"response\.(?:created|done|completed|incomplete|failed|cancelled)"')


class WebSocketMeter:
    """Adds up the usage of all final events of one connection.

    A response counts once, even if a service ends it under two names (`response.completed`, then
    `response.done`). The same name again for the same id is another response: some services give
    every response the same id.
    """

    __slots__ = ("_ended", "_frames", "_model", "_one_sided", "_open", "_usage")

    def __init__(self, max_message: int = _MAX_MESSAGE) -> None:
        self._frames: FrameReader | None = FrameReader(max_message)
        self._usage: Usage | None = None
        # From the events of the session, long before any counts.
        self._model: str | None = None
        # Ids of the responses in progress; and of those that ended, with the name of the event.
        self._open: set[str] = set()
        self._ended: dict[str, str] = {}
        self._one_sided = False

    def feed(self, chunk: bytes) -> None:
        """Read bytes from the server that have gone out. Never raises."""
        if self._frames is None:
            return
        try:
            for message in self._frames.feed(chunk):
                # A message that cannot be read loses its own counts at most.
                with contextlib.suppress(Exception):
                    self._read(message)
        except ValueError:  # not a WebSocket: the bytes are relayed all the same
            self._frames = None

    @property
    def at_frame_boundary(self) -> bool:
        """Whether a frame of the proxy may follow what has gone out."""
        return self._frames is not None and self._frames.at_boundary

    def result(self) -> Reading:
        """Return the counts of all final events; `partial` if a response has not ended."""
        usage = self._usage
        if usage is None:
            return Reading(Usage(model=self._model) if self._model else None, "none")
        named = usage._replace(model=usage.model or self._model)
        final = not self._open and not self._one_sided
        return Reading(named, source_of(named, final=final, generated=False))

    def _read(self, message: Message) -> None:
        event = self._decoded(message) if isinstance(message, bytes) else message
        if not isinstance(event, dict):
            return
        kind = event.get("type")
        if not isinstance(kind, str):
            return
        if "session." in kind and self._model is None:
            self._model = _session_model(event.get("session"))
        elif kind == "response.created":
            self._begin(_id_of(event))
        elif is_final(event):
            self._end(kind, event)

    def _decoded(self, message: bytes) -> object:
        """Return the decoded message, or None if it has nothing relevant."""
        if not (
            (b'"usage"' in message and USAGE.search(message))
            or _RESPONSE.search(message)
            or (self._model is None and b"session." in message)
        ):
            return None
        try:
            event: object = orjson.loads(message)
        except orjson.JSONDecodeError:
            return members_of(message)
        return event

    def _begin(self, response_id: str | None) -> None:
        if response_id is not None and len(self._open) < _MAX_RESPONSES:
            self._open.add(response_id)

    def _end(self, kind: str, event: Mapping[str, object]) -> None:
        seen, response_id = read_response(event), _id_of(event)
        if response_id is not None:
            self._open.discard(response_id)
            if self._ended.get(response_id, kind) != kind:
                return
        if not seen.has_counts:
            return
        if response_id is not None:
            self._ended[response_id] = kind
            if len(self._ended) > _MAX_RESPONSES:
                del self._ended[next(iter(self._ended))]
        missing = seen.prompt_tokens is None or seen.completion_tokens is None
        self._one_sided |= missing and is_generation(event)
        self._usage = seen if self._usage is None else self._usage.plus(seen)


def _id_of(event: Mapping[str, object]) -> str | None:
    """Return the id of the response that begins or ends."""
    response = event.get("response")
    found = response.get("id") if isinstance(response, dict) else None
    return found if isinstance(found, str) and found else None


def _session_model(session: object) -> str | None:
    """Return the model that generates, else the one that transcribes."""
    if not isinstance(session, dict):
        return None
    places: list[object] = [session, session.get("input_audio_transcription")]
    audio: object = session
    for name in ("audio", "input", "transcription"):
        audio = audio.get(name) if isinstance(audio, dict) else None
    for place in (*places, audio):
        model = place.get("model") if isinstance(place, dict) else None
        if isinstance(model, str) and model:
            return model
    return None
