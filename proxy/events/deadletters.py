"""Events that a receiver will never take, kept elsewhere, so that they do not hold up the rest.

The thing to get wrong: only the event itself may be at fault. A receiver that is away, throttles or
does not know our credentials is waited for; :class:`Refused` is for what would be refused again
however often it came.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from proxy.events.sinks.base import DeadLetters
from proxy.events.sinks.jsonl import JsonLinesSink

_log = logging.getLogger(__name__)

_MAX_BYTES: Final = 64 * 1024 * 1024
_BACKUPS: Final = 3


class Refused(Exception):
    """The receiver will never take this batch as it is."""


class DeadLetterFile:
    """Appends to ``path``, a file of JSON lines, rotated and bounded."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = JsonLinesSink(path, max_bytes=_MAX_BYTES, backups=_BACKUPS)
        #: Events that went here since the start.
        self.count = 0

    def keep(self, lines: Sequence[bytes], reason: str) -> None:
        """Raises OSError."""
        self._file.write([line if line.endswith(b"\n") else line + b"\n" for line in lines])
        if not self.count:
            _log.error("usage events were refused for good (%s): see %s", reason, self._path)
        self.count += len(lines)

    def close(self) -> None:
        self._file.close()


def deliver(
    batch: Sequence[bytes], send: Callable[[Sequence[bytes]], None], dead: DeadLetters
) -> None:
    """``send`` the batch, in halves while it is refused, until what is at fault stands alone.

    Raises what ``send`` raises, :class:`Refused` excepted; a part may then have been taken.
    """
    try:
        send(batch)
    except Refused as refused:
        if len(batch) == 1:
            dead.keep(batch, str(refused))
            return
        middle = len(batch) // 2
        deliver(batch[:middle], send, dead)
        deliver(batch[middle:], send, dead)
