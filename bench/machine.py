"""On what a result was measured: without it a figure says nothing."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Final

LIBRARIES: Final = ("gunicorn", "gevent", "geventhttpclient", "greenlet", "flask", "requests")


def describe(root: Path) -> dict[str, str]:
    """CPU, kernel, system, versions, commit; a value is empty when it cannot be found out."""
    facts = {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "os": _os_name(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "nginx": _first_line(["nginx", "-v"]).rpartition("/")[2],
        "wrk": _first_line(["wrk", "-v"]).partition(" ")[2].partition(" ")[0],
        "commit": _first_line(["git", "-C", str(root), "rev-parse", "HEAD"]),
    }
    code = ["proxy", "bench", ":(exclude)bench/results"]  # an earlier race changes no code
    changed = _first_line(["git", "-C", str(root), "status", "--porcelain", "--", *code])
    return facts | {"uncommitted_changes": "yes" if changed else "no"}


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _os_name() -> str:
    """The distribution: whose build of Python it most likely is."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return ""


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except OSError:
        return ""
    return (done.stdout + done.stderr).strip().partition("\n")[0]
