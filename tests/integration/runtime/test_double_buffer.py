"""A writer that is killed, and its reader (`proxy/runtime/double_buffer.py`)."""

import signal
import subprocess
import sys
from pathlib import Path

from proxy.runtime import double_buffer
from tests.support.paths import ROOT
from tests.support.wait import wait_until

WRITE_FOR_EVER = """
import sys
from pathlib import Path
from proxy.runtime.double_buffer import DoubleBufferedFile
file, number = DoubleBufferedFile(Path(sys.argv[1])), 0
while True:
    number += 1
    file.write(b"%d " % number * (200 + number % 7000))
"""


def test_a_writer_that_is_killed_leaves_what_is_whole(tmp_path: Path) -> None:
    """Read all the while; then killed, as often as makes it meet a write."""
    for round_ in range(5):
        path = tmp_path / f"{round_}.samples"
        command = [sys.executable, "-c", WRITE_FOR_EVER, str(path)]
        writer = subprocess.Popen(command, cwd=ROOT)
        try:
            wait_until(path.exists)
            last = 0
            for _ in range(200):
                slot = double_buffer.read(path)
                assert slot is not None
                assert slot.live
                words = slot.payload.split()
                assert len(set(words)) == 1
                assert int(words[0]) >= last
                last = int(words[0])
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        slot = double_buffer.read(path)
        assert slot is not None
        assert not slot.live
        assert int(slot.payload.split()[0]) >= last
