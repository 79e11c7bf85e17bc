"""Events to standard output, for whoever collects a container's output."""

import os
import time
from collections.abc import Sequence
from typing import Final

#: Writes up to this size to a pipe are atomic on Linux (PIPE_BUF), so that workers who share it do
#: not mix their lines.
_ATOMIC: Final = 4096
_PAUSE: Final = 0.01


class StdoutSink:
    """Writes whole lines to descriptor 1, unbuffered."""

    def write(self, batch: Sequence[bytes]) -> None:
        block = b""
        for line in batch:
            if block and len(block) + len(line) > _ATOMIC:
                _write_all(block)
                block = b""
            block += line
        _write_all(block)

    def close(self) -> None:
        """Standard output is not ours to close."""


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(1, view) :]
        except BlockingIOError:
            # Somebody who shares the pipe has made it non-blocking. Raised, the whole batch would
            # come again, lines that are out already included.
            time.sleep(_PAUSE)
