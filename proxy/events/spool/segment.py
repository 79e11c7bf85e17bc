"""Reading a writer's folder: segments ``<number>.log``, each a run of records, oldest first.

Works across processes, on a folder that is being written to. The thing to get wrong: the last bytes
of a segment may be half a record that is just being written. They are a torn tail, to be skipped
and counted, only when nobody will complete them: when a later segment exists or the writer is gone,
and that has to be known *before* the bytes are read.
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

#: Bytes in front of the line itself.
PREFIX: Final = 9


def encode_record(line: bytes) -> bytes:
    """The record of ``line``, which ends with its only line end."""
    return b"%08x %b" % (crc32(line), line)


def capped(record: bytes) -> bytes:
    """``record`` itself, or that of its line cut to what every sink takes."""
    if len(record) <= MAX_LINE_BYTES:
        return record
    return encode_record(fit(record[PREFIX:], MAX_LINE_BYTES - PREFIX))


def decode_record(record: bytes) -> bytes | None:
    """The line of a record; None when it is damaged or not whole."""
    line = record[PREFIX:]
    # Compared as text: int() would take signs, spaces and underscores as well.
    whole = line.endswith(b"\n") and record[:PREFIX] == b"%08x " % crc32(line)
    return line if whole else None


#: Wide enough for milliseconds since 1970, so that names sort as numbers do.
_NAME: Final = re.compile(r"([0-9]{16})\.log")


@dataclass(frozen=True, slots=True)
class Batch:
    """``lines``: JSON, each with its line end. ``position``: behind them; to be written once they
    are accepted. ``damaged``: torn or corrupt records that were skipped on the way.

    Without lines there is nothing to read now; the position may have moved over damage all the
    same.
    """

    lines: list[bytes]
    position: Offset
    damaged: int


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"{number:016d}.log"


def segment_numbers(folder: Path) -> list[int]:
    """Oldest first; empty when the folder is gone."""
    try:
        names = os.listdir(folder)  # noqa: PTH208  (names are all that is needed)
    except FileNotFoundError:
        return []
    return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))


def read_batch(
    folder: Path,
    position: Offset,
    *,
    max_lines: int = 1000,
    max_bytes: int = 1024 * 1024,
    abandoned: bool = False,
) -> Batch:
    """What stands behind ``position``, over the ends of segments, up to about ``max_bytes``.

    A segment that is missing (the spool was full and it had to go) is passed over. ``abandoned``:
    the caller owns the folder himself, and writes nothing. Raises OSError.
    """
    lines: list[bytes] = []
    damaged = 0
    room = max_bytes
    while len(lines) < max_lines and room > 0:
        numbers = [number for number in segment_numbers(folder) if number >= position.segment]
        if not numbers:
            break
        number = numbers[0]
        start = position.offset if number == position.segment else 0
        final = abandoned or len(numbers) > 1 or not is_owned(folder)
        try:
            data, at_end = _read(segment_path(folder, number), start, room, final=final)
        except FileNotFoundError:
            continue  # unlinked in between: look again
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
        position = Offset(number, start + taken)
        if not at_end or taken < len(data) or len(numbers) == 1:
            break
        position = Offset(numbers[1], 0)
    return Batch(lines, position, damaged)


def pending_bytes(folder: Path, position: Offset) -> int:
    """How much stands behind ``position``, damage included: what a sink still has before it."""
    total = 0
    for number in segment_numbers(folder):
        if number >= position.segment:
            done = position.offset if number == position.segment else 0
            total += max(0, segment_size(folder, number) - done)
    return total


def segment_size(folder: Path, number: int) -> int:
    """In bytes; 0 when it is gone."""
    try:
        return segment_path(folder, number).stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path, start: int, most: int, *, final: bool) -> tuple[bytes, bool]:
    """Whole records from ``start`` on, one at least if there is one; and whether that is all.

    ``final``: nobody writes there any more, so what has no line end is given as well.
    """
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        data = os.pread(file.fileno(), most, start)
        while b"\n" not in data and start + len(data) < size:
            most *= 2  # a giant among records
            data = os.pread(file.fileno(), most, start)
    at_end = start + len(data) >= size
    return (data if final and at_end else data[: data.rfind(b"\n") + 1]), at_end


def _records(data: bytes) -> Iterator[bytes]:
    """Each with its line end, but perhaps the last. ``splitlines`` would end them at a CR, too."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        yield data[start:end]
        start = end
