"""proxy/cli/provider.py: each command, the call it makes, what it prints."""

import json
from pathlib import Path
from typing import Any

import pytest
import responses
from responses.matchers import header_matcher, json_params_matcher

from tests.support.cli_runner import BASE, TOKEN, Run

URL = f"{BASE}/manage/providers"
ID = "0b3a7c5e-0000-4000-8000-000000000001"
PROVIDER = {
    "id": ID,
    "name": "eu-azure",
    "provider_type": "azure",
    "base_url": "https://res.example.com",
    "config": {"timeout": 30, "auth": "bearer", "models": ["a", "b"]},
    "is_active": True,
    "is_default": False,
    "source": "api",
    "keys_count": 2,
    "breaker": "closed",
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
}
NEW = ["--name", "eu", "--type", "openai", "--url", "https://h.example/v1"]
BODY = {"name": "eu", "provider_type": "openai", "base_url": "https://h.example/v1"}


def sends(body: dict[str, Any]) -> list[Any]:
    return [header_matcher({"Authorization": f"Bearer {TOKEN}"}), json_params_matcher(body)]


def test_list(run: Run, api: responses.RequestsMock) -> None:
    api.get(URL, json=[PROVIDER])
    result = run("provider", "list")
    assert result.exit_code == 0
    for value in ("eu-azure", "azure", "https://res.example.com", " 2 ", " on "):
        assert value in result.output
    assert json.loads(run("provider", "list", "--json").output) == [PROVIDER]


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"is_active": False}, "off"),
        ({"is_default": True}, "default"),
        ({"breaker": "half_open", "source": "file"}, "breaker half open, from file"),
    ],
)
def test_states(run: Run, api: responses.RequestsMock, change: dict[str, Any], state: str) -> None:
    api.get(URL, json=[PROVIDER | change])
    assert run("provider", "list").output.rstrip().endswith(f" {state}")


def test_get_by_id_or_name(run: Run, api: responses.RequestsMock) -> None:
    api.get(f"{URL}/{ID}", json=PROVIDER)
    shown = run("provider", "get", ID)
    assert 'timeout=30, auth=bearer, models=["a","b"]' in shown.output
    api.get(URL, json=[{**PROVIDER, "id": "other", "name": "us"}, PROVIDER])
    assert run("provider", "get", "eu-azure").output == shown.output


def test_a_name_that_nothing_has(run: Run, api: responses.RequestsMock) -> None:
    api.get(URL, json=[PROVIDER])
    result = run("provider", "get", "eu")
    assert result.exit_code == 1
    assert result.stderr == "Error: 'eu': no such id or name; `list` shows what there is\n"


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        ([], {}),
        (["--inactive", "--default"], {"is_active": False, "is_default": True}),
        (["--allow-private"], {"config": {"allow_private": True}}),
        (
            ["--config", "timeout=30", "--config", "api_version=2024-10-21", "--config", "a=b=c"],
            {"config": {"timeout": 30, "api_version": "2024-10-21", "a": "b=c"}},
        ),
        (
            ["--config", 'models=["a", "b"]', "--config", "list_models=false", "--config", "x="],
            {"config": {"models": ["a", "b"], "list_models": False, "x": ""}},
        ),
        (
            ["--config-file", "-", "--config", "timeout=1"],
            {"config": {"timeout": 1, "max_retries": 2}},
        ),
    ],
)
def test_create(
    run: Run, api: responses.RequestsMock, arguments: list[str], more: dict[str, Any]
) -> None:
    api.post(URL, json=PROVIDER, status=201, match=sends(BODY | more))
    document = '{"timeout": 9, "max_retries": 2}'
    result = run("provider", "create", *NEW, *arguments, "--raw", input=document)
    assert result.output == f"{ID}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        NEW[:2],
        ["--name", "eu", "--type", "bedrock", "--url", "https://h"],
        [*NEW, "--config", "timeout"],
        [*NEW, "--config", "=1"],
        [*NEW, "--config-file", "list.json"],
        [*NEW, "--config-file", "broken.json"],
    ],
)
def test_wrong_usage(
    run: Run, api: responses.RequestsMock, tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    assert run("provider", "create", *arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (["--name", "n"], {"name": "n"}),
        (["--url", "https://h"], {"base_url": "https://h"}),
        (["--no-default", "--active"], {"is_default": False, "is_active": True}),
        (["--config", "timeout=null"], {"config": {"timeout": None}}),
    ],
)
def test_update_sends_what_is_given(
    run: Run, api: responses.RequestsMock, arguments: list[str], body: dict[str, Any]
) -> None:
    api.patch(f"{URL}/{ID}", json=PROVIDER, match=sends(body))
    assert run("provider", "update", ID, *arguments).exit_code == 0


def test_update_of_nothing_is_wrong_usage(run: Run, api: responses.RequestsMock) -> None:
    assert run("provider", "update", ID).exit_code == 2


def test_delete(run: Run, api: responses.RequestsMock) -> None:
    api.delete(f"{URL}/{ID}", status=204)
    assert run("provider", "delete", ID).output == f"Deleted {ID}.\n"
    assert json.loads(run("provider", "delete", ID, "--json").output) == {"deleted": ID}


def test_delete_of_one_in_use(run: Run, api: responses.RequestsMock) -> None:
    error = {"message": "Mappings use this provider: `gpt-4`.", "code": "conflict"}
    api.delete(f"{URL}/{ID}", json={"error": error}, status=409)
    result = run("provider", "delete", ID)
    assert result.exit_code == 1
    assert "`gpt-4`" in result.stderr


def test_the_test(run: Run, api: responses.RequestsMock) -> None:
    good = {"key_id": "k1", "name": "team-a", "ok": True, "status": 200, "duration_ms": 81.5}
    good |= {"models_count": 60, "error": None}
    found = {"provider_id": ID, "results": [good]}
    api.post(f"{URL}/{ID}/test", json=found)
    result = run("provider", "test", ID)
    assert result.exit_code == 0
    assert result.output.splitlines()[1].split() == ["team-a", "yes", "200", "82", "60", "-"]
    assert json.loads(run("provider", "test", ID, "--json").output) == found


def test_the_test_fails_with_a_key(run: Run, api: responses.RequestsMock) -> None:
    bad = {"key_id": "k2", "name": "team-b", "ok": False, "status": 401, "duration_ms": 1.5}
    bad |= {"models_count": None, "error": "HTTP 401 (invalid_api_key)"}
    api.post(f"{URL}/{ID}/test", json={"provider_id": ID, "results": [bad]})
    result = run("provider", "test", ID)
    assert result.exit_code == 1
    assert "HTTP 401 (invalid_api_key)" in result.stdout
    assert run("provider", "test", ID, "--json").exit_code == 1


def test_the_test_without_keys(run: Run, api: responses.RequestsMock) -> None:
    api.post(f"{URL}/{ID}/test", json={"provider_id": ID, "results": []})
    result = run("provider", "test", ID)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "provider-key create" in result.stderr
