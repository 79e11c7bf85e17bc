"""The spool of a node: ``DATA_DIR/spool`` with a folder for each writer, and who reads there.

``sinks.json`` names the sinks for which segments are kept. One that is new begins with the oldest
segment there is; one that is no longer named holds nothing back. The rules by which segments and
folders go are here: a segment when every named sink has passed it, a folder when it is an orphan
and holds neither segments nor intents.
"""

import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from proxy.events.ownership import node_lock, own, remove_lock
from proxy.events.positions import (
    SINK_NAME,
    Position,
    make_durable,
    read_position,
    remove_positions,
    sync_folder,
)
from proxy.events.segments import segment_numbers, segment_path, segment_size

#: The sink that is the worker's own: what `EVENT_LOG` names.
LOCAL: Final = "local"
#: The open requests of a writer, see proxy/events/intents.py.
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
    positions = [read_position(folder, sink) for sink in sinks]
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
        ownership = own(folder)
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
    remove_positions(folder)
    remove_lock(folder)
    folder.rmdir()
    return True


def _passed(folder: Path, number: int, positions: Collection[Position]) -> bool:
    end = Position(number, segment_size(folder, number))
    return not end.offset or all(position >= end for position in positions)
