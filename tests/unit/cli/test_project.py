"""proxy/cli/project.py: each command, the call it makes, what it prints."""

import json
from typing import Any

import pytest
import responses
from responses.matchers import header_matcher, json_params_matcher

from tests.support.cli_runner import BASE, TOKEN, Run

URL = f"{BASE}/manage/projects"
PROJECT = {
    "id": "0b3a7c5e-0000-4000-8000-000000000001",
    "name": "demo",
    "api_key": "sk-abcde...wxyz",
    "on_disconnect": "drain",
    "is_active": True,
    "created_at": "2026-01-01T00:00:00Z",
}
KEY = "sk-abcdefghijklmnopqrstuvwxyz"


def sends(body: dict[str, Any]) -> list[Any]:
    return [
        header_matcher({"Authorization": f"Bearer {TOKEN}"}),
        json_params_matcher(body),
    ]


def test_list(run: Run, api: responses.RequestsMock) -> None:
    api.get(URL, json=[PROJECT])
    result = run("project", "list")
    assert result.exit_code == 0
    for value in ("id", "name", "api_key", "created_at"):
        assert str(PROJECT[value]) in result.output
    assert json.loads(run("project", "list", "--json").output) == [PROJECT]


def test_get(run: Run, api: responses.RequestsMock) -> None:
    api.get(f"{URL}/{PROJECT['id']}", json=PROJECT)
    shown = run("project", "get", str(PROJECT["id"])).output
    assert "demo" in shown
    assert "drain" in next(line for line in shown.splitlines() if "on_disconnect" in line)


@pytest.mark.parametrize("option", ["--api-key", "--openai-key"])
def test_create(run: Run, api: responses.RequestsMock, option: str) -> None:
    body = {"name": "demo", "api_key": KEY, "description": "d"}
    api.post(URL, json=PROJECT, status=201, match=sends(body))
    arguments = ["--name", "demo", option, KEY, "--description", "d", "--json"]
    result = run("project", "create", *arguments)
    assert json.loads(result.stdout) == PROJECT
    assert result.stderr.startswith("Warning: --")


def test_create_for_scripts(run: Run, api: responses.RequestsMock) -> None:
    api.post(URL, json=PROJECT, status=201)
    arguments = ["--name", "demo", "--api-key", "-", "--raw"]
    assert run("project", "create", *arguments, input=KEY).output == f"{PROJECT['id']}\n"


def test_create_with_a_policy(run: Run, api: responses.RequestsMock) -> None:
    policy = {
        "allowed_models": ["gpt-4o*", "gpt-4.1-mini"],
        "allowed_params": {"n": ["1"]},
        "rate_limit_rpm": 60,
        "on_revoke": "finish",
        "cut_in_flight": True,
        "on_disconnect": "drain",
        "stream_usage": "inject",
    }
    body = {"name": "demo", "api_key": KEY} | policy
    api.post(URL, json=PROJECT, status=201, match=sends(body))
    arguments = ["--allowed-model", "gpt-4o*", "--allowed-model", "gpt-4.1-mini", "--rpm", "60"]
    arguments += ["--allowed-param", "n=1", "--on-revoke", "finish", "--cut-in-flight"]
    arguments += ["--on-disconnect", "drain", "--stream-usage", "inject"]
    assert run("project", "create", "--name", "demo", "--api-key", KEY, *arguments).exit_code == 0


def test_create_with_providers_asks_for_no_key(run: Run, api: responses.RequestsMock) -> None:
    upstream = "https://eu.test/v1"
    body = {"name": "demo", "providers": ["a", "b"], "max_retries": 0, "breaker": "on"}
    body |= {"base_url": upstream}
    api.post(URL, json=PROJECT, status=201, match=sends(body))
    arguments = ["--provider", "a", "--provider", "b", "--max-retries", "0", "--breaker", "on"]
    arguments += ["--upstream-base-url", upstream]
    assert run("project", "create", "--name", "demo", *arguments).exit_code == 0


@pytest.mark.parametrize("command", [["create", "--name", "n", "--api-key", KEY], ["update", "p"]])
def test_other_values_are_wrong_usage(
    run: Run, api: responses.RequestsMock, command: list[str]
) -> None:
    result = run("project", *command, "--on-disconnect", "finish")
    assert result.exit_code == 2
    assert "`cancel`, `drain`" in result.output


@pytest.mark.parametrize("option", ["--can-mint", "--max-tokens-total=1", "--max-requests=1"])
def test_what_only_a_token_has(run: Run, api: responses.RequestsMock, option: str) -> None:
    assert run("project", "update", "p", option).exit_code == 2


def test_create_reads_the_key_from_stdin(run: Run, api: responses.RequestsMock) -> None:
    api.post(URL, json=PROJECT, status=201, match=sends({"name": "demo", "api_key": KEY}))
    result = run("project", "create", "--name", "demo", "--api-key", "-", input=f"{KEY}\n")
    assert result.exit_code == 0
    assert KEY not in result.output


def test_create_asks_without_echo(
    run: Run, api: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.cli.secret_option.is_terminal", lambda: True)
    api.post(URL, json=PROJECT, status=201, match=sends({"name": "demo", "api_key": KEY}))
    result = run("project", "create", "--name", "demo", input=f"{KEY}\n")
    assert result.exit_code == 0
    assert KEY not in result.output


def test_without_a_terminal_there_is_no_prompt(run: Run, api: responses.RequestsMock) -> None:
    result = run("project", "create", "--name", "demo")
    assert result.exit_code == 2
    assert "--api-key -" in result.output


def test_an_empty_key_is_not_sent(run: Run, api: responses.RequestsMock) -> None:
    result = run("project", "create", "--name", "demo", "--api-key", "-", input="\n")
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (["--name", "n"], {"name": "n"}),
        (["--api-key", "-"], {"api_key": KEY}),
        (["--description", ""], {"description": ""}),
        (["--on-disconnect", "cancel"], {"on_disconnect": "cancel"}),
        (["--stream-usage", "off"], {"stream_usage": "off"}),
        (["--on-disconnect", "hold"], {"on_disconnect": "hold"}),
        (
            ["--cache", "opt_in", "--cache-scope", "token", "--coalesce", "on"],
            {"cache": "opt_in", "cache_scope": "token", "coalesce": "on"},
        ),
        (["--idempotency", "on", "--unset", "cache"], {"idempotency": "on", "cache": None}),
        (["--no-cut-in-flight"], {"cut_in_flight": False}),
        (
            ["--unset", "rpm", "--unset", "allowed_ips"],
            {"rate_limit_rpm": None, "allowed_ips": None},
        ),
        (["--active"], {"is_active": True}),
        (["--inactive", "--name", "n"], {"is_active": False, "name": "n"}),
    ],
)
def test_update_sends_what_is_given(
    run: Run, api: responses.RequestsMock, arguments: list[str], body: dict[str, Any]
) -> None:
    api.patch(f"{URL}/p", json=PROJECT, match=sends(body))
    assert run("project", "update", "p", *arguments, input=f"{KEY}\n").exit_code == 0


def test_update_of_nothing_is_wrong_usage(run: Run, api: responses.RequestsMock) -> None:
    assert run("project", "update", "p").exit_code == 2


def test_deactivate(run: Run, api: responses.RequestsMock) -> None:
    api.patch(f"{URL}/p", json=PROJECT, match=sends({"is_active": False}))
    assert run("project", "deactivate", "p").exit_code == 0
    api.patch(f"{URL}/p", json=PROJECT, match=sends({"is_active": False, "revoke_tokens": True}))
    assert run("project", "deactivate", "p", "--revoke-tokens").exit_code == 0


def test_the_server_refuses(run: Run, api: responses.RequestsMock) -> None:
    error = {"message": "There is a project of this name.", "code": "conflict"}
    api.post(URL, json={"error": error}, status=409)
    result = run("project", "create", "--name", "demo", "--api-key", "-", input=KEY)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "Error: There is a project of this name. (conflict, HTTP 409)\n"


def test_without_a_management_token_nothing_is_sent(run: Run) -> None:
    result = run("project", "list")
    assert result.exit_code == 2
    assert "MANAGEMENT_TOKEN" in result.output


def test_options_give_address_and_token(run: Run) -> None:
    with responses.RequestsMock() as api:
        matcher = header_matcher({"Authorization": "Bearer given"})
        for option in ("--base-url", "--manage-api-base-url"):
            api.get("http://other:9/manage/projects", json=[], match=[matcher])
            arguments = [option, "http://other:9/", "--management-token", "given"]
            assert run("project", "list", *arguments).exit_code == 0
