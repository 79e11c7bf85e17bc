"""One worker's side of the spool: append, reach the disk, give back what is no longer needed.

Everything here may wait for the disk: it is called on a thread, one call at a time, and never logs
(logging would wait for locks that belong to the event loop); what is to be said is in
:attr:`Journal.notices`. A spool that cannot be written stops nobody: it is tried again, the lines
that it did not get are counted, and the local sinks have them all the same.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.events.bound import keep_within
from proxy.events.folders import LOCAL, reclaim, register_sinks, remove_if_empty
from proxy.events.intents import Intents
from proxy.events.positions import START, Position, write_position
from proxy.events.spool import SEGMENT_BYTES, NotSpooled, SpoolWriter

_RETRY_SECONDS: Final = 5.0
#: The bound was reached, and the spool is far enough below it again to call it over.
_RELAXED: Final = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """``sinks``: for whom segments are kept. ``fsync_interval``: seconds, 0 for each batch."""

    root: Path
    sinks: frozenset[str]
    max_bytes: int
    fsync_interval: float
    slots: int


class Journal:
    """Made, used and closed on one thread at a time."""

    def __init__(self, settings: SpoolSettings) -> None:
        self._settings = settings
        self._writer: SpoolWriter | None = None
        self._tried = 0.0
        self._synced = time.monotonic()
        self._local = START
        # What fails, and whether the oldest has to go: each is said once, until it is over.
        self._failing: set[str] = set()
        self._dropping = False
        self._grown = False
        #: The worker's slots, once they could be made.
        self.intents: Intents | None = None
        #: Bytes in the spool of the whole node, when last looked.
        self.bytes = 0
        #: Of the last batch, how many the spool took.
        self.accepted = 0
        #: Records that the spool did not take and that are not kept; that went for being too many.
        self.unspooled = 0
        self.dropped = 0
        #: What is to be logged: level and text.
        self.notices: deque[tuple[int, str]] = deque()

    @property
    def root(self) -> Path:
        return self._settings.root

    @property
    def max_bytes(self) -> int:
        return self._settings.max_bytes

    @property
    def sinks(self) -> frozenset[str]:
        return self._settings.sinks

    def open(self) -> None:
        """Make the folder and the slots, or see later whether they can be made."""
        settings = self._settings
        self._tried = time.monotonic()
        try:
            if self._writer is None:
                register_sinks(settings.root, settings.sinks)
                size = min(SEGMENT_BYTES, max(settings.max_bytes // 16, 4096))
                self._writer = SpoolWriter.create(settings.root, segment_bytes=size)
            if self.intents is None:
                self.intents = Intents.create(self._writer.folder, settings.slots)
            self._works("made")
        except OSError as error:
            self._fails("made", error)

    def append(
        self, records: Sequence[bytes], local: Position | None, keep: int = 0
    ) -> Position | None:
        """The position behind the records; None when not all are in: :attr:`accepted`.

        ``keep``: so many of the rest the caller will bring again. ``local``: see `tend`.
        """
        self.accepted = 0
        try:
            self._save(local)
            if self._writer is not None:
                position = self._writer.append(records)
                self._grown = True
                if not self._settings.fsync_interval:
                    self._sync()
                self.accepted = len(records)
                self._works("written")
                return position
        except OSError as error:
            self.accepted = error.accepted if isinstance(error, NotSpooled) else 0
            self._fails("written", error)
        self.unspooled += max(0, len(records) - self.accepted - keep)
        return None

    def tend(self, local: Position | None) -> None:
        """Once in a while. ``local``: what the local sinks have passed."""
        try:
            if self._writer is not None and not self._writer.folder.exists():
                # Somebody has removed it. The slots stay: requests hold numbers of them.
                self._writer.release()
                self._writer = None
            incomplete = self._writer is None or self.intents is None
            if incomplete and time.monotonic() - self._tried >= _RETRY_SECONDS:
                self.open()
            writer = self._writer
            if writer is None:
                return
            if time.monotonic() - self._synced >= self._settings.fsync_interval:
                self._sync()
            writer.roll()
            self._save(local)
            reclaim(writer.folder, self._settings.sinks, live=writer.live)
            self._keep_within()
            self._works("cleared")
        except OSError as error:
            self._fails("cleared", error)

    def close(self, local: Position | None) -> None:
        """Leave the folder in order; it goes when nothing remains in it."""
        writer = self._writer
        if writer is None:
            return
        try:
            writer.close()
            self._save(local)
            if self.intents is not None:
                self.intents.close()
            reclaim(writer.folder, self._settings.sinks)
            remove_if_empty(writer.folder)
        except OSError as error:
            self._fails("closed", error)
        self._writer = None
        if self.intents is None or not self.intents.open:
            writer.release()
        # Else requests still run, and write into their slots: they are nobody's until we are gone.

    def _sync(self) -> None:
        self._synced = time.monotonic()
        if self._writer is not None:
            try:
                self._writer.sync()
                self._works("synced")
            except OSError as error:
                self._fails("synced", error)

    def _save(self, local: Position | None) -> None:
        if local is not None and local != self._local and self._writer is not None:
            write_position(self._writer.folder, LOCAL, local, durable=False)
            self._local = local

    def _keep_within(self) -> None:
        if not self._grown:
            return
        self._grown = False
        most = self._settings.max_bytes
        bounded = keep_within(self._settings.root, most, self._settings.sinks)
        self.bytes = bounded.kept
        self.dropped += bounded.lost + bounded.refused
        if (bounded.lost or bounded.refused) and not self._dropping:
            self._dropping = True
            text = f"the spool has reached SPOOL_MAX_BYTES, the oldest go: {bounded.lost} events"
            if bounded.refused:
                text += f", after {bounded.refused} of requests without a known token"
            self.notices.append((logging.ERROR, text))
        elif bounded.kept < most * _RELAXED and self._dropping:
            self._dropping = False
            text = f"the spool is within SPOOL_MAX_BYTES again; {self.dropped} events were dropped"
            self.notices.append((logging.INFO, text))

    def _fails(self, what: str, error: OSError) -> None:
        if what not in self._failing:
            text = f"the spool in {self._settings.root} cannot be {what}: {error.strerror or error}"
            self.notices.append((logging.ERROR, text))
        self._failing.add(what)

    def _works(self, what: str) -> None:
        if what in self._failing:
            text = f"the spool can be {what} again; {self.unspooled} events are not in it"
            self.notices.append((logging.WARNING, text))
        self._failing.discard(what)
