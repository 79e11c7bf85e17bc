"""gunicorn.conf.py: its errors before any module of the project is imported."""

import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

CONF = ROOT / "gunicorn.conf.py"
ELSEWHERE = """
import runpy, sys
import gevent.monkey
sys.platform = "darwin"
runpy.run_path(sys.argv[1])
"""


def test_another_system_gets_an_instruction(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, CONF],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("The server needs Linux")
