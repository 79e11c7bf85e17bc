"""Records, and reading segments, across processes and while they are written.

The format, and the rule for torn tails, are in :mod:`proxy.events.spool`.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zlib import crc32

from proxy.events.spool.lock import is_owned
from proxy.events.spool.offsets import Offset
from proxy.events.truncate import MAX_LINE_BYTES, fit
from proxy.runtime.cpu_turns import yield_cpu_every

#: Bytes of a record before its line.
PREFIX: Final = 9


def encode_record(line: bytes) -> bytes:
    """The record of `line`, which has one line end, at its end."""
    return b"%08x %b" % (crc32(line), line)


def capped(record: bytes) -> bytes:
    """`record`, or the record of its line truncated to a length that every sink takes."""
    if len(record) <= MAX_LINE_BYTES:
        return record
    return encode_record(fit(record[PREFIX:], MAX_LINE_BYTES - PREFIX))


def decode_record(record: bytes) -> bytes | None:
    """The line of a record. Returns None for a damaged or incomplete record."""
    line = record[PREFIX:]
    # Compared as text: int() would also accept signs, spaces and underscores.
    whole = line.endswith(b"\n") and record[:PREFIX] == b"%08x " % crc32(line)
    return line if whole else None


#: Wide enough for milliseconds since 1970, so that names sort as numbers do.
_NAME: Final = re.compile(r"([0-9]{16})\.log")


@dataclass(frozen=True, slots=True)
class Batch:
    """What one call of :func:`read_batch` found.

    `lines` are JSON lines with their line ends. `offset` is the one behind them, to be written
    once they are accepted. `damaged` counts torn or corrupt records that were skipped.

    Without lines there is nothing to read now, but `offset` may have moved over damaged records.
    """

    lines: list[bytes]
    offset: Offset
    damaged: int


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"{number:016d}.log"


def segment_numbers(folder: Path) -> list[int]:
    """Segment numbers, oldest first. Empty when the folder is removed."""
    try:
        names = os.listdir(folder)  # noqa: PTH208  (names are all that is needed)
    except FileNotFoundError:
        return []
    return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))


def read_batch(
    folder: Path,
    offset: Offset,
    *,
    max_lines: int = 1000,
    max_bytes: int = 1024 * 1024,
    abandoned: bool = False,
) -> Batch:
    """Read the lines behind `offset`, across segments, up to about `max_bytes`.

    A missing segment (removed because the spool was full) is passed over. `abandoned` means that
    the caller owns the folder and writes nothing to it. Raises OSError.
    """
    lines: list[bytes] = []
    damaged = 0
    room = max_bytes
    while len(lines) < max_lines and room > 0:
        numbers = [number for number in segment_numbers(folder) if number >= offset.segment]
        if not numbers:
            break
        number = numbers[0]
        start = offset.byte if number == offset.segment else 0
        final = abandoned or len(numbers) > 1 or not is_owned(folder)
        try:
            data, at_end = _read(segment_path(folder, number), start, room, final=final)
        except FileNotFoundError:
            continue  # unlinked in between: list again
        taken = 0
        for record in yield_cpu_every(_records(data)):
            if len(lines) == max_lines:
                break
            taken += len(record)
            line = decode_record(record)
            if line is None:
                damaged += 1
            else:
                lines.append(line)
        room -= taken
        offset = Offset(number, start + taken)
        if not at_end or taken < len(data) or len(numbers) == 1:
            break
        offset = Offset(numbers[1], 0)
    return Batch(lines, offset, damaged)


def pending_bytes(folder: Path, offset: Offset) -> int:
    """Bytes behind `offset` that a sink has not read yet, damaged records included."""
    total = 0
    for number in segment_numbers(folder):
        if number >= offset.segment:
            done = offset.byte if number == offset.segment else 0
            total += max(0, segment_size(folder, number) - done)
    return total


def segment_size(folder: Path, number: int) -> int:
    """Size in bytes; 0 for a removed segment."""
    try:
        return segment_path(folder, number).stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path, start: int, max_bytes: int, *, final: bool) -> tuple[bytes, bool]:
    """Returns complete records from `start` on, at least one if there is one, and whether the end
    of the file is reached.

    `final` means that the segment is no longer written: bytes without a line end are returned too.
    """
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        data = os.pread(file.fileno(), max_bytes, start)
        while b"\n" not in data and start + len(data) < size:
            max_bytes *= 2  # a record larger than the limit
            data = os.pread(file.fileno(), max_bytes, start)
    at_end = start + len(data) >= size
    return (data if final and at_end else data[: data.rfind(b"\n") + 1]), at_end


def _records(data: bytes) -> Iterator[bytes]:
    """Records with their line ends; the last may lack it. `splitlines` would also split at a CR."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        yield data[start:end]
        start = end
