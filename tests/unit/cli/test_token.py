"""proxy/cli/token.py: each command, the call it makes, what it prints."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import responses
from responses.matchers import header_matcher, json_params_matcher, query_param_matcher

from tests.support.cli_runner import BASE, Run

URL = f"{BASE}/manage/tokens"
SECRET = "sk-abcdefghijklmnopqrstuv"
TOKEN = {
    "id": "01a1fcaf-c19f-72c2-91e6-6f230ccf0676",
    "token": "sk-abcd...stuv",
    "name": None,
    "project_id": "0b3a7c5e-0000-4000-8000-000000000001",
    "expires_at": "2026-01-01T00:00:00Z",
    "is_active": True,
    "max_requests": 100,
    "request_count": 3,
}
MINTED = TOKEN | {"token": SECRET}


@pytest.mark.parametrize("verb", ["mint", "generate"])
@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ([], {"duration_minutes": 1440}),
        (["--duration", "5"], {"duration_minutes": 5}),
        (
            ["--max-requests", "7", "--name", "n"],
            {"duration_minutes": 1440, "max_requests": 7, "name": "n"},
        ),
        (
            ["--allowed-model", "gpt-4o*", "--can-mint", "--tpm", "9", "--max-tokens-total", "99"],
            {
                "duration_minutes": 1440,
                "allowed_models": ["gpt-4o*"],
                "can_mint": True,
                "rate_limit_tpm": 9,
                "max_tokens_total": 99,
            },
        ),
    ],
)
def test_mint(
    run: Run, api: responses.RequestsMock, verb: str, arguments: list[str], body: dict[str, Any]
) -> None:
    api.post(URL, json=MINTED, status=201, match=[json_params_matcher({"project_id": "p"} | body)])
    result = run("token", verb, "--project-id", "p", *arguments)
    assert result.exit_code == 0
    assert SECRET in result.stdout
    assert "once" in result.stderr


def test_mint_for_scripts(run: Run, api: responses.RequestsMock) -> None:
    api.post(URL, json=MINTED, status=201)
    assert run("token", "mint", "--project-id", "p", "--raw").output == f"{SECRET}\n"
    result = run("token", "mint", "--project-id", "p", "--json")
    assert json.loads(result.output) == MINTED


@pytest.mark.parametrize("arguments", [[], ["--project-id", "p", "--duration", "0"]])
def test_mint_wrong_usage(run: Run, api: responses.RequestsMock, arguments: list[str]) -> None:
    assert run("token", "mint", *arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "query"),
    [
        ([], {}),
        (["--project-id", "p"], {"project_id": "p"}),
        (["--active"], {"active": "true"}),
        (["--parent-id", "t"], {"parent_id": "t"}),
    ],
)
def test_list(
    run: Run, api: responses.RequestsMock, arguments: list[str], query: dict[str, str]
) -> None:
    unlimited = TOKEN | {"max_requests": None, "request_count": 12}
    api.get(URL, json=[TOKEN, unlimited], match=[query_param_matcher(query)])
    result = run("token", "list", *arguments)
    _, first, second = result.output.splitlines()
    assert first.split()[-1] == "3/100"
    assert second.split()[-1] == "12"
    assert str(TOKEN["project_id"]) in first
    assert json.loads(run("token", "list", *arguments, "--json").output) == [TOKEN, unlimited]


def test_cache_hits_are_listed_where_there_are_any(run: Run, api: responses.RequestsMock) -> None:
    api.get(URL, json=[TOKEN | {"cache_hit_count": 7}, TOKEN | {"cache_hit_count": 0}])
    head, first, second = run("token", "list").output.splitlines()
    assert head.endswith("Cache hits")
    assert first.split()[-2:] == ["3/100", "7"]
    assert second.split()[-2:] == ["3/100", "0"]


CHILD_URL = f"{BASE}/v1/proxy/tokens"


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [([], "PROXY_TOKEN"), (["--token-env", "PARENT"], "PARENT"), (["--token", SECRET], "")],
)
def test_derive_asks_with_the_parent(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], variable: str
) -> None:
    """And with nothing else: there is no management token."""
    if variable:
        monkeypatch.setenv(variable, SECRET)
    body = {"duration_minutes": 3, "max_requests": 2, "allowed_models": ["m"]}
    matchers = [
        header_matcher({"Authorization": f"Bearer {SECRET}"}),
        json_params_matcher(body),
    ]
    child = MINTED | {"token": "sk-zyxwvutsrqponmlkjihgfe"}
    given = ["--duration", "3", "--max-requests", "2", "--allowed-model", "m"]
    with responses.RequestsMock() as api:
        api.post(CHILD_URL, json=child, status=201, match=matchers)
        shown = run("token", "derive", *arguments, *given)
        raw = run("token", "derive", *arguments, *given, "--raw")
        as_json = run("token", "derive", *arguments, *given, "--json")
    assert str(child["token"]) in shown.stdout
    assert "once" in shown.stderr
    assert SECRET not in shown.output
    assert raw.stdout == f"{child['token']}\n"
    assert json.loads(as_json.stdout) == child
    assert ("Warning: --token" in raw.stderr) is ("--token" in arguments)


def test_derive_without_a_parent(run: Run, api: responses.RequestsMock) -> None:
    """The management token is not tried instead."""
    result = run("token", "derive")
    assert result.exit_code == 2
    assert "PROXY_TOKEN" in result.output


def test_derive_uses_the_given_address(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with responses.RequestsMock() as api:
        error = {"message": "It lacks `can_mint`.", "code": "endpoint_not_found"}
        api.post("http://other:9/v1/proxy/tokens", json={"error": error}, status=404)
        monkeypatch.setenv("PROXY_TOKEN", SECRET)
        result = run("token", "derive", "--base-url", "http://other:9/v1/")
    assert result.exit_code == 1
    assert result.stderr == "Error: It lacks `can_mint`. (endpoint_not_found, HTTP 404)\n"


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (["--name", "n"], {"name": "n"}),
        (["--max-requests", "0"], {"max_requests": 0}),
        (["--unset", "max-requests"], {"max_requests": None}),
        (["--expires-at", "2027-01-01T00:00:00Z"], {"expires_at": "2027-01-01T00:00:00Z"}),
        (["--inactive"], {"is_active": False}),
        (["--no-can-mint", "--rpm", "5"], {"can_mint": False, "rate_limit_rpm": 5}),
        (["--cache", "off"], {"cache": "off"}),
        (
            ["--allowed-ip", "10.0.0.0/8", "--unset", "allowed-model"],
            {"allowed_ips": ["10.0.0.0/8"], "allowed_models": None},
        ),
    ],
)
def test_update_sends_what_is_given(
    run: Run, api: responses.RequestsMock, arguments: list[str], body: dict[str, Any]
) -> None:
    api.patch(f"{URL}/t", json=TOKEN, match=[json_params_matcher(body)])
    result = run("token", "update", "t", *arguments, "--json")
    assert json.loads(result.output) == TOKEN


def test_update_by_a_duration(run: Run, api: responses.RequestsMock) -> None:
    api.patch(f"{URL}/t", json=TOKEN)
    before = datetime.now(UTC)
    assert run("token", "update", "t", "--duration", "30").exit_code == 0
    sent = json.loads(api.calls[0].request.body or "")
    assert sent.keys() == {"expires_at"}
    lasts = datetime.fromisoformat(sent["expires_at"]) - timedelta(minutes=30)
    assert before <= lasts <= datetime.now(UTC)


@pytest.mark.parametrize("arguments", [[], ["--duration", "5", "--expires-at", "2027-01-01"]])
def test_update_wrong_usage(run: Run, api: responses.RequestsMock, arguments: list[str]) -> None:
    assert run("token", "update", "t", *arguments).exit_code == 2


@pytest.mark.parametrize("command", [["get"], ["update", "--rpm=3"]])
def test_a_secret_does_not_go_into_a_path(
    run: Run, api: responses.RequestsMock, command: list[str]
) -> None:
    result = run("token", *command, SECRET)
    assert result.exit_code == 2
    assert "expected an id" in result.stderr
    assert SECRET not in result.stderr


def test_get_shows_the_rules(run: Run, api: responses.RequestsMock) -> None:
    rules = {"allowed_models": ["gpt-4o*", "[x]"], "can_mint": False, "allowed_ips": None}
    api.get(f"{URL}/t", json=TOKEN | rules)
    lines = run("token", "get", "t").output.splitlines()
    assert [re.split("  +", line.strip()) for line in lines[-3:]] == [
        ["allowed_models", "gpt-4o*, [x]"],
        ["can_mint", "no"],
        ["(not set)", "allowed_ips"],
    ]


def test_get(run: Run, api: responses.RequestsMock) -> None:
    api.get(f"{URL}/t", json=TOKEN)
    assert "sk-abcd...stuv" in run("token", "get", "t").output
    assert json.loads(run("token", "get", "t", "--json").output) == TOKEN


def test_revoke_by_id(run: Run, api: responses.RequestsMock) -> None:
    api.delete(f"{URL}/t", status=204)
    assert run("token", "revoke", "t").output == "Revoked t.\n"
    assert json.loads(run("token", "revoke", "t", "--json").output) == {"revoked": "t"}


@pytest.mark.parametrize(("argument", "stdin"), [(SECRET, ""), ("-", f"{SECRET}\n")])
def test_revoke_by_secret(run: Run, api: responses.RequestsMock, argument: str, stdin: str) -> None:
    api.delete(URL, status=204, match=[json_params_matcher({"token": SECRET})])
    assert run("token", "revoke", argument, input=stdin).output == "Revoked sk-abcd....\n"
