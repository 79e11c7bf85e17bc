"""Processes that rotate the JSON-lines file at once (`proxy/events/sinks/jsonl.py`)."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

WRITER = """
import sys
from pathlib import Path
from proxy.events.sinks.jsonl import JsonLinesSink
who, count = int(sys.argv[1]), int(sys.argv[2])
sink = JsonLinesSink(Path(sys.argv[3]), max_bytes=2000, backups=1000)
sys.stdin.readline()  # all start together
for number in range(0, count, 5):
    sink.write([b'{"who":%d,"n":%d,"pad":"%s"}\\n' % (who, n, b"x" * (n % 90))
                for n in range(number, number + 5)])
"""


def test_processes_that_rotate_at_once_lose_and_tear_no_line(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "events.jsonl"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(who), "1500", str(path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
        )
        for who in range(3)
    ]
    try:
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write(b"\n")
            writer.stdin.flush()
        assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            assert writer.stdin is not None
            writer.stdin.close()
    written: dict[int, list[int]] = {0: [], 1: [], 2: []}
    backups = (path.with_name(f"{path.name}.{number}") for number in range(1, 2000))
    found = [file for file in (path, *backups) if file.exists()]
    assert len(found) > 50
    for file in reversed(found):  # oldest first
        for line in file.read_bytes().splitlines():
            record = json.loads(line)
            written[record["who"]].append(record["n"])
    assert written == {who: list(range(1500)) for who in range(3)}
