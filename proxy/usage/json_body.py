"""A JSON body that arrives in pieces: held while it is small, else read while it passes."""

from __future__ import annotations

import orjson

from proxy.usage.skeleton import Skeleton, members_of

# A body of up to this many bytes is parsed whole, or scanned at once if it is not JSON: 8 ms at
# most, for brackets alone.
_WHOLE = 64 * 1024


class JsonBody:
    """Collects a JSON body: `feed` each chunk, then `result`."""

    __slots__ = ("_held", "_max", "_skeleton")

    def __init__(self, max_bytes: int) -> None:
        self._max = min(max_bytes, _WHOLE)
        self._held = bytearray()
        self._skeleton: Skeleton | None = None

    def feed(self, chunk: bytes) -> None:
        """Keep the chunk, or its relevant members."""
        if self._skeleton is not None:
            self._skeleton.feed(chunk)
            return
        self._held += chunk
        if len(self._held) > self._max:
            self._skeleton = Skeleton()
            self._skeleton.feed(bytes(self._held))
            self._held.clear()

    def result(self) -> object:
        """Return the decoded body.

        For a body that is large, cut short or not quite JSON, returns the members that matter
        (:mod:`proxy.usage.skeleton`).
        """
        if self._skeleton is not None:
            return self._skeleton.members
        try:
            parsed: object = orjson.loads(self._held)
        except orjson.JSONDecodeError:
            return members_of(bytes(self._held))
        return parsed
