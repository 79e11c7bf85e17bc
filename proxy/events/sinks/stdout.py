"""Events to standard output, for the collector of a container's output."""

import os
import time
from collections.abc import Sequence
from typing import Final

from proxy.events.truncate import MAX_STDOUT_BYTES, fit

#: Writes up to this size to a pipe are atomic on Linux (PIPE_BUF), so that workers who share it do
#: not mix their lines.
_ATOMIC: Final = 4096
_PAUSE: Final = 0.01


class StdoutSink:
    """Writes complete lines to descriptor 1, unbuffered. Lines too long for one write are
    truncated."""

    def write(self, batch: Sequence[bytes]) -> None:
        block = b""
        for line in batch:
            piece = fit(line, MAX_STDOUT_BYTES)
            if block and len(block) + len(piece) > _ATOMIC:
                _write_all(block)
                block = b""
            block += piece
        _write_all(block)

    def close(self) -> None:
        """Nothing to close: standard output belongs to the process."""


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(1, view) :]
        except BlockingIOError:
            # A process that shares the pipe has made it non-blocking. If this were raised, the
            # whole batch would be written again, including lines that are out already.
            time.sleep(_PAUSE)
