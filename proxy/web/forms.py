"""The fields of a ``multipart/form-data`` body (RFC 7578), as uploads of audio and images are.

The thing to get wrong: this reads a form in order to refuse it, so it must see what the upstream's
parser will see. Parsers differ in everything that clients do not do; whatever is not written the
way that clients write it is refused.
"""

import re
from collections.abc import Iterator
from typing import Final

from proxy.errors import ClientError
from proxy.yielding import turn_if_due

#: A form has few fields; each has a few header lines.
MOST_PARTS: Final = 1000
LONGEST_VALUE: Final = 4096
_LONGEST_HEAD: Final = 4096
_SLICE: Final = 256 * 1024

_BOUNDARY: Final = re.compile(
    r"""multipart/form-data\s*;\s*boundary=(?:"([A-Za-z0-9'()+_,./:=?-]{1,70})"|"""
    r"""([A-Za-z0-9'+_.-]{1,70}))\s*(?:;\s*charset=utf-?8\s*)?""",
    re.IGNORECASE | re.ASCII,
)
# Names are plain: no escapes or percent signs, which parsers undo in different ways. Some clients
# (.NET) leave out the quotes.
_DISPOSITION: Final = re.compile(
    rb'form-data; *name=(?:"(?P<quoted>[A-Za-z0-9_.\[\]-]{1,100})"|(?P<token>[A-Za-z0-9_.-]+))'
    rb'(?P<file>(?:; *filename=(?:"[^"\\\r\n]*"|[A-Za-z0-9_.-]+))?'
    rb"(?:; *filename\*=[A-Za-z0-9!#$&+.^_`|~%'-]+)?)",
    re.IGNORECASE,
)
_PLAIN: Final = re.compile(rb'text/plain(?:; *charset=("?)(?:utf-?8|us-ascii)\1)?', re.IGNORECASE)
_HEADER: Final = re.compile(rb"(content-disposition|content-type|content-length): *(.*)", re.I)


def form_fields(body: bytes, content_type: str, wanted: frozenset[str]) -> dict[str, str]:
    """The values of the ``wanted`` fields; other names with an empty value.

    Raises ClientError ``invalid_request``: it is no form that everybody reads in the same way.
    """
    known = _BOUNDARY.fullmatch(content_type.strip())
    if known is None:
        raise _odd("its boundary")
    delimiter = b"--" + (known[1] or known[2]).encode()
    folded = {name.casefold() for name in wanted}
    found: dict[str, str] = {}
    for start, end in _parts(body, delimiter):
        name, is_plain, value_start = _head(body, start, end)
        # `model[]` is `model` to PHP and its kin.
        base = name.partition("[")[0]
        if base.casefold() == "_charset_":
            raise _odd("its charset")
        if base.casefold() not in folded:
            found.setdefault(name, "")
            continue
        if name in found or name != base:
            raise ClientError(f"`{base}` is in the form twice.", param=base)
        if not is_plain or end - value_start > LONGEST_VALUE:
            raise _odd(f"its field `{base}`")
        found[name] = _text(body[value_start:end], base)
    return found


def _parts(body: bytes, delimiter: bytes) -> Iterator[tuple[int, int]]:
    """Where the parts are, without the line breaks around them. Nothing large is copied."""
    if not body.startswith(delimiter + b"\r\n"):
        raise _odd("its start")
    start = len(delimiter) + 2
    for _ in range(MOST_PARTS):
        # In a file, too, the delimiter must not stand anywhere else.
        end = _find(body, delimiter, start)
        if end < start + 2 or body[end - 2 : end] != b"\r\n":
            raise _odd("its delimiters")
        yield start, end - 2
        start = end + len(delimiter) + 2
        behind = body[start - 2 : start]
        if behind == b"--" and body[start : start + 3] in (b"", b"\r\n"):
            return
        if behind != b"\r\n":
            raise _odd("its end")
    raise _odd(f"its more than {MOST_PARTS} parts")


def _find(body: bytes, delimiter: bytes, start: int) -> int:
    """As ``body.find``; a body that is nearly all delimiters takes a millisecond for each slice."""
    while start < len(body):
        found = body.find(delimiter, start, start + _SLICE + len(delimiter) - 1)
        if found >= 0:
            return found
        start += _SLICE
        turn_if_due()
    return -1


def _head(body: bytes, start: int, end: int) -> tuple[str, bool, int]:
    """Name, whether it is plain text and no file, and where the value begins."""
    value_start = body.find(b"\r\n\r\n", start, min(end, start + _LONGEST_HEAD)) + 4
    if value_start < start:
        raise _odd("the head of a part")
    headers: dict[bytes, bytes] = {}
    for line in body[start : value_start - 4].split(b"\r\n"):
        header = _HEADER.fullmatch(line)
        if header is None or header[1].lower() in headers:
            raise _odd("the head of a part")
        headers[header[1].lower()] = header[2]
    disposition = _DISPOSITION.fullmatch(headers.get(b"content-disposition", b""))
    if disposition is None:
        raise _odd("the name of a part")
    kind = _PLAIN.fullmatch(headers.get(b"content-type", b"text/plain"))
    name = (disposition["quoted"] or disposition["token"]).decode()
    return name, not disposition["file"] and kind is not None, value_start


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise _odd(f"its field `{name}`") from error


def _odd(what: str) -> ClientError:
    return ClientError(
        f"The rules of this access token read the body, and this form is unusual in {what}."
    )
