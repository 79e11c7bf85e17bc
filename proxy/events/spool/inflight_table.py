"""The in-flight table: the requests in flight of one worker, in a memory-mapped file.

The mapped file survives SIGKILL; its layout is in :mod:`proxy.events.spool`. A request's intent is
copied into a slot before the request goes upstream. Its event goes into the same slot when the
request ends; a refused request gets a slot only then. The slot is free again once the spool has the
event. :func:`leftover_records` reads what a killed worker left: the event, or, where there is only
the intent, that there was a request. Using a slot makes no system call and never waits.

Note: the process may end between any two instructions. Intent and event have areas of their own,
and the slot's state changes last, when the area it refers to is complete. Both are checksummed
records, so that a record that a power cut left half-written is recognised.
"""

import mmap
import os
from pathlib import Path
from typing import Final

import orjson

from proxy.core.usage_event import Intent, UsageEvent
from proxy.events.spool.retention import INFLIGHT_TABLE
from proxy.events.spool.segment import decode_record, encode_record

#: Bytes of a slot, and where its two areas begin. A page of memory holds two slots.
_SLOT: Final = 2048
_INTENT: Final = 8
_EVENT: Final = 768
_FREE, _INTENDED, _FINISHED = 0, 1, 2
#: The slot number of a request without a slot.
NO_SLOT: Final = -1


class InFlightTable:
    """The slots of one worker. All methods but `create` and `close` are for one thread."""

    def __init__(self, path: Path, memory: mmap.mmap) -> None:
        self._path = path
        self._memory = memory
        # A stack: the slot released last is reserved next, so that few pages of memory are used.
        self._free = list(range(len(memory) // _SLOT))
        self._count = len(self._free)
        #: Requests that found no slot.
        self.missed = 0

    @classmethod
    def create(cls, folder: Path, slots: int) -> "InFlightTable":
        """Make the file in `folder` and reserve its blocks. Raises OSError.

        A write to mapped memory that has no block on the disk would end the process, so a full
        disk is noticed here and never by a request.
        """
        path = folder / INFLIGHT_TABLE
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, slots * _SLOT)
            return cls(path, mmap.mmap(descriptor, slots * _SLOT))
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(descriptor)

    @property
    def open(self) -> int:
        """Slots in use."""
        return self._count - len(self._free)

    def reserve(self, record: bytes) -> int:
        """Store an intent in a free slot. Returns its number, or :data:`NO_SLOT`."""
        if not self._free or len(record) > _EVENT - _INTENT:
            self.missed += 1
            return NO_SLOT
        slot = self._free.pop()
        start = slot * _SLOT
        self._memory[start + _INTENT : start + _INTENT + len(record)] = record
        self._memory[start] = _INTENDED
        return slot

    def finish(self, slot: int, record: bytes) -> None:
        """Store the event in its request's slot. An event that is too large leaves the intent."""
        if len(record) <= _SLOT - _EVENT:
            start = slot * _SLOT
            self._memory[start + _EVENT : start + _EVENT + len(record)] = record
            self._memory[start] = _FINISHED

    def reserve_finished(self, record: bytes) -> int:
        """Store an event without intent, such as that of a refused request.

        Returns the slot's number, or :data:`NO_SLOT`.
        """
        if not self._free or len(record) > _SLOT - _EVENT:
            return NO_SLOT
        slot = self._free.pop()
        self._memory[slot * _SLOT + _INTENT] = 0  # invalidates the intent of an earlier request
        self.finish(slot, record)
        return slot

    def release(self, slot: int) -> None:
        self._memory[slot * _SLOT] = _FREE
        self._free.append(slot)

    def close(self) -> None:
        """Remove the file, unless a slot is in use: then recovery reads it later."""
        if not self.open:
            self._path.unlink(missing_ok=True)


def intent_record(intent: Intent) -> bytes:
    """The record of an intent: what an event with outcome "unknown" needs."""
    *ours, endpoint, method, client_ip = intent
    if len(endpoint) + len(method) + len(client_ip) > 200:
        # Truncated so that every request fits its slot: a client's values may have any length.
        endpoint, method, client_ip = endpoint[:120], method[:32], client_ip[:48]
    return encode_record(orjson.dumps((*ours, endpoint, method, client_ip)) + b"\n")


def leftover_records(folder: Path) -> tuple[list[bytes], int]:
    """Returns the events in the slots of an ended worker, as records, and the count of unreadable
    slots.

    Empty without the file. A slot of another version counts as unreadable. Raises OSError.
    """
    try:
        data = (folder / INFLIGHT_TABLE).read_bytes()
    except FileNotFoundError:
        return [], 0
    records, unreadable = [], 0
    for start in range(0, len(data) - _SLOT + 1, _SLOT):
        if data[start] != _FREE:
            record = _record_of(data[start : start + _SLOT])
            if record is None:
                unreadable += 1
            else:
                records.append(record)
    return records, unreadable


def _record_of(slot: bytes) -> bytes | None:
    if slot[0] == _FINISHED and (line := _line_in(slot[_EVENT:])):
        return encode_record(line)
    intent = _line_in(slot[_INTENT:_EVENT])
    try:
        return encode_record(_unknown(intent)) if intent else None
    except (ValueError, TypeError, OverflowError):
        return None  # a valid record of another version


def _line_in(area: bytes) -> bytes | None:
    """The line at the start of `area`; the end of a longer, earlier record may follow it."""
    return decode_record(area[: area.find(b"\n") + 1])


def _unknown(intent: bytes) -> bytes:
    return UsageEvent(
        **Intent(*orjson.loads(intent))._asdict(),
        status_code=None,
        outcome="unknown",
        duration_ms=None,
        stream=None,
        bytes_in=None,
        bytes_out=None,
    ).line()
