"""Taking refusals of unknown tokens out of a closed segment, when the spool is full.

Anybody can make such events, so they must not push out those of requests that were paid for. What
stays is written as a segment of the next number, durable before the old one goes. A reader that was
just reading the old one begins the new one from its start, and gets some events twice.
"""

import contextlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

from proxy.events.spool.offsets import read_offset, sync_folder
from proxy.events.spool.segment import segment_numbers, segment_path

#: In the line of an event without a principal. No client can put it there: in a JSON string its
#: quotes would be escaped.
NOBODY: Final = b'"project_id":null,"token_id":null,"token":null,'
_REFUSED: Final = b'"outcome":"rejected",'
#: What is being written. No name of a segment; goes with the folder.
_UNFINISHED: Final = "thinned.fresh"


def is_refusal(record: bytes) -> bool:
    """Whether this is the event of a request that was refused without a recognised token."""
    return NOBODY in record and _REFUSED in record


def thin(folder: Path, number: int, sinks: Collection[str]) -> tuple[int, int]:
    """Rewrite segment ``number`` without such events: bytes that are free now, records that went.

    (0, 0): there are none, or a sink is in the middle of it. For whoever holds the node's lock, and
    for a segment that nobody writes. Raises OSError.
    """
    if any(read_offset(folder, sink).segment == number for sink in sinks):
        return 0, 0  # positions are bytes of this very file
    path = segment_path(folder, number)
    data = path.read_bytes()
    if NOBODY not in data or number + 1 in segment_numbers(folder):
        return 0, 0
    *whole, tail = data.split(b"\n")
    kept = [record for record in whole if not is_refusal(record)]
    gone = len(whole) - len(kept)
    if not gone:
        return 0, 0
    remaining = b"\n".join([*kept, tail])
    if remaining:
        _write(folder, number + 1, remaining)
    path.unlink()
    return len(data) - len(remaining), gone


def _write(folder: Path, number: int, data: bytes) -> None:
    """Whole and durable, or not at all."""
    unfinished = folder / _UNFINISHED
    try:
        descriptor = os.open(
            unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        unfinished.replace(segment_path(folder, number))
        sync_folder(folder)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
