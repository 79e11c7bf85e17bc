"""proxy/cli/cache.py: the calls it makes, and what it prints."""

import json
from typing import Any

import pytest
import responses
from responses.matchers import json_params_matcher

from tests.support.cli_runner import BASE, Run

URL = f"{BASE}/manage/cache"
PROJECT = "0b3a7c5e-0000-4000-8000-000000000001"
ENTRY = {
    "key": "0123456789abcdef",
    "project_id": PROJECT,
    "token_id": None,
    "method": "POST",
    "path": "/v1/embeddings",
    "bytes": 4096,
    "hits": 3,
    "stored_at": "2026-11-28T06:00:00.000000Z",
    "expires_at": "2026-11-28T06:05:00.000000Z",
}
FOUND: dict[str, Any] = {
    "ttl": 300.0,
    "item_count": 1,
    "bytes": 8192,
    "largest": [ENTRY],
    "most_hit": [],
}


def test_stats(run: Run, api: responses.RequestsMock) -> None:
    api.get(URL, json=FOUND)
    assert json.loads(run("cache", "stats", "--json").stdout) == FOUND
    lines = run("cache", "stats").stdout.splitlines()
    assert ["item_count", "1"] in [line.split() for line in lines]
    assert "Largest:" in lines
    assert "Most hit:" not in lines
    assert lines[-1].split()[:6] == [
        *("0123456789abcdef", PROJECT, "POST", "/v1/embeddings", "4096", "3")
    ]


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (["--project-id", "p"], {"project_id": "p"}),
        (["--method", "GET", "--url", "/v1/models"], {"method": "GET", "url": "/v1/models"}),
        (["--project-id", "p", "--prefix", "/v1/"], {"project_id": "p", "prefix": "/v1/"}),
        (["--cache-key", "0123456789abcdef"], {"key": "0123456789abcdef"}),
    ],
)
def test_purge(
    run: Run, api: responses.RequestsMock, arguments: list[str], body: dict[str, str]
) -> None:
    api.post(f"{URL}/purge", json={"deleted": 12}, match=[json_params_matcher(body)])
    assert run("cache", "purge", *arguments).stdout == "12 responses purged.\n"
    assert json.loads(run("cache", "purge", *arguments, "--json").stdout) == {"deleted": 12}


def test_purge_all(run: Run, api: responses.RequestsMock) -> None:
    api.delete(f"{BASE}/cache", json={"message": "The cache is empty.", "deleted": 3})
    assert run("cache", "purge", "--all").stdout == "3 responses purged.\n"


@pytest.mark.parametrize("arguments", [[], ["--all", "--project-id", "p"]])
def test_what_is_purged_must_be_said(
    run: Run, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANAGEMENT_TOKEN", "x" * 16)
    result = run("cache", "purge", *arguments)
    assert result.exit_code == 2
    assert "say what to purge" in result.stderr


def test_refused(run: Run, api: responses.RequestsMock) -> None:
    error = {"error": {"message": "There is no project with this id.", "code": "not_found"}}
    api.post(f"{URL}/purge", json=error, status=404)
    result = run("cache", "purge", "--project-id", "p")
    assert (result.exit_code, "no project" in result.stderr) == (1, True)
