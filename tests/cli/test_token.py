"""proxy/cli/token.py: each command, the call it makes, what it prints."""

import json
from typing import Any

import pytest
import responses
from responses.matchers import json_params_matcher, query_param_matcher

from .conftest import BASE, Run

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
