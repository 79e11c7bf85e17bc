"""The spool of a node: ``DATA_DIR/spool`` with a folder for each writer, and who reads there.

``sinks.json`` names the sinks for which segments are kept. One that is new begins with the oldest
segment there is; one that is no longer named holds nothing back. The rules by which segments and
folders go are here: a segment when every named sink has passed it, a folder when it is an orphan
and holds neither segments nor intents.
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

#: The sink that is the worker's acquire: what `EVENT_LOG` names.
LOCAL: Final = "local"
#: The open requests of a writer, see proxy/events/spool/inflight_table.py.
INTENTS: Final = "intents"
_SINKS: Final = "sinks.json"
#: As SpoolWriter.create names them. What else lies there is somebody else's: lost+found, a copy.
_FOLDER: Final = re.compile(r"[0-9]{14}-[0-9]+-[0-9a-f]{16}")


def writer_folders(root: Path) -> list[Path]:
    """The folders of all writers of the node, living and gone, those first that were made first."""
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
    """Keep segments for these sinks from now on, and for no others. Raises OSError."""
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
    """None when nobody has said yet, or it cannot be read: then nothing may be removed."""
    try:
        return frozenset(json.loads((root / _SINKS).read_text()))
    except (OSError, ValueError):
        return None


def reclaim(folder: Path, sinks: Collection[str], *, live: int | None = None) -> None:
    """Unlink the segments that every sink has passed, but the one that is being written (``live``).

    For the folder's owner alone. Positions are made durable first. Raises OSError.
    """
    positions = [read_offset(folder, sink) for sink in sinks]
    numbers = [number for number in segment_numbers(folder) if number != live]
    passed = [number for number in numbers if _passed(folder, number, positions)]
    if not passed:
        return
    for sink in sinks:
        make_durable(folder, sink)
    sync_folder(folder)
    for number in passed:
        segment_path(folder, number).unlink(missing_ok=True)


def tidy(folder: Path, sinks: Collection[str] | None) -> None:
    """Remove from an orphan what nobody needs any more, at last the folder; else do nothing.

    For whoever has moved a position; takes what :func:`registered_sinks` gives. Raises OSError.
    Slots have to become records first, by a worker: it is the segments that tell it which of them
    are records already.
    """
    if sinks is None or (folder / INTENTS).exists():
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
    """Remove a folder without segments and intents, by its owner. Raises OSError."""
    if segment_numbers(folder) or (folder / INTENTS).exists():
        return False
    remove_offsets(folder)
    remove_lock(folder)
    folder.rmdir()
    return True


def _passed(folder: Path, number: int, positions: Collection[Offset]) -> bool:
    end = Offset(number, segment_size(folder, number))
    return not end.offset or all(position >= end for position in positions)


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


def enforce_max_bytes(root: Path, most: int, sinks: Collection[str]) -> Bounded:
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
    slowest = min((read_offset(folder, sink) for sink in sinks), default=None)
    if slowest is None or slowest.segment > number:
        return 0
    start = slowest.offset if slowest.segment == number else 0
    try:
        with segment_path(folder, number).open("rb") as file:
            file.seek(start, os.SEEK_SET)
            return file.read().count(b"\n")
    except FileNotFoundError:
        return 0
