"""What a worker that is gone has left: its open requests, and lines that the local sinks lack.

Any worker may take an orphan: it owns the folder meanwhile, so nobody else does. Remote sinks read
orphans as they read every folder; this is about what only a worker can do. The thing to get wrong:
whoever is killed in the middle of this leaves an orphan again. So slots become records in a
segment, durably, before their file goes, and those that are in a segment already are known by
their ``event_id``.
"""

import re
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from proxy.events.folders import (
    INTENTS,
    LOCAL,
    reclaim,
    remove_if_empty,
    writer_folders,
)
from proxy.events.intents import leftover_records
from proxy.events.ownership import Ownership, node_lock, own
from proxy.events.positions import read_position, sync_folder, write_position
from proxy.events.records import PREFIX, line_of
from proxy.events.segments import Batch, read_batch, segment_numbers, segment_path
from proxy.events.spool import SpoolWriter

#: Where the ``event_id`` stands in a record: the first field of every line.
_ID: Final = slice(PREFIX + len('{"event_id":"'), PREFIX + len('{"event_id":"') + 32)
_TOKEN: Final = re.compile(rb'"token_id":"([0-9a-f-]{36})"')
#: Among so many of the newest segments a record can have a slot still.
_NEWEST: Final = 3
#: Of so many of the newest events it is said whose they are: more than a worker ends in a second.
_LAST_EVENTS: Final = 5000


class Orphan:
    """A folder that is ours until :meth:`leave`."""

    def __init__(self, folder: Path, ownership: Ownership) -> None:
        self.folder = folder
        self._ownership = ownership
        #: Requests of which only the beginning is known; open requests in all; unreadable ones.
        self.recovered = 0
        self.unreadable = 0
        #: Access tokens of the newest events of a worker that was killed; nobody else's are known.
        self.token_ids: frozenset[str] = frozenset()
        self._position = read_position(folder, LOCAL)

    def recover(self) -> None:
        """Turn the slots in use into records. Raises OSError: then they are still there."""
        records, self.unreadable = leftover_records(self.folder)
        if records:
            spooled = _newest_ids(self.folder)
            records = [record for record in records if record[_ID] not in spooled]
        if records:
            writer = SpoolWriter(self.folder, self._ownership)
            try:
                writer.append(records)
            finally:
                writer.close()
            self.recovered = len(records)
        if (self.folder / INTENTS).exists():
            self.token_ids = _newest_tokens(self.folder)
        (self.folder / INTENTS).unlink(missing_ok=True)
        sync_folder(self.folder)

    def read(self) -> Batch:
        """The next lines that the local sinks lack; none when there are no more. Raises OSError."""
        return read_batch(self.folder, self._position, most_lines=500, abandoned=True)

    def accepted(self, batch: Batch) -> None:
        """The local sinks have them. Raises OSError."""
        if batch.position != self._position:
            self._position = batch.position
            write_position(self.folder, LOCAL, batch.position)

    def leave(self, sinks: Collection[str] | None) -> None:
        """Remove what all of ``sinks`` have passed; the rest is an orphan again. Raises OSError."""
        try:
            if sinks is not None:
                reclaim(self.folder, sinks)
                remove_if_empty(self.folder)
        finally:
            self._ownership.release()

    def release(self) -> None:
        """Leave everything as it is."""
        self._ownership.release()


def orphans(root: Path) -> Iterator[Orphan]:
    """Each orphan once, owned; to be left before the next is asked for.

    Raises OSError; for a folder that cannot be taken only after all the others.
    """
    trouble: OSError | None = None
    for folder in writer_folders(root):
        try:
            orphan = _take(folder)
        except OSError as error:
            trouble = error
            continue
        if orphan is not None:
            yield orphan
    if trouble is not None:
        raise trouble


def _take(folder: Path) -> Orphan | None:
    with node_lock(folder.parent):
        ownership = own(folder)
    if ownership is None:
        return None
    try:
        return Orphan(folder, ownership)
    except BaseException:
        ownership.release()
        raise


def _newest_ids(folder: Path) -> set[bytes]:
    ids: set[bytes] = set()
    for number in segment_numbers(folder)[-_NEWEST:]:
        with segment_path(folder, number).open("rb") as file:
            # Whole ones only: of a record that the kill tore, the slot has the rest.
            ids.update(record[_ID] for record in file if line_of(record) is not None)
    return ids


def _newest_tokens(folder: Path) -> frozenset[str]:
    lines: deque[bytes] = deque(maxlen=_LAST_EVENTS)
    for number in segment_numbers(folder)[-_NEWEST:]:
        with segment_path(folder, number).open("rb") as file:
            lines.extend(line for record in file if (line := line_of(record)) is not None)
    found = {match[1].decode() for line in lines if (match := _TOKEN.search(line))}
    return frozenset(found)
