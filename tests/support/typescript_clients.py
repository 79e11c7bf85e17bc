"""The official TypeScript clients: installed once, and their scripts run with node.

What is installed is what `tests/e2e/typescript/package-lock.json` pins, by its hashes.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.services.process import require

FOLDER = ROOT / "tests" / "e2e" / "typescript"
LOCK = FOLDER / "package-lock.json"
#: A copy of the lock that was installed; `npm ci` removes it before it begins.
_INSTALLED = FOLDER / "node_modules" / ".installed"


def install() -> str:
    """Install what the lock pins, unless it is there. Returns where node is.

    Skips the test where node or npm is missing.
    """
    node = require("node", package="nodejs")
    npm = require("npm", package="npm")
    lock = LOCK.read_text()
    if not _INSTALLED.exists() or _INSTALLED.read_text() != lock:
        # The scripts of packages are not run: nothing that is installed here needs them.
        command = [npm, "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.fail(f"npm ci failed in {FOLDER}:\n{done.stderr}", pytrace=False)
        _INSTALLED.write_text(lock)
    return node


def run_script(node: str, name: str, home: Path, **environ: str) -> dict[str, Any]:
    """Run a script with nothing but `environ` in its environment. Returns what it prints."""
    done = subprocess.run(
        [node, str(FOLDER / name)],
        env={"HOME": str(home), **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen
