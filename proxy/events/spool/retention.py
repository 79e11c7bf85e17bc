"""Which segments and folders of a node's spool are kept, and for which sinks.

The rules are in :mod:`proxy.events.spool`. ``sinks.json`` names the sinks for which segments are
kept. A new sink begins with the oldest segment there is; a sink that is no longer named holds
nothing back. A segment is removed when every named sink has passed it, a folder when it is
abandoned and holds neither segments nor an in-flight table.
"""

import contextlib
import json
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.events.spool.lock import acquire, is_owned, node_lock, remove_lock
from proxy.events.spool.offsets import (
    SINK_NAME,
    Offset,
    make_durable,
    read_offset,
    remove_offsets,
    sync_folder,
)
from proxy.events.spool.segment import segment_numbers, segment_path, segment_size
from proxy.events.spool.thinning import thin

#: The name of the worker's own sink, which EVENT_LOG sets.
LOCAL: Final = "local"
#: File name of the in-flight table, see proxy/events/spool/inflight_table.py; and the one before
#: 0.1.0, which a worker that was killed before the upgrade has left.
INFLIGHT_TABLE: Final = "inflight"
OLD_INFLIGHT_TABLE: Final = "intents"
_SINKS: Final = "sinks.json"
#: Names that SegmentWriter.create makes. Other names (lost+found, a copy) are left alone.
_FOLDER: Final = re.compile(r"[0-9]{14}-[0-9]+-[0-9a-f]{16}")


def writer_folders(root: Path) -> list[Path]:
    """The folders of all writers of the node, running or ended, oldest first."""
    try:
        with os.scandir(root) as found:
            return sorted(
                Path(entry.path)
                for entry in found
                if _FOLDER.fullmatch(entry.name) and entry.is_dir()
            )
    except FileNotFoundError:
        return []


def register_sinks(root: Path, names: Collection[str]) -> None:
    """Keep segments for exactly these sinks from now on. Raises OSError."""
    for name in names:
        if not SINK_NAME.fullmatch(name):
            raise ValueError(f"not a name for a sink: {name!r}")
    content = json.dumps(sorted(names)) + "\n"
    path = root / _SINKS
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.read_text() == content:
        return
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.touch(0o600)
    with fresh.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(root)


def registered_sinks(root: Path) -> frozenset[str] | None:
    """The sinks of ``sinks.json``. Returns None without a readable file: nothing may be removed."""
    try:
        return frozenset(json.loads((root / _SINKS).read_text()))
    except (OSError, ValueError):
        return None


def has_inflight_table(folder: Path) -> bool:
    return (folder / INFLIGHT_TABLE).exists() or (folder / OLD_INFLIGHT_TABLE).exists()


def reclaim(folder: Path, sinks: Collection[str], *, live: int | None = None) -> None:
    """Remove the segments that every sink has passed, except `live`, which is being written.

    Only the folder's owner may call it. Offsets are made durable first. Raises OSError.
    """
    offsets = [read_offset(folder, sink) for sink in sinks]
    numbers = [number for number in segment_numbers(folder) if number != live]
    passed = [number for number in numbers if _passed(folder, number, offsets)]
    if not passed:
        return
    for sink in sinks:
        make_durable(folder, sink)
    sync_folder(folder)
    for number in passed:
        segment_path(folder, number).unlink(missing_ok=True)


def tidy(folder: Path, sinks: Collection[str] | None) -> None:
    """Remove the segments of an abandoned folder that no sink needs, and the folder once it is
    empty. A folder with an owner is left alone.

    Called after an offset has moved, with the result of :func:`registered_sinks`. A folder with
    slots is left alone too: a worker turns them into records first, and it needs the segments to
    know which of them are records already. Raises OSError.
    """
    if sinks is None or has_inflight_table(folder):
        return
    with node_lock(folder.parent):
        ownership = acquire(folder)
    if ownership is not None:
        try:
            reclaim(folder, sinks)
            remove_if_empty(folder)
        finally:
            ownership.release()


def remove_if_empty(folder: Path) -> bool:
    """Remove a folder without segments and in-flight table. Returns whether it did. Raises OSError.

    Only the folder's owner may call it.
    """
    if segment_numbers(folder) or has_inflight_table(folder):
        return False
    remove_offsets(folder)
    remove_lock(folder)
    folder.rmdir()
    return True


def _passed(folder: Path, number: int, offsets: Collection[Offset]) -> bool:
    end = Offset(number, segment_size(folder, number))
    return not end.byte or all(offset >= end for offset in offsets)


#: Segments that this process has thinned or searched, by folder and number.
_read: Final[set[tuple[Path, int]]] = set()
#: Number, folder, size in bytes, and whether it is being written.
_Segment = tuple[int, Path, int, bool]


@dataclass(frozen=True, slots=True)
class Bounded:
    """Result of :func:`enforce_max_bytes`.

    `kept` bytes remain. `removed` segments are gone, with `lost` records that at least one sink had
    not read. `refused` records were removed from segments that stay, whether sinks had read them or
    not.
    """

    kept: int
    removed: int
    lost: int
    refused: int = 0


def enforce_max_bytes(root: Path, max_bytes: int, sinks: Collection[str]) -> Bounded:
    """Remove the oldest segments until at most `max_bytes` are left. Raises OSError.

    A folder that cannot be read counts as empty; a segment that cannot be removed stays.
    """
    with node_lock(root):  # or several workers would each free the space that one needs
        segments: list[_Segment] = []
        for folder in writer_folders(root):
            with contextlib.suppress(OSError):
                segments += _segments(folder)
        kept = sum(size for _, _, size, _ in segments)
        removed = lost = refused = 0
        if kept > max_bytes:
            segments, refused = _without_refusals(segments, kept - max_bytes, sinks)
            kept = sum(size for _, _, size, _ in segments)
        for number, folder, size, live in sorted(segments):
            if kept <= max_bytes:
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
    """Thin the oldest segments until `excess` bytes are free; a process reads each segment once.

    Returns the remaining segments and the number of removed records.
    """
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
    """Number of records in this segment that the slowest of `sinks` has not read."""
    slowest = min((read_offset(folder, sink) for sink in sinks), default=None)
    if slowest is None or slowest.segment > number:
        return 0
    start = slowest.byte if slowest.segment == number else 0
    try:
        with segment_path(folder, number).open("rb") as file:
            file.seek(start, os.SEEK_SET)
            return file.read().count(b"\n")
    except FileNotFoundError:
        return 0
