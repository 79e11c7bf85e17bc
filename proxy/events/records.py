"""How a line stands in the spool: ``<crc32, 8 hex digits> <json>\\n``.

The checksum is over the JSON and its line end. A line of JSON never has a line end inside, so a
reader that meets damage finds the next record behind the next line end.
"""

from typing import Final
from zlib import crc32

from proxy.events.shorten import MAX_LINE_BYTES, fit

#: Bytes in front of the line itself.
PREFIX: Final = 9


def framed(line: bytes) -> bytes:
    """The record of ``line``, which ends with its only line end."""
    return b"%08x %b" % (crc32(line), line)


def capped(record: bytes) -> bytes:
    """``record`` itself, or that of its line cut to what every sink takes."""
    if len(record) <= MAX_LINE_BYTES:
        return record
    return framed(fit(record[PREFIX:], MAX_LINE_BYTES - PREFIX))


def line_of(record: bytes) -> bytes | None:
    """The line of a record; None when it is damaged or not whole."""
    line = record[PREFIX:]
    # Compared as text: int() would take signs, spaces and underscores as well.
    whole = line.endswith(b"\n") and record[:PREFIX] == b"%08x " % crc32(line)
    return line if whole else None
