"""Data URLs (RFC 2397) and base64 of any size. Long ones are read and written by pieces.

Clients write them in many ways: with blanks, with percent-escapes, with escaped slashes. One that
is plain base64 stays as it is.
"""

import base64
import codecs
from collections.abc import Iterable, Iterator
from urllib.parse import unquote_to_bytes

from proxy.usage.json_text import LongString, Text

#: What is not plain in base64: as it stands in JSON, where each other character is escaped.
_NOT_PLAIN = (b"%", b"\\", b" ")


def read(url: Text) -> tuple[str, Text]:
    """Return the media type and the base64 of a data URL, whatever its parameters.

    Raises ValueError: it is not complete.
    """
    text = url.head if isinstance(url, LongString) else url
    head, comma, rest = text.removeprefix(text[:5]).partition(",")
    if not comma:
        raise ValueError("must be a complete data URL")
    data = url.behind(len(head) + 6) if isinstance(url, LongString) else rest
    media_type, *parameters = [part.strip().lower() for part in head.split(";")]
    media_type = media_type or "text/plain"
    if "base64" not in parameters:
        return media_type, _whole(data, _in_base64(_unescaped(_pieces(data))))
    if isinstance(data, LongString):
        plain = not data.is_written_with(*_NOT_PLAIN)
    else:
        plain = "%" not in data and not any(map(str.isspace, data))
    if plain:
        return media_type, data
    texts = (piece.decode("latin-1") for piece in _unescaped(_pieces(data)))
    return media_type, _whole(data, ("".join(text.split()) for text in texts))


def text_of(data: Text) -> Text:
    """Return the text in UTF-8 that base64 stands for. Raises ValueError: there is none."""
    return _whole(data, _as_text(_pieces(data)))


def _pieces(data: Text) -> Iterable[str]:
    return data.decoded() if isinstance(data, LongString) else (data,)


def _whole(data: Text, pieces: Iterable[str]) -> Text:
    """Return the pieces as one, of the kind that `data` is."""
    return LongString.of(pieces) if isinstance(data, LongString) else "".join(pieces)


def _unescaped(pieces: Iterable[str]) -> Iterator[bytes]:
    """Yield the bytes that percent-escapes stand for."""
    carried = b""
    for piece in pieces:
        text = carried + piece.encode()
        escape = text.rfind(b"%", max(0, len(text) - 2))  # one that goes on in the next piece
        end = len(text) if escape < 0 else escape
        carried = text[end:]
        yield unquote_to_bytes(text[:end])
    yield unquote_to_bytes(carried)


def _in_base64(pieces: Iterable[bytes]) -> Iterator[str]:
    carried = b""
    for piece in pieces:
        data = carried + piece
        end = len(data) - len(data) % 3
        carried = data[end:]
        yield base64.b64encode(data[:end]).decode()
    yield base64.b64encode(carried).decode()


def _as_text(pieces: Iterable[str]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    carried, padded = "", False
    for piece in pieces:
        text = carried + piece
        end = len(text) - len(text) % 4
        carried = text[end:]
        if padded and text:
            raise ValueError("something follows the padding")
        padded = "=" in text[:end]
        yield decoder.decode(base64.b64decode(text[:end], validate=True))
    yield decoder.decode(base64.b64decode(carried, validate=True), final=True)
