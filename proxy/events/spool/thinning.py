"""Removing refusals of unknown tokens from a closed segment when the spool is full.

Any client can cause such events, so they must not push out events of requests that were paid for.
The remaining records become a segment with the next number, which is durable before the old one is
removed. A reader of the old segment starts at the beginning of the new one, and gets some events
twice.
"""

import contextlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

from proxy.events.spool.offsets import read_offset, sync_folder
from proxy.events.spool.segment import segment_numbers, segment_path

#: Part of the line of each event without a principal. No client can put it into another line: in a
#: JSON string its quotes would be escaped.
NO_PRINCIPAL: Final = b'"project_id":null,"token_id":null,"token":null,'
_REFUSED: Final = b'"outcome":"rejected",'
#: The segment being written. Not a segment's name; removed with the folder.
_UNFINISHED: Final = "thinned.fresh"


def is_refusal(record: bytes) -> bool:
    """Whether this is the event of a request that was refused without a known access token."""
    return NO_PRINCIPAL in record and _REFUSED in record


def thin(folder: Path, number: int, sinks: Collection[str]) -> tuple[int, int]:
    """Rewrite segment `number` without refusals. Returns the bytes freed and the records removed.

    Returns (0, 0) when there are no refusals, or a sink has read part of the segment. The caller
    holds the node lock, and the segment is closed. Raises OSError.
    """
    if any(read_offset(folder, sink).segment == number for sink in sinks):
        return 0, 0  # offsets count the bytes of this very file
    path = segment_path(folder, number)
    data = path.read_bytes()
    if NO_PRINCIPAL not in data or number + 1 in segment_numbers(folder):
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
    """Write the segment completely and durably, or not at all."""
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
