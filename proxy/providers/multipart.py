"""The fields of a `multipart/form-data` body (RFC 7578): uploads of audio and images.

Note: policies are checked against these fields, and one of them is replaced, so they must be the
fields that the upstream's parser sees. Parsers agree on the forms that clients write and differ on
all others. So a form in any other style is refused.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from proxy.core.errors import ClientError
from proxy.runtime.yielding import turn_if_due

#: Real forms have few parts, with short values and a few header lines.
MAX_PARTS: Final = 1000
MAX_VALUE_BYTES: Final = 4096
_MAX_HEAD_BYTES: Final = 4096
_SLICE_BYTES: Final = 256 * 1024

_CHARSET: Final = r"""(?:\s*;\s*charset=(?:utf-?8|us-ascii|"utf-?8"|"us-ascii"))?"""
_BOUNDARY: Final = re.compile(
    rf"""multipart/form-data{_CHARSET}\s*;\s*boundary=(?:"([A-Za-z0-9'()+_,./:=?-]{{1,70}})"|"""
    rf"""([A-Za-z0-9'+_.-]{{1,70}})){_CHARSET}\s*""",
    re.IGNORECASE | re.ASCII,
)
# Names are plain, without escapes and percent signs, which parsers decode in different ways. Some
# clients (.NET) omit the quotes.
_DISPOSITION: Final = re.compile(
    rb'form-data; *name=(?:"(?P<quoted>[A-Za-z0-9_.\[\]-]{1,100})"|(?P<token>[A-Za-z0-9_.-]+))'
    rb'(?P<file>(?:; *filename=(?:"(?P<filename>(?:[^"\\\r\n]|\\[^\r\n])*)"|[A-Za-z0-9_.-]+))?'
    rb"(?:; *filename\*=[A-Za-z0-9!#$&+.^_`|~%'-]+)?)",
    re.IGNORECASE,
)
_PLAIN: Final = re.compile(
    rb'text/plain(?:; *charset=("?)(?:utf-?8|us-ascii|(?P<latin>iso-8859-1|windows-1252))\1)?',
    re.IGNORECASE,
)
_HEADER: Final = re.compile(rb"([A-Za-z0-9!#$%&'*+.^_`|~-]+):[ \t]*([^\r\n\0]*)")
#: Codings that change nothing (RFC 2045 §6.2).
_UNCODED: Final = frozenset({b"7bit", b"8bit", b"binary"})


class Part(NamedTuple):
    """One part of a form: its head begins at `start`, its value is the span behind it.

    `name` is as it is written, such as `file` or `model[]`. `charset` is that of a text field;
    it is empty for a file or anything else.
    """

    name: str
    charset: str
    start: int
    value_start: int
    end: int

    @property
    def base(self) -> str:
        """The name to PHP and its kin, for which `model[]` is `model`."""
        return self.name.partition("[")[0]


def delimiter_of(content_type: str) -> bytes:
    """Return what stands at the begin of each part: two dashes and the boundary.

    Raises ClientError `invalid_request`.
    """
    known = _BOUNDARY.fullmatch(content_type.strip())
    if known is None:
        raise _unusual("its boundary")
    return b"--" + (known[1] or known[2]).encode()


def form_parts(body: bytes, delimiter: bytes) -> Iterator[Part]:
    """Return the parts in their order, equal names included.

    Raises ClientError `invalid_request` for a form that parsers may read in different ways.
    """
    for start, end in _parts(body, delimiter):
        name, charset, value_start = _head(body, start, end)
        part = Part(name, charset, start, value_start, end)
        if part.base.casefold() == "_charset_":
            raise _unusual("its charset")
        yield part


def text_of(body: bytes, part: Part) -> str:
    """Return the value of a field. Raises ClientError `invalid_request`: it is no plain text."""
    value = body[part.value_start : part.end] if part.charset else b""
    if not part.charset or len(value) > MAX_VALUE_BYTES:
        raise _unusual(f"its field `{part.base}`")
    try:
        return value.decode(part.charset)
    except UnicodeDecodeError as error:
        raise _unusual(f"its field `{part.base}`") from error


def form_fields(body: bytes, content_type: str, wanted: frozenset[str]) -> dict[str, str]:
    """Return the values of the `wanted` fields, and the other names with an empty value.

    Raises ClientError `invalid_request` for a form that parsers may read in different ways.
    """
    folded = {name.casefold() for name in wanted}
    found: dict[str, str] = {}
    for part in form_parts(body, delimiter_of(content_type)):
        if part.base.casefold() not in folded:
            found.setdefault(part.name, "")
            continue
        if part.name in found or part.name != part.base:
            raise ClientError(f"`{part.base}` is in the form twice.", param=part.base)
        found[part.name] = text_of(body, part)
    return found


def _parts(body: bytes, delimiter: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of each part, without the line breaks around it. Copies nothing large."""
    if not body.startswith(delimiter + b"\r\n"):
        raise _unusual("its start")
    start = len(delimiter) + 2
    for _ in range(MAX_PARTS):
        # The delimiter must not occur anywhere else, not even in a file.
        end = _find(body, delimiter, start)
        if end < start + 2 or body[end - 2 : end] != b"\r\n":
            raise _unusual("its delimiters")
        yield start, end - 2
        start = end + len(delimiter) + 2
        behind = body[start - 2 : start]
        if behind == b"--" and body[start : start + 3] in (b"", b"\r\n"):
            return
        if behind != b"\r\n":
            raise _unusual("its end")
    raise _unusual(f"its more than {MAX_PARTS} parts")


def _find(body: bytes, delimiter: bytes, start: int) -> int:
    """Return `body.find(…)`, by slices: one that is nearly all delimiters takes a millisecond."""
    while start < len(body):
        found = body.find(delimiter, start, start + _SLICE_BYTES + len(delimiter) - 1)
        if found >= 0:
            return found
        start += _SLICE_BYTES
        turn_if_due()
    return -1


def _head(body: bytes, start: int, end: int) -> tuple[str, str, int]:
    """Return the name, the charset, and the start of the value of one part.

    The charset is `""` for a file and for anything but plain text. Lines about neither the name
    nor the value are ignored.
    """
    value_start = body.find(b"\r\n\r\n", start, min(end, start + _MAX_HEAD_BYTES)) + 4
    if value_start < start:
        raise _unusual("the head of a part")
    headers: dict[bytes, list[bytes]] = {}
    for line in body[start : value_start - 4].split(b"\r\n"):
        header = _HEADER.fullmatch(line)
        if header is None:
            raise _unusual("the head of a part")
        # Some frameworks read an underscore in the name of a header as a dash.
        headers.setdefault(header[1].lower().replace(b"_", b"-"), []).append(header[2].rstrip())
    dispositions = headers.get(b"content-disposition", [])
    disposition = _DISPOSITION.fullmatch(dispositions[0]) if len(dispositions) == 1 else None
    if disposition is None:
        raise _unusual("the name of a part")
    filename = disposition["filename"] or b""
    if b'\\"' in filename and b";" in filename:
        # A parser without escapes ends the file's name there and begins a parameter.
        raise _unusual("the name of a file")
    name = (disposition["quoted"] or disposition["token"]).decode()
    return name, "" if disposition["file"] else _charset(headers), value_start


def _charset(headers: dict[bytes, list[bytes]]) -> str:
    """Return the charset of a part that is plain, unencoded text, else `""`."""
    kinds = headers.get(b"content-type", [b"text/plain"])
    kind = _PLAIN.fullmatch(kinds[0]) if len(kinds) == 1 else None
    codings = headers.get(b"content-transfer-encoding", [])
    if kind is None or b"content-encoding" in headers:
        return ""
    if any(coding.lower() not in _UNCODED for coding in codings):
        return ""
    # With a Latin charset, only the characters that it shares with UTF-8 are read.
    return "ascii" if kind["latin"] else "utf-8"


def _unusual(what: str) -> ClientError:
    return ClientError(
        f"This form must be read, and is unusual in {what}: write it as a client library does."
    )
