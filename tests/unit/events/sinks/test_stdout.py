"""Standard output as a sink: a real pipe, several writers, slow and closed readers."""

import fcntl
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from gevent.os import tp_read

from proxy.events.sinks import stdout
from proxy.events.sinks.stdout import StdoutSink
from tests.support.event_samples import event
from tests.support.paths import ROOT

WRITER = """
import json, os, sys
from proxy.events.sinks.stdout import StdoutSink
who = sys.argv[1]
sink = StdoutSink()
for first in range(0, 500, 50):
    sink.write([json.dumps({"who": who, "n": n, "pad": "x" * (n * 7 % 900)}).encode() + b"\\n"
                for n in range(first, first + 50)])
sink.close()
os.write(1, b"")  # still open
"""


def run(count: int, *, blocking: bool) -> dict[str, list[int]]:
    """Several processes write to one small pipe. Returns the output by writer."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, blocking)
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(who)], cwd=ROOT, stdout=writer)
        for who in range(count)
    ]
    os.close(writer)
    output = b""
    while piece := tp_read(reader, 65536):
        output += piece
    os.close(reader)
    assert [process.wait(20) for process in processes] == [0] * count
    found: dict[str, list[int]] = {}
    for line in output.splitlines():
        record = json.loads(line)
        found.setdefault(record["who"], []).append(record["n"])
    return found


@pytest.mark.parametrize("blocking", [True, False])
def test_whole_lines_through_a_shared_pipe(blocking: bool) -> None:
    expected = list(range(500))
    assert run(3, blocking=blocking) == {"0": expected, "1": expected, "2": expected}


def test_no_write_is_larger_than_a_pipe_accepts_atomically(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []

    def write(descriptor: int, data: Any) -> int:
        assert descriptor == 1
        writes.append(bytes(data))
        return len(data)

    monkeypatch.setattr(stdout.os, "write", write)
    batch = [b"x" * size + b"\n" for size in (1000, 3000, 93, 4000, 10, 4094)]
    StdoutSink().write(batch)
    StdoutSink().write([])
    assert b"".join(writes) == b"".join(batch)
    assert [len(block) for block in writes] == [4096, 4012, 4095]


def test_a_line_that_would_be_torn_is_truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []

    def write(_: int, data: Any) -> int:
        writes.append(bytes(data))
        return len(data)

    monkeypatch.setattr(stdout.os, "write", write)
    longest = event(
        "r" * 5000, method="A" * 7900, endpoint="/v1/" + "\x01" * 9000, client_ip="é" * 99
    )
    StdoutSink().write([event("a").line(), longest.line(), b"x" * 4095 + b"\n", event("b").line()])
    assert max(map(len, writes)) <= 4096
    lines = [json.loads(line) for line in b"".join(writes).splitlines()]
    assert [line.get("request_id", "")[:1] for line in lines] == ["a", "r", "", "b"]
    assert [line.get("truncated") for line in lines] == [None, True, True, None]
    assert all(len(line) < 4095 for line in b"".join(writes).splitlines())


GONE = """
import sys
from proxy.events.sinks.stdout import StdoutSink
sys.stdin.readline()
try:
    StdoutSink().write([b"{}\\n"])
except BrokenPipeError:
    sys.stderr.write("raised")
"""


def test_a_closed_pipe_raises() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", GONE],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(b"\n", timeout=20)
    assert errors == b"raised"
