"""What both directions of the translation share: encoded requests, and bodies that are held."""

from collections.abc import Callable
from typing import Any, Final

import orjson

from proxy.core.errors import ClientError, ResponseBroken
from proxy.providers.base import BodyTransform, HeaderList, ResponseTransform
from proxy.providers.transforms import transformed
from proxy.runtime.yielding import joined
from proxy.usage.decompress import ENCODINGS, Inflater
from proxy.usage.json_slices import AT_ONCE
from proxy.usage.json_text import LargeDict, encoded_in_turns

#: The largest message that is translated. No model writes as much.
MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
#: Bytes that are copied in half a millisecond.
_JOINED_AT_ONCE: Final = 2 * 1024 * 1024
_NOT_OF_JSON: Final = frozenset({"content-type", "content-encoding"})
JSON: Final = ("Content-Type", "application/json")


def is_large(body: Any) -> bool:
    """Whether the body of a request is translated in turns."""
    return isinstance(body, bytes) and len(body) > AT_ONCE


def encoded(made: dict[str, Any], *, large: bool) -> bytes:
    """Encode a request. `large`: in turns.

    Raises ClientError: it nests too deep.
    """
    try:
        if not large:
            return orjson.dumps(made)
        pieces = encoded_in_turns(LargeDict(made))
    except (TypeError, RecursionError) as error:
        raise ClientError("The body of this request nests too deep.") from error
    size = sum(map(len, pieces))
    return b"".join(pieces) if size <= _JOINED_AT_ONCE else joined(pieces)


def is_readable(encoding: str) -> bool:
    """Whether a body with this `content-encoding`, in lower case, can be read."""
    return encoding in ("", "identity", *ENCODINGS)


def as_json(lines: HeaderList, body: BodyTransform, status: int) -> ResponseTransform:
    """Return the transform of a response whose body becomes JSON. It has other lines, too."""
    lines = [line for line in lines if line[0].lower() not in _NOT_OF_JSON]
    found = transformed([*lines, JSON], body)
    return ResponseTransform(found.headers, found.body, status)


def plain(body: BodyTransform, encoding: str) -> BodyTransform:
    """Return `body` for input that is compressed, although the request asks for none."""
    return _Inflated(body, encoding) if encoding in ENCODINGS else body


class WholeMessage:
    """A body that is held until its end, and then changed."""

    __slots__ = ("_change", "_held")

    at_event_boundary = False

    def __init__(self, change: Callable[[bytes], bytes]) -> None:
        self._change = change
        self._held = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """Return nothing. Raises ResponseBroken for a body that is too large."""
        self._held += chunk
        if len(self._held) > MAX_MESSAGE_BYTES:
            raise ResponseBroken("the upstream's message is too large to be translated")
        return b""

    def end(self) -> bytes:
        return self._change(bytes(self._held))


class _Inflated:
    """A transform whose input is compressed."""

    __slots__ = ("_body", "_inflater")

    def __init__(self, body: BodyTransform, encoding: str) -> None:
        self._body = body
        self._inflater = Inflater(encoding)

    @property
    def at_event_boundary(self) -> bool:
        return self._body.at_event_boundary

    def feed(self, chunk: bytes) -> bytes:
        """Raises ResponseBroken for what is not compressed as it says."""
        try:
            return b"".join([self._body.feed(piece) for piece in self._inflater.feed(chunk)])
        except ValueError as error:
            raise ResponseBroken("the upstream's compression is broken") from error

    def end(self) -> bytes:
        return self._body.end()
