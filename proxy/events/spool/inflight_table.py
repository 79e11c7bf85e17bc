"""The requests of a worker that are under way, in a memory-mapped file: what SIGKILL cannot take.

Before a request goes upstream its intent is copied into a slot; its event goes into the same slot
when it ends (one that was refused gets a slot only then); the slot is free again once the spool has
the event. Whoever finds the file of a killed worker reads what is left: the event, or, where only
the intent stands, that there was a request (:func:`leftover_records`). Nothing here enters the
kernel, and nothing waits.

The thing to get wrong: the process may end between any two instructions. Intent and event have
areas of their own, and the slot's state is changed last, when what it speaks of is whole; both are
encode_record records besides, so that after a power cut a half-written one is known for what it is.
"""

import mmap
import os
from pathlib import Path
from typing import Final

import orjson

from proxy.core.usage_event import Intent, UsageEvent
from proxy.events.spool.retention import INTENTS
from proxy.events.spool.segment import decode_record, encode_record

#: Of a slot: its state in byte 0, then the two areas. A page of memory holds two slots.
_SLOT: Final = 2048
_INTENT: Final = 8
_EVENT: Final = 768
_FREE, _INTENDED, _FINISHED = 0, 1, 2
#: A request that has no slot.
NO_SLOT: Final = -1


class InFlightTable:
    """Slots in ``folder``. All methods but :meth:`create` and :meth:`close` are for one thread."""

    def __init__(self, path: Path, memory: mmap.mmap) -> None:
        self._path = path
        self._memory = memory
        # The last one freed is the next one taken: the same few pages of memory all the time.
        self._free = list(range(len(memory) // _SLOT))
        self._count = len(self._free)
        #: Requests that found no slot.
        self.missed = 0

    @classmethod
    def create(cls, folder: Path, slots: int) -> "InFlightTable":
        """Raises OSError; a full disk is noticed here, and never by a request.

        (A write to mapped memory that has no block on the disk would be the end of the process.)
        """
        path = folder / INTENTS
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
        """The slot that now holds this intent, or :data:`NO_SLOT`."""
        if not self._free or len(record) > _EVENT - _INTENT:
            self.missed += 1
            return NO_SLOT
        slot = self._free.pop()
        start = slot * _SLOT
        self._memory[start + _INTENT : start + _INTENT + len(record)] = record
        self._memory[start] = _INTENDED
        return slot

    def finish(self, slot: int, record: bytes) -> None:
        """Put the event beside its intent. One that is too large for that leaves the intent."""
        if len(record) <= _SLOT - _EVENT:
            start = slot * _SLOT
            self._memory[start + _EVENT : start + _EVENT + len(record)] = record
            self._memory[start] = _FINISHED

    def reserve_finished(self, record: bytes) -> int:
        """A slot for an event that had no intent, such as one of a refused request."""
        if not self._free or len(record) > _SLOT - _EVENT:
            return NO_SLOT
        slot = self._free.pop()
        self._memory[slot * _SLOT + _INTENT] = 0  # of whoever was here before
        self.finish(slot, record)
        return slot

    def release(self, slot: int) -> None:
        self._memory[slot * _SLOT] = _FREE
        self._free.append(slot)

    def close(self) -> None:
        """With no slot in use the file goes, else it is left for who looks for orphans."""
        if not self.open:
            self._path.unlink(missing_ok=True)


def intent_record(intent: Intent) -> bytes:
    """What an event needs of which nothing but its beginning is known."""
    *ours, endpoint, method, client_ip = intent
    if len(endpoint) + len(method) + len(client_ip) > 200:
        # Cut, so that every request fits: what the client sends may be of any length.
        endpoint, method, client_ip = endpoint[:120], method[:32], client_ip[:48]
    return encode_record(orjson.dumps((*ours, endpoint, method, client_ip)) + b"\n")


def leftover_records(folder: Path) -> tuple[list[bytes], int]:
    """The events in the slots of a worker that is gone, as records; and how many are unreadable.

    Empty without the file. A slot of another version counts as unreadable. Raises OSError.
    """
    try:
        data = (folder / INTENTS).read_bytes()
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
        return None  # whole, and of another version


def _line_in(area: bytes) -> bytes | None:
    """The area may hold the end of a longer record from before."""
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
