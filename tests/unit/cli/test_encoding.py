"""proxy/cli/encoding.py, and the commands on a stdout that is not UTF-8."""

import io
import json
import os
import subprocess
import sys

import pytest

from proxy.cli.encoding import is_unicode, show_anything
from tests.support.paths import ROOT

SHOW = """
import sys
from proxy.cli import output
from proxy.cli.encoding import show_anything
show_anything()
row = {"name": "Gr\\xfc\\xdfe \\u65e5\\u672c \\U0001f600", "id": "i" * 36}
output.table([row], {"id": "Id", "name": "Name"})
output.record(row)
print(row["name"], file=sys.stderr)
sys.stdout.flush()
print("--", flush=True)
output.as_json(row)
"""
ENCODINGS = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "utf-8"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "POSIX"},
]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_what_cannot_be_shown_is_replaced(encoding: dict[str, str]) -> None:
    environ = {"PATH": os.environ["PATH"], **encoding}
    done = subprocess.run(
        [sys.executable, "-c", SHOW], cwd=ROOT, env=environ, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    tables, _, document = done.stdout.partition(b"--\n")
    assert tables.count(b"i" * 36) == 2
    assert b"Traceback" not in done.stderr
    # JSON says the same in any encoding.
    name = json.loads(document.decode(encoding.get("PYTHONIOENCODING", "utf-8")))["name"]
    assert name == "Gr\xfc\xdfe \u65e5\u672c \U0001f600"


def test_the_program_shows_anything() -> None:
    environ = {"PATH": os.environ["PATH"], "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "manage.py", "gr\xfc\xdfe"], cwd=ROOT, env=environ, capture_output=True
    )
    assert done.returncode == 2
    assert b"No such command 'gr" in done.stderr


def test_streams_of_tests_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    raw = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", raw)
    show_anything()
    print("\xfc", file=sys.stderr, flush=True)
    assert raw.buffer.getvalue() == b"?\n"  # type: ignore[attr-defined]


def test_is_unicode() -> None:
    assert is_unicode(io.StringIO())
    assert is_unicode(io.TextIOWrapper(io.BytesIO(), encoding="UTF-8"))
    assert is_unicode(io.TextIOWrapper(io.BytesIO(), encoding="utf_16"))
    assert not is_unicode(io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
