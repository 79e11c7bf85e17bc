"""The whole spool of a node stays within a size, over all writers.

Past it refusals of unknown tokens go first, out of all segments, then the oldest segments.

A segment that a living process is writing stays, whatever its size: it is small and its turn comes.
"""

import contextlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.events.folders import writer_folders
from proxy.events.ownership import is_owned, node_lock
from proxy.events.positions import read_position
from proxy.events.segments import segment_numbers, segment_path, segment_size
from proxy.events.thinning import thin

#: Segments that were thinned out, or looked through, by folder and number.
_read: Final[set[tuple[Path, int]]] = set()
#: Its number, folder and size, and whether somebody is writing it.
_Segment = tuple[int, Path, int, bool]


@dataclass(frozen=True, slots=True)
class Bounded:
    """``kept`` bytes remain; ``removed`` segments went, with ``lost`` records that some sink had
    not got; ``refused`` were taken out of segments that stay, whatever sinks have got of them."""

    kept: int
    removed: int
    lost: int
    refused: int = 0


def keep_within(root: Path, most: int, sinks: Collection[str]) -> Bounded:
    """Remove the oldest segments until at most ``most`` bytes are left. Raises OSError.

    A folder that cannot be read is as good as empty, a segment that cannot be removed stays.
    """
    with node_lock(root):  # or several workers would each make the room that one needs
        segments: list[_Segment] = []
        for folder in writer_folders(root):
            with contextlib.suppress(OSError):
                segments += _segments(folder)
        kept = sum(size for _, _, size, _ in segments)
        removed = lost = refused = 0
        if kept > most:
            segments, refused = _without_refusals(segments, kept - most, sinks)
            kept = sum(size for _, _, size, _ in segments)
        for number, folder, size, live in sorted(segments):
            if kept <= most:
                break
            if not live:
                with contextlib.suppress(OSError):
                    pending = _pending_records(folder, number, sinks)
                    segment_path(folder, number).unlink(missing_ok=True)
                    lost += pending
                    kept -= size
                    removed += 1
    return Bounded(kept, removed, lost, refused)


def _without_refusals(
    segments: list[_Segment], excess: int, sinks: Collection[str]
) -> tuple[list[_Segment], int]:
    """Thin out the oldest until ``excess`` bytes are free; each is read once by a process. What is
    left, and how many records went."""
    _read.intersection_update((folder, number) for number, folder, _, _ in segments)
    left: list[_Segment] = []
    refused = 0
    for number, folder, size, live in sorted(segments):
        name = folder, number
        freed = gone = 0
        if excess > 0 and not live and name not in _read:
            with contextlib.suppress(OSError):
                freed, gone = thin(folder, number, sinks)
                _read.add(name)
        if gone:
            _read.add((folder, number + 1))
            number += 1
        excess -= freed
        refused += gone
        if size > freed:
            left.append((number, folder, size - freed, live))
    return left, refused


def _segments(folder: Path) -> list[_Segment]:
    numbers = segment_numbers(folder)
    live = numbers[-1:] if is_owned(folder) else []
    return [(number, folder, segment_size(folder, number), number in live) for number in numbers]


def _pending_records(folder: Path, number: int, sinks: Collection[str]) -> int:
    """Records in this segment that the slowest of ``sinks`` has not got."""
    slowest = min((read_position(folder, sink) for sink in sinks), default=None)
    if slowest is None or slowest.segment > number:
        return 0
    start = slowest.offset if slowest.segment == number else 0
    try:
        with segment_path(folder, number).open("rb") as file:
            file.seek(start, os.SEEK_SET)
            return file.read().count(b"\n")
    except FileNotFoundError:
        return 0
