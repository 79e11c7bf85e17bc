"""Events that a receiver will never take, kept elsewhere, so that they do not hold up the rest.

The thing to get wrong: only the event itself may be at fault. A receiver that is away, throttles or
does not know our credentials is waited for; :class:`Refused` is for what would be refused again
however often it came.
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
#: Lines that are remembered.
_MAX_REMEMBERED_LINES: Final = 20_000


class Refused(Exception):
    """The receiver will never take this batch as it is."""


class DeadLetterFile:
    """Appends to ``path``, a rotated file of JSON lines, bounded, for its owner's eyes alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = JsonLinesSink(path, max_bytes=_MAX_BYTES, backups=_BACKUPS, mode=0o600)
        #: Events that went here since the start.
        self.count = 0

    def keep(self, lines: Sequence[bytes], reason: str) -> None:
        """Raises OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file.write([line if line.endswith(b"\n") else line + b"\n" for line in lines])
        if not self.count:
            _log.error("usage events were refused for good (%s): see %s", reason, self._path)
        self.count += len(lines)

    def close(self) -> None:
        self._file.close()


class PoisonIsolator:
    """Lets through to ``send`` what the receiver takes, and puts away what it refuses.

    The good ones go first: dead letters may meet a full disk, and then the batch comes again. What
    has been dealt with is remembered until all of its batch is, so that nothing is sent twice.
    """

    def __init__(self, send: Callable[[Sequence[bytes]], None], dead: DeadLetters) -> None:
        self._send = send
        self._dead = dead
        # By digest, of batches that are not through yet: why it was refused, None when it is done.
        self._known: dict[bytes, str | None] = {}

    def write(self, batch: Sequence[bytes]) -> None:
        """Send it, in halves while it is refused, until what is at fault stands alone.

        Raises what ``send`` raises, :class:`Refused` excepted, and what the dead letters raise; a
        part may then be done.
        """
        rest = [line for line in batch if _digest(line) not in self._known]
        if rest:
            self._sift(rest)
        for line in batch:
            if reason := self._known.get(_digest(line)):
                self._dead.keep([line], reason)
                self._known[_digest(line)] = None
        for line in batch:
            self._known.pop(_digest(line), None)
        while len(self._known) > _MAX_REMEMBERED_LINES:
            # Of batches that went away meanwhile. If it is not so, these are sent once more.
            del self._known[next(iter(self._known))]

    def _sift(self, batch: Sequence[bytes]) -> None:
        reason = None
        try:
            self._send(batch)
        except Refused as refused:
            if len(batch) > 1:
                middle = len(batch) // 2
                self._sift(batch[:middle])
                self._sift(batch[middle:])
                return
            reason = str(refused) or "refused"
        self._known.update(dict.fromkeys(map(_digest, batch), reason))


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=16).digest()
