"""The real thing under test: gunicorn with the project's own configuration, as a process.

Started on a free port with everything in a temporary folder; ended by its own process id.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gevent
import requests

from tests.support import canaries
from tests.support.paths import ROOT
from tests.support.ports import free_port

MANAGEMENT_TOKEN = "management-token-of-the-tests"
UPSTREAM_KEY = "sk-upstream-canary-0123456789abcdefABCDEF"


def _migrate(folder: Path, environ: dict[str, str]) -> None:
    command = [sys.executable, str(ROOT / "manage.py"), "db", "migrate"]
    subprocess.run(command, cwd=folder, env=environ, check=True, capture_output=True)


class ProxyServer:
    """``settings`` are environment variables on top of the defaults for tests."""

    #: The SQLite file of the first one, before anything was in it.
    _migrated: bytes | None = None

    def __init__(self, folder: Path, upstream_url: str, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.event_log = folder / "events.jsonl"
        self.log = folder / "proxy.log"
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PORT": str(self.port),
            "WEB_CONCURRENCY": "2",
            "DATA_DIR": str(folder / "data"),
            "MANAGEMENT_TOKEN": MANAGEMENT_TOKEN,
            "ENCRYPTION_KEY": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "UPSTREAM_BASE_URL": upstream_url,
            "EVENT_LOG": str(self.event_log),
            "GRACEFUL_TIMEOUT": "10",
            "EVENT_SHIPPER": "off",  # a process more, which few tests need
            **{k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")},
            **settings,
        }
        canaries.register_environment(self.environ)
        canaries.register(UPSTREAM_KEY)
        self._events_read = 0
        self.process: subprocess.Popen[bytes] | None = None

    def migrate(self) -> None:
        """By the command; a new SQLite file that it has made once is copied from then on."""
        file = Path(self.environ["DATA_DIR"]) / "proxy.db"
        if "DATABASE_URL" in self.environ or file.parent.exists():
            _migrate(self.folder, self.environ)
        elif ProxyServer._migrated is None:
            _migrate(self.folder, self.environ)
            assert list(file.parent.iterdir()) == [file], "all that it makes can be copied"
            ProxyServer._migrated = file.read_bytes()
        else:
            file.parent.mkdir(mode=0o700, exist_ok=True)
            file.write_bytes(ProxyServer._migrated)

    def spawn(self, prefix: Sequence[str] = (), output: int | None = None) -> None:
        """Start without waiting for it to be ready; ``prefix`` is a command that runs it, and
        ``output`` a descriptor for stdout and stderr instead of :attr:`log`."""
        gunicorn = str(Path(sys.executable).with_name("gunicorn"))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, gunicorn, "-c", str(ROOT / "gunicorn.conf.py")],
                cwd=self.folder,
                env=self.environ,
                stdout=log if output is None else output,
                stderr=log if output is None else output,
            )

    def start(self) -> "ProxyServer":
        self.migrate()
        self.spawn()
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                break
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{self.url}/ready", timeout=5).status_code == 200:
                    return
            gevent.sleep(0.05)
        raise AssertionError(f"the server did not become ready:\n{self.log.read_text()}")

    def terminate(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = 60) -> int:
        assert self.process is not None
        return self.process.wait(timeout)

    def stop(self) -> int:
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else 0
        self.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    # Management.

    def manage(self, method: str, path: str, body: Any = None, **kwargs: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}", **kwargs.pop("headers", {})}
        if isinstance(body, dict):
            for secret in ("api_key", "value"):
                canaries.register(str(body.get(secret, "")))
        answer = requests.request(
            method, f"{self.url}/manage{path}", json=body, headers=headers, timeout=30, **kwargs
        )
        if answer.status_code == 201 and path == "/tokens":
            canaries.register(answer.json()["token"])
        return answer

    def command(
        self, *arguments: str, stdin: str = "", environ: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """``manage.py`` with these, where this server is installed; ``environ``: instead of its."""
        return subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), *arguments],
            cwd=self.folder,
            env=self.environ if environ is None else environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def create_project(self, name: str = "project", api_key: str = UPSTREAM_KEY) -> dict[str, Any]:
        answer = self.manage("POST", "/projects", {"name": name, "api_key": api_key})
        assert answer.status_code == 201, answer.text
        project: dict[str, Any] = answer.json()
        return project

    def mint(self, project_id: str, **fields: Any) -> dict[str, Any]:
        body = {"project_id": project_id, "duration_minutes": 60, **fields}
        answer = self.manage("POST", "/tokens", body)
        assert answer.status_code == 201, answer.text
        token: dict[str, Any] = answer.json()
        return token

    # What it left behind.

    def events(self, count: int, timeout: float = 20) -> list[dict[str, Any]]:
        """The next ``count`` usage events since the last call, in the order of their requests;
        waits for them. (Each worker writes its own, so that in the file they come in any order.)"""
        deadline = time.monotonic() + timeout
        while len(fresh := self._fresh_events()) < count and time.monotonic() <= deadline:
            gevent.sleep(0.02)
        events = self._consume(fresh)
        assert len(events) == count, [(e["endpoint"], e["status_code"]) for e in events]
        return events

    def events_so_far(self) -> list[dict[str, Any]]:
        """Those since the last call that are there."""
        return self._consume(self._fresh_events())

    def _consume(self, fresh: list[str]) -> list[dict[str, Any]]:
        self._events_read += len(fresh)
        events = [json.loads(line) for line in fresh]
        return sorted(events, key=lambda event: str(event["timestamp"]))

    def _fresh_events(self) -> list[str]:
        text = self.event_log.read_text() if self.event_log.exists() else ""
        # A line is only there once it is whole: a read may come in the middle of a write.
        whole = text[: text.rfind("\n") + 1].splitlines()
        lines = [line for line in whole if '"event":"audit"' not in line]
        return lines[self._events_read :]

    def worker_pids(self) -> list[int]:
        """Of the workers, from the kernel's list of the master's children."""
        assert self.process is not None
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        shippers = self.shipper_pids()
        return [int(child) for child in children if int(child) not in shippers]

    def shipper_pids(self) -> list[int]:
        """Of the living ones that this server has started."""
        assert self.process is not None
        pid, found = self.process.pid, []
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if b"ship\0--attached" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
        return found

    def log_text(self) -> str:
        return self.log.read_text()
