"""proxy/cli/serve.py with the real server: foreground, background, stop, health."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import responses

from proxy.cli import server
from tests.support.cli_runner import BASE, Run
from tests.support.ports import free_port
from tests.support.wait import wait_until

#: Starts servers.


MANAGE = [sys.executable, str(server.ROOT / "manage.py")]


@pytest.fixture
def port(run: Run, monkeypatch: pytest.MonkeyPatch) -> int:
    """A directory in which ``serve`` works, on this port."""
    found = free_port()
    monkeypatch.setenv("PORT", str(found))
    monkeypatch.setenv("WEB_CONCURRENCY", "1")
    run("setup")
    run("db", "migrate")
    return found


def test_background(run: Run, port: int) -> None:
    started = run("serve", "--daemon")
    assert started.exit_code == 0, started.output
    try:
        pid = server.read_pid(Path("data/proxy.pid"))
        assert pid is not None
        assert f"process {pid}" in started.output
        assert server.is_ours(pid)
        wait_until(lambda: run("health").exit_code == 0)  # its patience is short on a busy machine
        again = run("serve", "--daemon")
        assert again.exit_code == 1
        assert "already running" in again.stderr
        # Another one of its own pid file meets the busy port.
        assert "in use" in run("serve", "--daemon", "--pid-file", "other.pid").stderr
    finally:
        stopped = run("stop")
    assert stopped.exit_code == 0, stopped.output
    assert not Path("data/proxy.pid").exists()
    assert not server.is_ours(pid)
    assert run("health").exit_code == 1
    nobody = run("stop")
    assert nobody.exit_code == 1
    assert "serve --daemon" in nobody.stderr


def test_a_background_server_that_does_not_start_reports_why(
    run: Run, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///not-migrated.db")
    result = run("serve", "--daemon", "--pid-file", "my.pid")
    assert result.exit_code == 1
    assert "manage.py db migrate" in result.stderr
    assert "data/proxy.log" in result.stderr


def test_settings_are_checked_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    assert run("serve", "--daemon").exit_code == 2


def test_foreground_becomes_gunicorn(port: int) -> None:
    with Path("out.log").open("wb") as log:
        process = subprocess.Popen(
            [*MANAGE, "serve", "--pid-file", "my.pid"], stdout=log, stderr=log
        )
    try:
        where = f"http://127.0.0.1:{port}"
        serving = server.wait_until_serving(where, lambda: process.poll() is not None)
        assert serving, Path("out.log").read_text()
        assert server.read_pid(Path("my.pid")) == process.pid
        assert server.is_ours(process.pid)
    finally:
        process.terminate()
    assert process.wait(20) == 0


def test_foreground_with_bad_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    done = subprocess.run([*MANAGE, "serve"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    for name in ("PORT", "MANAGEMENT_TOKEN", "ENCRYPTION_KEY"):
        assert f"{name}: " in done.stderr


def test_a_data_folder_that_cannot_be_used_is_said(
    run: Run, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", "/dev/null/data")
    problem = "DATA_DIR: /dev/null/data cannot be made or written: Not a directory"
    for command in (["serve"], ["serve", "--daemon"], ["events", "ship"]):
        done = subprocess.run(
            [*MANAGE, *command], capture_output=True, text=True, check=False, timeout=30
        )
        assert done.returncode == 2, command
        assert problem in done.stderr
        assert "Traceback" not in done.stderr


def test_stop_leaves_a_stranger_alone(run: Run) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    Path("my.pid").write_text(f"{stranger.pid}\n")
    result = run("stop", "--pid-file", "my.pid")
    assert result.exit_code == 1
    assert "stale" in result.stderr
    assert not Path("my.pid").exists()
    assert stranger.poll() is None
    stranger.communicate(b"\n")
    assert stranger.returncode == 0


def test_stop_does_not_wait_for_ever(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(server, "is_ours", lambda pid: True)
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setenv("GRACEFUL_TIMEOUT", "?")
    Path("my.pid").write_text("4194305\n")
    began = time.monotonic()
    result = run("stop", "--pid-file", "my.pid", "--timeout", "0.2")
    assert time.monotonic() - began < 5
    assert result.exit_code == 1
    assert "still running after 0.2 s" in result.stderr
    assert sent == [(4194305, signal.SIGTERM)]


def test_stop_of_another_process(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(server, "is_ours", lambda pid: True)
    monkeypatch.setattr(os, "kill", forbidden)
    Path("my.pid").write_text("4194305\n")
    assert "another user" in run("stop", "--pid-file", "my.pid").stderr


@responses.activate
@pytest.mark.parametrize(("ready", "code"), [(200, 0), (503, 1)])
def test_health(run: Run, ready: int, code: int) -> None:
    responses.get(f"{BASE}/health", json={"status": "ok"})
    responses.get(f"{BASE}/ready", json={"status": "?"}, status=ready)
    result = run("health")
    assert result.exit_code == code
    assert f"{ready} " in result.output
    assert f'"ok": {str(not code).lower()}' in run("health", "--json").output
