"""What both directions of the translation share: encoded requests, errors, bodies that are held."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from proxy.core.errors import ClientError, ResponseBroken
from proxy.core.media_type import is_event_stream, is_json
from proxy.providers.base import BodyTransform, HeaderList, ResponseTransform
from proxy.providers.transforms import header, transformed
from proxy.runtime.yielding import joined
from proxy.usage.decompress import ENCODINGS, Inflater
from proxy.usage.json_slices import AT_ONCE
from proxy.usage.json_text import LargeDict, encoded_in_turns

#: The largest message that is translated. No model writes as much.
MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
#: Sequences at which a model stops.
MAX_STOPS: Final = 1000
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


def wrong(path: str, why: str) -> ClientError:
    """Return the refusal of a request for what stands at `path`: it "must be …", or "is …"."""
    return ClientError(f"`{path}` {why}.", param=path)


def error_response(
    lines: HeaderList, status: int, shaped: Callable[[bytes, int], bytes]
) -> ResponseTransform | None:
    """Return the transform of a response that is an error, or that nothing here can read.

    None: it is neither. `lines` are those of the response; `shaped` makes an error of a body and a
    status.
    """
    content_type = header(lines, "content-type")
    events = is_event_stream(content_type) and status < 400
    if not _is_readable(_encoding(lines)) or not (is_json(content_type) or events):
        # A page of a server between the two. A rate limit stays one, whoever sets it.
        status = status if status == 429 else 502
        return _with_json(lines, WholeMessage(lambda _: shaped(b"", status)), status)
    if status >= 400:
        return as_json(lines, lambda text: shaped(text, status), status)
    return None


def as_json(lines: HeaderList, change: Callable[[bytes], bytes], status: int) -> ResponseTransform:
    """Return the transform of a response whose whole body is changed, and becomes JSON."""
    return _with_json(lines, _plain(WholeMessage(change), lines), status)


def as_events(lines: HeaderList, body: BodyTransform) -> ResponseTransform:
    """Return the transform of a response that becomes a stream by `body`."""
    kept = [line for line in lines if line[0].lower() != "content-encoding"]
    return transformed(kept, _plain(body, lines))


def object_of(text: bytes, noun: str) -> dict[str, Any]:
    """Decode a whole body, which should be a `noun`. Raises ResponseBroken: it is no object."""
    try:
        decoded = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ResponseBroken(f"the upstream's {noun} is no JSON") from error
    if not isinstance(decoded, dict):
        raise ResponseBroken(f"the upstream's {noun} is no object")
    return decoded


def string_in(holder: Mapping[str, Any], name: str) -> str:
    """Return a member that is a string; empty for a missing one, and for another type."""
    value = holder.get(name)
    return value if isinstance(value, str) else ""


def _with_json(lines: HeaderList, body: BodyTransform, status: int) -> ResponseTransform:
    kept = [line for line in lines if line[0].lower() not in _NOT_OF_JSON]
    found = transformed([*kept, JSON], body)
    return ResponseTransform(found.headers, found.body, status)


def _encoding(lines: HeaderList) -> str:
    return header(lines, "content-encoding").strip().lower()


def _is_readable(encoding: str) -> bool:
    return encoding in ("", "identity", *ENCODINGS)


def _plain(body: BodyTransform, lines: HeaderList) -> BodyTransform:
    """Return `body` for input that is compressed, although the request asks for none."""
    encoding = _encoding(lines)
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
