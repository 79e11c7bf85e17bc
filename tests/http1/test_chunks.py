"""Chunked bodies: what gunicorn's reader gives, and lines that are too long."""

from types import SimpleNamespace

import pytest
from gunicorn.http import errors
from gunicorn.http.unreader import IterUnreader

from proxy.http1.chunks import MAX_SIZE_LINE, Chunks


def read(data: bytes, by: int) -> bytes:
    pieces = [data[at : at + by] for at in range(0, len(data), by)]
    request = SimpleNamespace(
        limit_request_field_size=32760,
        max_buffer_headers=131072,
        parse_headers=lambda data, from_trailer: [],
    )
    return Chunks(request, IterUnreader(iter(pieces))).read(1 << 20)


@pytest.mark.parametrize("by", [1, 7, 1 << 20])
def test_extensions_are_read_over(by: int) -> None:
    signature = b"chunk-signature=" + b"0" * 64
    assert (
        read(b'4;%b\r\nabcd\r\n5;a="b;c"\r\nefghi\r\n0;a\r\n\r\n' % signature, by) == b"abcdefghi"
    )
    longest = b"4;" + b"a" * (MAX_SIZE_LINE - 2)
    assert read(longest + b"\r\nabcd\r\n0\r\n\r\n", by) == b"abcd"


@pytest.mark.parametrize("by", [1, 700, 1 << 20])
@pytest.mark.parametrize("before", [b"", b"1\r\nx\r\n"])
@pytest.mark.parametrize("end", [b"", b"\r\nabcd\r\n0\r\n\r\n"])
def test_a_size_line_is_bounded(before: bytes, end: bytes, by: int) -> None:
    """Its end may be in sight already, or never come."""
    line = b"4;" + b"a" * (MAX_SIZE_LINE - 1)
    with pytest.raises(errors.InvalidChunkSize):
        read(before + line + end + b"a" * (0 if end else 100_000), by)
