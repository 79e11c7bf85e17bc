"""gunicorn as a child process: starts it, waits until it serves, stops it.

A process id in a file proves nothing: the process may be gone and its number reused.
:func:`is_ours` checks the process before it gets a signal.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final

import click

from proxy.cli.client import Api, Refused

ROOT: Final = Path(__file__).resolve().parents[2]
CONF: Final = ROOT / "gunicorn.conf.py"
#: Seconds until a server that neither serves nor ends counts as failed.
START_TIMEOUT: Final = 30.0
_POLL_SECONDS: Final = 0.05


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gunicorn", "-c", str(CONF), *arguments]


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """Returns ``base`` with the project importable from any current directory (with ``.env``)."""
    path = os.pathsep.join(filter(None, [str(ROOT), base.get("PYTHONPATH", "")]))
    return {**base, "PYTHONPATH": path}


def start(
    environ: Mapping[str, str],
    *arguments: str,
    log: IO[Any] | None = None,
    directory: Path | None = None,
    own_session: bool = False,
) -> "subprocess.Popen[bytes]":
    """Starts gunicorn outside the terminal's process group. ``log`` takes stdout and stderr.

    So Ctrl-C reaches only the caller, which can turn it into a graceful stop.
    """
    return subprocess.Popen(  # noqa: S603  (our own interpreter and file)
        command(*arguments),
        env=environment(environ),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT if log else None,
        start_new_session=own_session,
        process_group=None if own_session else 0,
    )


def wait_until_serving(base_url: str, ended: Callable[[], bool]) -> bool:
    """Returns True once ``/health`` responds, False if the process ``ended`` or time is up."""
    deadline = time.monotonic() + START_TIMEOUT
    with Api(base_url) as api:
        while not ended() and time.monotonic() < deadline:
            with contextlib.suppress(Refused):
                status, body = api.status_of("/health")
                if status == 200 and isinstance(body, dict) and "service" in body:
                    return True
            time.sleep(_POLL_SECONDS)
    return False


def refuse_busy_port(host: str, port: int) -> None:
    """Raises if the port is already in use: a foreign ``/health`` would pass for this server's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise click.ClickException(f"{host}:{port}: {error.strerror or error}") from error


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def stop(process: "subprocess.Popen[bytes]", timeout: float) -> int | None:
    """Sends SIGTERM and returns the exit code, or None if it took SIGKILL, after ``timeout`` s."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def read_pid(pid_file: Path) -> int | None:
    """Returns the process id in ``pid_file``, or None if the file is missing or has none."""
    try:
        return int(pid_file.read_text("ascii").strip())
    except (FileNotFoundError, ValueError):
        return None


def is_ours(pid: int) -> bool:
    """Whether ``pid`` runs gunicorn with a ``gunicorn.conf.py``, and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except (OSError, IndexError):
        if Path("/proc/self").exists():
            return False
        state, arguments = "?", _ps(pid).split()
    return (
        state not in "ZX"
        and any("gunicorn" in Path(argument).name for argument in arguments[:3])
        and any(argument.endswith(CONF.name) for argument in arguments)
    )


def _ps(pid: int) -> str:
    """Returns the command line of ``pid`` where there is no ``/proc`` (macOS)."""
    found = subprocess.run(  # noqa: S603
        ["ps", "-o", "command=", "-p", str(pid)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout
