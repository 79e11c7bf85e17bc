"""The log of a worker never waits, loses nothing silently and ends with its process."""

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from proxy.core.request_id import request_id_var
from proxy.logs.async_handler import Descriptor, File, LogWriter, Output, _settled
from proxy.logs.config import JsonFormatter, Sanitizer
from tests.support.event_samples import block
from tests.support.paths import ROOT
from tests.support.wait import wait_until


class Slow:
    """An output that takes nothing while it ``stalls``."""

    def __init__(self, *, stalls: bool = False) -> None:
        self.stalls = stalls
        self.blocks: list[bytes] = []
        self.tried = 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> None:
        self.tried += 1
        while self.stalls:
            block(0.002)
        if self.error is not None:
            raise self.error
        self.blocks.append(data)

    @property
    def messages(self) -> list[str]:
        return [json.loads(line)["message"] for line in b"".join(self.blocks).splitlines()]


@pytest.fixture
def output() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.stalls = False  # its thread must not stay in it


def logger(output: Output, max_lines: int = 10_000, max_bytes: int = 1 << 20) -> logging.Logger:
    made = logging.Logger("proxy.test")  # noqa: LOG001
    handler = LogWriter(output, max_lines, max_bytes)
    handler.setFormatter(JsonFormatter(Sanitizer(["a-known-secret"])))
    made.addHandler(handler)
    return made


def flush(log: logging.Logger) -> None:
    (handler,) = log.handlers
    handler.flush()


def test_all_is_there_after_a_flush_in_order(output: Slow) -> None:
    log = logger(output)
    for number in range(2000):
        log.warning("line %d", number)
    flush(log)
    assert output.messages == [f"line {number}" for number in range(2000)]
    assert max(map(len, output.blocks)) <= 4096
    assert all(block.endswith(b"\n") for block in output.blocks)


def test_a_stall_drops_and_counts_and_holds_up_nobody(output: Slow) -> None:
    log = logger(output, max_lines=10)
    output.stalls = True
    log.warning("first")
    wait_until(lambda: output.tried == 1)
    for number in range(100):
        log.warning("line %d", number)
    flush(log)  # gives up
    assert output.messages == []
    output.stalls = False
    wait_until(lambda: len(output.messages) == 11)
    lines = [json.loads(line) for line in b"".join(output.blocks).splitlines()]
    assert output.messages[:-1] == ["first", *(f"line {number}" for number in range(9))]
    assert output.messages[-1] == "91 log lines were dropped"
    assert (lines[-1]["level"], lines[-1]["logger"]) == ("warning", "proxy.logs.async_handler")
    log.warning("later")
    flush(log)
    assert output.messages[11:] == ["later"], "reported once"


def test_long_lines_are_bounded_by_their_bytes(output: Slow) -> None:
    log = logger(output, max_bytes=50_000)
    output.stalls = True
    for _ in range(20):
        log.warning("x" * 10_000)
        log.warning("x" * 10_000, extra={"request_id": "r"})
    output.stalls = False
    flush(log)
    wait_until(lambda: bool(output.messages) and "dropped" in output.messages[-1])
    kept = len(output.messages) - 1
    assert 1 <= kept < 5
    assert output.messages[-1] == f"{40 - kept} log lines were dropped"
    log.warning("y" * 40_000)
    flush(log)
    assert output.messages[-1] == "y" * 40_000, "there is room again"


def test_what_the_disk_refuses_is_told_when_it_takes_lines_again(output: Slow) -> None:
    log = logger(output)
    output.error = OSError(errno.ENOSPC, "full")
    log.warning("lost")
    flush(log)
    output.error = None
    log.warning("kept")
    flush(log)
    assert output.messages == ["kept", "1 log lines were dropped"]


def test_the_id_is_that_of_the_greenlet_that_logs(output: Slow) -> None:
    log = logger(output)
    output.stalls = True

    def serve(name: str) -> None:
        request_id_var.set(name)
        log.warning("Bearer abcdefghijkl and a-known-secret")

    gevent.joinall([gevent.spawn(serve, f"call-{number}") for number in range(3)])
    output.stalls = False
    flush(log)
    lines = [json.loads(line) for line in b"".join(output.blocks).splitlines()]
    assert [line["request_id"] for line in lines] == ["call-0", "call-1", "call-2"]
    assert set(output.messages) == {"[secret] and [secret]"}


def test_what_can_be_formatted_later() -> None:
    def record(message: str, *args: object, **fields: object) -> logging.LogRecord:
        made = logging.LogRecord("x", logging.INFO, "f", 1, message, args, None)
        made.__dict__.update(fields)
        return made

    assert _settled(record("a", request_id="r"))
    assert not _settled(record("a"))
    assert not _settled(record("%s", [], request_id="r"))
    assert not _settled(record("a", request_id="r", exc_info=(None, None, None)))


def test_each_process_has_a_thread_and_lines_of_its_own(tmp_path: Path) -> None:
    script = (
        "import logging, os, sys, time\n"
        "from pathlib import Path\n"
        "from proxy.logs.async_handler import File, LogWriter\n"
        "handler = LogWriter(File(Path(sys.argv[1])))\n"
        "logging.getLogger().addHandler(handler)\n"
        "logging.warning('parent')\n"
        "handler.flush()\n"
        "pid = os.fork()\n"
        "logging.warning('child' if pid == 0 else 'parent again')\n"
        "if pid: os.waitpid(pid, 0)\n"
    )
    path = tmp_path / "log"
    subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=True, timeout=30)
    assert sorted(path.read_text().splitlines()) == ["child", "parent", "parent again"]


CRASH = """
import logging.config, sys
from gevent import monkey
monkey.patch_all()
from proxy.logs import async_handler as logwriter, config as logs
logging.config.dictConfig(
    logs.logging_config(level="info", log_format="json", log_file=None, known_secrets=[])
)
logwriter.install()
for number in range(int(sys.argv[1])):
    logging.error("line %d", number)
logging.exception("last words", exc_info=ValueError("why"))
raise ZeroDivisionError
"""


def test_a_process_that_dies_at_once_has_said_why() -> None:
    command = [sys.executable, "-c", CRASH, "100"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=30)
    lines = ended.stderr.splitlines()
    logged = [json.loads(line) for line in lines if line.startswith(b"{")]
    assert [line["message"] for line in logged] == [
        *(f"line {n}" for n in range(100)),
        "last words",
    ]
    assert "ValueError: why" in logged[-1]["exception"]
    assert b"ZeroDivisionError" in lines
    assert ended.returncode == 1


def test_a_stalled_reader_does_not_hold_up_the_end() -> None:
    script = CRASH.replace("raise ZeroDivisionError", "sys.exit(3)")
    read, write = os.pipe()
    try:
        process = subprocess.Popen([sys.executable, "-c", script, "5000"], cwd=ROOT, stderr=write)
        assert process.wait(30) == 3
    finally:
        os.close(write)
        os.close(read)


def test_a_pipe_that_does_not_block(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    log = logger(Descriptor(write))
    for number in range(3000):
        log.warning("line %d", number)
    got = b""
    while b"line 2999" not in got:
        got += os.read(read, 65536)
    flush(log)
    os.close(read)
    os.close(write)
    assert len(got.splitlines()) == 3000


def test_a_file_that_is_rotated_by_others(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = File(path)
    file.write(b"one\n")
    path.rename(tmp_path / "log.1")
    file.write(b"two\n")
    file.write(b"three\n")
    assert (tmp_path / "log.1").read_bytes() == b"one\n"
    path.unlink()
    file.write(b"four\n")
    assert path.read_bytes() == b"four\n"


@pytest.mark.parametrize("to_file", [True, False])
def test_install_takes_the_place_of_the_plain_handler(tmp_path: Path, to_file: bool) -> None:
    script = (
        "import logging.config, sys\n"
        "from proxy.logs import async_handler as logwriter, config as logs\n"
        "logging.config.dictConfig(logs.logging_config(level='info', log_format='console',\n"
        "    log_file=sys.argv[1] or None, known_secrets=['open sesame']))\n"
        "logging.getLogger('proxy').info('before')\n"
        "logwriter.install()\n"
        "logging.getLogger('gunicorn.error').info('open sesame')\n"
        "logging.getLogger('proxy').debug('too quiet')\n"
        "assert [type(h).__name__ for h in logging.getLogger().handlers] == ['LogWriter']\n"
    )
    path = tmp_path / "log"
    command = [sys.executable, "-c", script, str(path) if to_file else ""]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=30)
    written = path.read_text() if to_file else ended.stderr.decode()
    before, after = written.splitlines()
    assert before.endswith("proxy: before")
    assert after.endswith("gunicorn.error: [secret]")
