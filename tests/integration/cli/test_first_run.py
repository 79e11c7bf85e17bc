"""proxy/cli/first_run.py: what `make run` prints, and that Ctrl-C ends what it started."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
import responses
from responses.matchers import json_params_matcher

from proxy.cli import server
from proxy.cli.client import Api
from proxy.cli.first_run import _greet, greeting
from proxy.settings.settings import Settings
from proxy.tools.fake_upstream import FakeUpstream
from tests.support.cli_runner import BASE, Run
from tests.support.ports import free_port

#: Starts servers.


KEY = "sk-upstream-0123456789abcdef"
PROJECT = {"id": "p1", "name": "default", "is_active": True}


def wants_token(api: responses.RequestsMock, project_id: str) -> None:
    body = {"project_id": project_id, "duration_minutes": 1440, "name": "make run"}
    matcher = json_params_matcher(body)
    api.post(f"{BASE}/manage/tokens", json={"token": "sk-abc"}, status=201, match=[matcher])


def test_the_first_active_project_gets_a_token(api: responses.RequestsMock) -> None:
    projects = [{"id": "p0", "name": "a", "is_active": False}, PROJECT]
    api.get(f"{BASE}/manage/projects", json=projects)
    wants_token(api, "p1")
    text = greeting(Api(BASE, "t"))
    assert f"curl {BASE}/v1/chat/completions" in text
    assert "Authorization: Bearer sk-abc" in text


def test_the_first_project_is_made_of_the_key_in_the_environment(
    api: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    api.get(f"{BASE}/manage/projects", json=[])
    body = {"name": "default", "api_key": KEY, "description": "made by make run"}
    matcher = json_params_matcher(body)
    api.post(f"{BASE}/manage/projects", json=PROJECT, status=201, match=[matcher])
    wants_token(api, "p1")
    assert "Bearer sk-abc" in greeting(Api(BASE, "t"))


@pytest.mark.parametrize("projects", [[], [{"id": "p", "name": "a", "is_active": False}]])
def test_without_a_project_the_command_that_makes_one(
    api: responses.RequestsMock, projects: list[object]
) -> None:
    api.get(f"{BASE}/manage/projects", json=projects)
    assert "project create" in greeting(Api(BASE, "t"))


@pytest.mark.parametrize(
    ("stored", "where", "expected"),
    [
        ("", "http://127.0.0.1:18480", " --base-url http://127.0.0.1:18480\n"),
        ("PORT=18480\n", "http://127.0.0.1:18480", "--name default\n"),
        ("PORT=9000\n", BASE, f" --base-url {BASE}\n"),
    ],
)
def test_the_commands_find_the_server_from_another_terminal(
    monkeypatch: pytest.MonkeyPatch, stored: str, where: str, expected: str
) -> None:
    """Which has ``.env``, and not this one's PORT."""
    Path(".env").write_text(stored)
    monkeypatch.setenv("PORT", where.rpartition(":")[2])
    with responses.RequestsMock() as mock:
        mock.get(f"{where}/manage/projects", json=[])
        text = greeting(Api(where, "t"))
    assert expected in text
    assert text.count("--base-url") == 2 * expected.count("--base-url")


def test_a_server_that_refuses_serves_on(
    run: Run,
    api: responses.RequestsMock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("setup")
    monkeypatch.setattr(server, "wait_until_serving", lambda base_url, ended: True)
    error = {"message": "Away.", "code": "store_unavailable"}
    api.get(f"{BASE}/manage/projects", json={"error": error}, status=503)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        _greet(process, BASE, Settings.load(os.environ, Path(".env")))
    assert "but: Away. (store_unavailable, HTTP 503)" in capsys.readouterr().err


def test_serve_and_greet_for_real(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed curl's token works, and one Ctrl-C ends everything, with exit code 0."""
    with FakeUpstream(KEY, pace=0) as upstream:
        environ = {"PORT": str(free_port()), "WEB_CONCURRENCY": "1"}
        environ |= {"OPENAI_API_KEY": KEY, "UPSTREAM_BASE_URL": upstream.base_url}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        run("setup")
        run("db", "migrate")
        out = Path("out.log")
        with out.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, str(server.ROOT / "manage.py"), "serve", "--welcome"],
                stdout=log,
                stderr=log,
            )
        try:
            deadline = time.monotonic() + 20
            while "Bearer" not in out.read_text() and time.monotonic() < deadline:
                time.sleep(0.05)
            found = re.search(r"curl (\S+) [\s\S]*(Bearer \S+)'[\s\S]*-d '(.*)'", out.read_text())
            assert found, out.read_text()
            url, bearer, body = found.groups()
            headers = {"Authorization": bearer, "Content-Type": "application/json"}
            answer = requests.post(url, data=body, headers=headers, timeout=10)
            assert answer.status_code == 200, answer.text
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=1)


def test_where_clients_bring_their_keys_the_call_uses_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    """Nothing is asked of the management API, and the key itself is not printed."""
    run("setup")
    monkeypatch.setenv("AUTH_MODE", "passthrough")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(server, "wait_until_serving", lambda base_url, ended: True)
    capsys.readouterr()
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        _greet(process, BASE, Settings.load(os.environ, Path(".env")))
    told = capsys.readouterr()
    assert '-H "Authorization: Bearer $OPENAI_API_KEY"' in told.out
    assert f"curl {BASE}/v1/chat/completions" in told.out
    assert KEY not in told.out + told.err
    assert told.err == ""


def test_a_server_that_does_not_start_ends_it_too(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", str(free_port()))
    run("setup")
    command = [sys.executable, str(server.ROOT / "manage.py"), "serve", "--welcome"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert "db migrate" in done.stderr
