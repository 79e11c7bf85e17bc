"""Dead letters: events that a receiver never accepts, kept apart so that they do not block others.

Note: a dead letter is an event that is itself at fault. A receiver that is away, throttles or
rejects the credentials is waited for. :class:`Refused` is for what would be refused again however
often it is sent.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from proxy.events.sinks.base import DeadLetters
from proxy.events.sinks.jsonl import JsonLinesSink

_log = logging.getLogger(__name__)

_MAX_BYTES: Final = 64 * 1024 * 1024
_BACKUPS: Final = 3
#: Lines whose result is remembered.
_MAX_REMEMBERED_LINES: Final = 20_000


class Refused(Exception):
    """The receiver never accepts this batch as it is."""


class DeadLetterFile:
    """Appends to `path`, a rotated file of JSON lines with mode 0600 and bounded size."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = JsonLinesSink(path, max_bytes=_MAX_BYTES, backups=_BACKUPS, mode=0o600)
        #: Events added since the start.
        self.count = 0

    def keep(self, lines: Sequence[bytes], reason: str) -> None:
        """Raises OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file.write([line if line.endswith(b"\n") else line + b"\n" for line in lines])
        if not self.count:
            _log.error("usage events were refused permanently (%s): see %s", reason, self._path)
        self.count += len(lines)

    def close(self) -> None:
        self._file.close()


class PoisonIsolator:
    """Sends what the receiver accepts, and adds what it refuses to the dead letters.

    Accepted events go first: dead letters may meet a full disk, and then the batch is sent again.
    The result of each line is remembered until its whole batch is done, so that nothing is sent
    twice.
    """

    def __init__(self, send: Callable[[Sequence[bytes]], None], dead: DeadLetters) -> None:
        self._send = send
        self._dead = dead
        # Digest of a line of an unfinished batch → why it was refused; None when it is done.
        self._known: dict[bytes, str | None] = {}

    def write(self, batch: Sequence[bytes]) -> None:
        """Send `batch`; a refused batch is halved until each event at fault is alone.

        Raises what `send` raises, except :class:`Refused`, and what the dead letters raise. A part
        may be done then.
        """
        rest = [line for line in batch if _digest(line) not in self._known]
        if rest:
            self._isolate(rest)
        for line in batch:
            if reason := self._known.get(_digest(line)):
                self._dead.keep([line], reason)
                self._known[_digest(line)] = None
        for line in batch:
            self._known.pop(_digest(line), None)
        while len(self._known) > _MAX_REMEMBERED_LINES:
            # These belong to batches that were dropped. Otherwise they are sent once more.
            del self._known[next(iter(self._known))]

    def _isolate(self, batch: Sequence[bytes]) -> None:
        reason = None
        try:
            self._send(batch)
        except Refused as refused:
            if len(batch) > 1:
                middle = len(batch) // 2
                self._isolate(batch[:middle])
                self._isolate(batch[middle:])
                return
            reason = str(refused) or "refused"
        self._known.update(dict.fromkeys(map(_digest, batch), reason))


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=16).digest()
