"""gunicorn as a process of ours: starting it, knowing when it serves, stopping it.

A process id in a file proves nothing: the process may be gone and its number given to another.
:func:`is_ours` looks at what runs there before anybody sends it a signal.
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
_POLL: Final = 0.05


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gunicorn", "-c", str(CONF), *arguments]


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """``base`` with the project importable, whatever the current directory (which has ``.env``)."""
    path = os.pathsep.join(filter(None, [str(ROOT), base.get("PYTHONPATH", "")]))
    return {**base, "PYTHONPATH": path}


def start(
    environ: Mapping[str, str],
    *arguments: str,
    log: IO[Any] | None = None,
    directory: Path | None = None,
    own_session: bool = False,
) -> "subprocess.Popen[bytes]":
    """Start gunicorn apart from the terminal's process group; ``log`` takes stdout and stderr.

    Ctrl-C therefore reaches only the caller, who can make a graceful stop of it.
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
    """True once ``/health`` answers; False when the process ``ended`` or time is up."""
    deadline = time.monotonic() + START_TIMEOUT
    with Api(base_url) as api:
        while not ended() and time.monotonic() < deadline:
            with contextlib.suppress(Refused):
                status, body = api.status_of("/health")
                if status == 200 and isinstance(body, dict) and "service" in body:
                    return True
            time.sleep(_POLL)
    return False


def refuse_busy_port(host: str, port: int) -> None:
    """Raise when somebody listens there already: their ``/health`` would pass for ours."""
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
    """SIGTERM, then the exit code; None when only SIGKILL ended it, after ``timeout`` seconds."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def read_pid(pid_file: Path) -> int | None:
    """The process id in ``pid_file``; None when there is no such file or it says nothing."""
    try:
        return int(pid_file.read_text("ascii").strip())
    except (FileNotFoundError, ValueError):
        return None


def is_ours(pid: int) -> bool:
    """Whether ``pid`` runs gunicorn with a ``gunicorn.conf.py``, and is not just a zombie."""
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
    """The command line of ``pid`` where there is no ``/proc`` (macOS)."""
    found = subprocess.run(  # noqa: S603
        ["ps", "-o", "command=", "-p", str(pid)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout
