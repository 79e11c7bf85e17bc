"""Workers of a node that reserve slots at once (`proxy/ratelimit/concurrency.py`)."""

import subprocess
import sys
from pathlib import Path

from proxy.ratelimit.concurrency import NodeConcurrency
from tests.support.paths import ROOT


def test_workers_that_enter_at_once(tmp_path: Path) -> None:
    """One may be in. Who is locks a file; who finds it locked should not have been let in."""
    place = tmp_path / "limits" / "lanes"
    program = (
        "import fcntl, sys; from pathlib import Path\n"
        "from proxy.core.errors import LimiterError\n"
        "from proxy.ratelimit.concurrency import NodeConcurrency\n"
        "class Counting(NodeConcurrency):\n"
        "    alone = 0\n"
        "    def _lock(self):\n"
        "        try: super()._lock()\n"
        "        except LimiterError: self.alone += 1; raise\n"
        "table, room, reserved, two = Counting(Path(sys.argv[1])), open(sys.argv[2], 'w'), 0, 0\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for _ in range(20_000):\n"
        "    if table.reserve([('a', 1)]) is not None: continue\n"
        "    reserved += 1\n"
        "    try: fcntl.flock(room, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "    except BlockingIOError: two += 1\n"
        "    else: fcntl.flock(room, fcntl.LOCK_UN)\n"
        "    table.release(['a'])\n"
        "print(reserved, two, table.alone, flush=True)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(place), str(place.parent.parent / "room")],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=120)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    reserved, two, alone = (sum(map(int, column)) for column in zip(*said, strict=True))
    assert reserved
    # Who did not get the table's lock in time goes by its own, and may meet another.
    assert two <= 2 * alone
    assert NodeConcurrency(place).reserve([("a", 1)]) is None
