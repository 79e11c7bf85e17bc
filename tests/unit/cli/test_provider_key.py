"""proxy/cli/provider_key.py: each command, the call it makes, what it prints."""

import json
from typing import Any

import pytest
import responses
from responses.matchers import header_matcher, json_params_matcher, query_param_matcher

from tests.support.cli_runner import BASE, TOKEN, Run

URL = f"{BASE}/manage/keys"
PROVIDER = "0b3a7c5e-0000-4000-8000-000000000001"
ID = "0b3a7c5e-0000-4000-8000-000000000002"
SECRET = "sk-abcdefghijklmnopqrstuvwxyz"
KEY = {
    "id": ID,
    "provider_id": PROVIDER,
    "provider": "eu",
    "name": "team-a",
    "value": "sk-abcde...wxyz",
    "weight": 1,
    "models": ["gpt-*", "o*"],
    "is_active": True,
    "source": "api",
    "health": "cooling",
    "cooling_until": "2026-01-01T00:05:00.000000Z",
    "last_status": 429,
    "last_used_at": "2026-01-01T00:00:00.000000Z",
    "success_count": 12,
    "failure_count": 3,
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
}
NEW = ["--provider", PROVIDER, "--name", "team-a"]


def sends(body: dict[str, Any]) -> list[Any]:
    return [header_matcher({"Authorization": f"Bearer {TOKEN}"}), json_params_matcher(body)]


def test_list(run: Run, api: responses.RequestsMock) -> None:
    free = {**KEY, "models": [], "health": "healthy", "cooling_until": None, "last_status": 200}
    api.get(URL, json=[KEY, free])
    result = run("provider-key", "list")
    assert result.exit_code == 0
    first, second = result.output.splitlines()[1:]
    for value in ("eu", "team-a", "sk-abcde...wxyz", "gpt-*, o*", "12/3"):
        assert value in first
    assert "cooling until 2026-01-01T00:05:00Z (429)" in first
    assert second.split()[-1] == "healthy"
    assert " all " in second
    assert json.loads(run("provider-key", "list", "--json").output) == [KEY, free]


def test_list_shows_what_is_off_and_of_the_file(run: Run, api: responses.RequestsMock) -> None:
    free = {"cooling_until": None, "health": "healthy"}
    api.get(URL, json=[KEY | free | {"is_active": False}, KEY | free | {"source": "file"}])
    first, second = run("provider-key", "list").output.splitlines()[1:]
    assert first.split()[-1] == "off"
    assert second.rstrip().endswith("healthy, from file")


def test_by_provider_and_name(run: Run, api: responses.RequestsMock) -> None:
    api.get(f"{BASE}/manage/providers", json=[{"id": PROVIDER, "name": "eu"}])
    api.get(URL, json=[KEY], match=[query_param_matcher({"provider_id": PROVIDER})])
    api.delete(f"{URL}/{ID}", status=204)
    assert run("provider-key", "delete", "eu/team-a").output == f"Deleted {ID}.\n"
    assert run("provider-key", "delete", "eu/team-b").exit_code == 1


def test_by_a_name_that_is_not_unique(run: Run, api: responses.RequestsMock) -> None:
    api.get(URL, json=[KEY, {**KEY, "id": PROVIDER}])
    result = run("provider-key", "get", "team-a")
    assert result.exit_code == 1
    assert "2 have this name" in result.stderr


def test_list_of_a_provider(run: Run, api: responses.RequestsMock) -> None:
    api.get(URL, json=[], match=[query_param_matcher({"provider_id": PROVIDER})])
    assert run("provider-key", "list", "--provider", PROVIDER).exit_code == 0
    api.get(f"{BASE}/manage/providers", json=[{"id": PROVIDER, "name": "eu"}])
    assert run("provider-key", "list", "--provider", "eu").exit_code == 0


def test_get(run: Run, api: responses.RequestsMock) -> None:
    api.get(f"{URL}/{ID}", json=KEY)
    shown = run("provider-key", "get", ID).output
    assert "sk-abcde...wxyz" in shown
    assert "gpt-*, o*" in shown


def test_create(run: Run, api: responses.RequestsMock) -> None:
    body = {"provider_id": PROVIDER, "name": "team-a", "value": SECRET}
    more = {"weight": 0, "models": ["gpt-*", "o*"], "is_active": False}
    api.post(URL, json=KEY, status=201, match=sends(body | more))
    options = ["--weight", "0", "--model", "gpt-*", "--model", "o*", "--inactive"]
    result = run("provider-key", "create", *NEW, "--value", SECRET, *options, "--json")
    assert json.loads(result.stdout) == KEY
    assert result.stderr.startswith("Warning: --value on the command line is visible")
    assert SECRET not in result.output


def test_create_reads_the_key_from_stdin(run: Run, api: responses.RequestsMock) -> None:
    body = {"provider_id": PROVIDER, "name": "team-a", "value": SECRET}
    api.post(URL, json=KEY, status=201, match=sends(body))
    result = run("provider-key", "create", *NEW, "--value", "-", "--raw", input=f"{SECRET}\n")
    assert result.output == f"{ID}\n"


def test_create_asks_without_echo(
    run: Run, api: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.cli.secret_option.is_terminal", lambda: True)
    body = {"provider_id": PROVIDER, "name": "team-a", "value": SECRET}
    api.post(URL, json=KEY, status=201, match=sends(body))
    result = run("provider-key", "create", *NEW, input=f"{SECRET}\n")
    assert result.exit_code == 0
    assert SECRET not in result.output


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (NEW, "", "--value -"),
        ([*NEW, "--value", "-"], "\n", "empty"),
        (["--name", "x"], "", "--provider"),
        ([*NEW, "--weight", "-1"], "", "--weight"),
    ],
)
def test_wrong_usage(
    run: Run, api: responses.RequestsMock, arguments: list[str], stdin: str, message: str
) -> None:
    result = run("provider-key", "create", *arguments, input=stdin)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (["--name", "n", "--weight", "2"], {"name": "n", "weight": 2}),
        (["--value", "-"], {"value": SECRET}),
        (["--model", "a*"], {"models": ["a*"]}),
        (["--all-models"], {"models": []}),
        (["--inactive"], {"is_active": False}),
    ],
)
def test_update_sends_what_is_given(
    run: Run, api: responses.RequestsMock, arguments: list[str], body: dict[str, Any]
) -> None:
    api.patch(f"{URL}/{ID}", json=KEY, match=sends(body))
    assert run("provider-key", "update", ID, *arguments, input=f"{SECRET}\n").exit_code == 0


@pytest.mark.parametrize("arguments", [[], ["--model", "a", "--all-models"]])
def test_updates_that_say_nothing(
    run: Run, api: responses.RequestsMock, arguments: list[str]
) -> None:
    assert run("provider-key", "update", ID, *arguments).exit_code == 2


def test_a_secret_is_no_id(run: Run, api: responses.RequestsMock) -> None:
    result = run("provider-key", "delete", SECRET)
    assert result.exit_code == 2
    assert SECRET not in result.output


def test_delete(run: Run, api: responses.RequestsMock) -> None:
    api.delete(f"{URL}/{ID}", status=204)
    assert run("provider-key", "delete", ID).output == f"Deleted {ID}.\n"
    assert json.loads(run("provider-key", "delete", ID, "--json").output) == {"deleted": ID}


def test_reset(run: Run, api: responses.RequestsMock) -> None:
    api.post(f"{URL}/{ID}/reset", json={**KEY, "health": "healthy", "cooling_until": None})
    assert "healthy" in run("provider-key", "reset", ID).output
