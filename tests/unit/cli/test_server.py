"""proxy/cli/server.py: whose process a number is, and who holds a port."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest

from proxy.cli import server


def test_the_command_is_this_interpreter_with_the_projects_configuration() -> None:
    python, *rest = server.command("--pid", "x")
    assert python == sys.executable
    assert rest == ["-m", "gunicorn", "-c", str(server.ROOT / "gunicorn.conf.py"), "--pid", "x"]


def test_the_project_is_importable_from_anywhere() -> None:
    assert server.environment({})["PYTHONPATH"] == str(server.ROOT)
    assert server.environment({"PYTHONPATH": "a"})["PYTHONPATH"] == f"{server.ROOT}{os.pathsep}a"


def test_read_pid(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    assert server.read_pid(path) is None
    path.write_text("?\n")
    assert server.read_pid(path) is None
    path.write_text("42\n")
    assert server.read_pid(path) == 42


def test_only_gunicorn_with_the_proxy_s_configuration_counts(tmp_path: Path) -> None:
    assert not server.is_ours(os.getpid())
    assert not server.is_ours(2**22 + 1)
    (tmp_path / "gunicorn").write_text("import sys\nsys.stdin.read()\n")
    other = tmp_path / "other"
    other.write_text("import sys\nsys.stdin.read()\n")
    for script, arguments, ours in [
        (tmp_path / "gunicorn", ["-c", "gunicorn.conf.py"], True),
        (tmp_path / "gunicorn", ["-c", "/srv/app/gunicorn.conf.py"], True),
        (tmp_path / "gunicorn", ["-c", "else.py"], False),
        (other, ["-c", "gunicorn.conf.py"], False),
    ]:
        process = subprocess.Popen([sys.executable, str(script), *arguments], stdin=subprocess.PIPE)
        try:
            assert server.is_ours(process.pid) is ours
        finally:
            process.kill()
            # A zombie, until it is waited for, is nobody's server.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            assert not server.is_ours(process.pid)
            process.communicate()


def test_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: False)
    monkeypatch.setattr(server, "_ps", lambda pid: "python gunicorn -c gunicorn.conf.py")
    assert server.is_ours(2**22 + 1)


def test_ps_knows_no_process_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert server._ps(2**22 + 1) == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_busy_port_is_refused_and_a_free_one_is_not(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(click.ClickException, match="in use"):
            server.refuse_busy_port(host, port)
    server.refuse_busy_port(host, port)
    server.refuse_busy_port("127.0.0.1", server.free_port())


def test_waiting_ends_when_the_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not server.wait_until_serving("http://127.0.0.1:1", lambda: True)
    monkeypatch.setattr(server, "START_TIMEOUT", 0.1)
    assert not server.wait_until_serving("http://127.0.0.1:1", lambda: False)


def test_stop_kills_what_does_not_listen() -> None:
    code = "import signal, sys; signal.signal(15, signal.SIG_IGN); print(1, flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert server.stop(process, timeout=0.1) is None
    assert process.returncode == -9
    process.communicate()
