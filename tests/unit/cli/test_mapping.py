"""proxy/cli/mapping.py: each command, the call it makes, what it prints."""

import json
from typing import Any

import pytest
import responses
from responses.matchers import header_matcher, json_params_matcher, query_param_matcher

from tests.support.cli_runner import BASE, TOKEN, Run

URL = f"{BASE}/manage/mappings"
PROVIDER = "0b3a7c5e-0000-4000-8000-000000000001"
ID = "0b3a7c5e-0000-4000-8000-000000000003"
MAPPING = {
    "id": ID,
    "alias_name": "gpt-4",
    "provider_id": PROVIDER,
    "provider": "eu",
    "provider_model_name": "gpt-4-0613",
    "order_index": 0,
    "weight": 1,
    "is_default": False,
    "config": {"temperature": 0.7},
    "source": "api",
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
}
NEW = ["--alias", "gpt-4", "--provider", PROVIDER, "--model", "gpt-4-0613"]
BODY = {"alias_name": "gpt-4", "provider_id": PROVIDER, "provider_model_name": "gpt-4-0613"}


def sends(body: Any) -> list[Any]:
    return [header_matcher({"Authorization": f"Bearer {TOKEN}"}), json_params_matcher(body)]


def test_list(run: Run, api: responses.RequestsMock) -> None:
    api.get(URL, json=[MAPPING])
    result = run("mapping", "list")
    assert result.exit_code == 0
    row = result.output.splitlines()[1].split()
    assert row == ["gpt-4", "0", "eu/gpt-4-0613", "1", "with", "config", ID]
    assert json.loads(run("mapping", "list", "--json").output) == [MAPPING]


def test_list_notes_what_is_special(run: Run, api: responses.RequestsMock) -> None:
    api.get(URL, json=[MAPPING | {"is_default": True, "source": "file"}, MAPPING | {"config": {}}])
    first, second = run("mapping", "list").output.splitlines()[1:]
    assert "default, with config, from file" in first
    assert second.split()[4] == "-"


def test_list_of_an_alias_and_a_provider(run: Run, api: responses.RequestsMock) -> None:
    wanted = {"alias": "org/model *", "provider_id": PROVIDER}
    api.get(URL, json=[], match=[query_param_matcher(wanted)])
    result = run("mapping", "list", "--alias", "org/model *", "--provider", PROVIDER)
    assert result.exit_code == 0


def test_get(run: Run, api: responses.RequestsMock) -> None:
    api.get(f"{URL}/{ID}", json=MAPPING)
    assert "temperature=0.7" in run("mapping", "get", ID).output


@pytest.mark.parametrize(
    ("alias", "path"),
    [
        ("gpt-4", "gpt-4"),
        ("org/model", "org/model"),
        ("claude-*", "claude-%2A"),
        ("a b?", "a%20b%3F"),
    ],
)
def test_set(run: Run, api: responses.RequestsMock, alias: str, path: str) -> None:
    targets = [
        {"provider": "eu", "provider_model_name": "gpt-4.1"},
        {"provider": "vllm", "provider_model_name": "org/model-7b"},
    ]
    api.put(f"{URL}/{path}", json=[MAPPING], match=sends(targets))
    result = run("mapping", "set", alias, "eu/gpt-4.1", "vllm/org/model-7b")
    assert result.exit_code == 0
    assert "gpt-4-0613" in result.output
    shown = run("mapping", "set", alias, "eu/gpt-4.1", "vllm/org/model-7b", "--json")
    assert json.loads(shown.output) == [MAPPING]


@pytest.mark.parametrize(
    "arguments",
    [
        ["gpt-4"],
        ["gpt-4", "eu"],
        ["gpt-4", "/x"],
        ["gpt-4", "eu/"],
        ["..", "eu/x"],
        ["a//b", "e/x"],
    ],
)
def test_set_of_what_is_no_target(
    run: Run, api: responses.RequestsMock, arguments: list[str]
) -> None:
    assert run("mapping", "set", *arguments).exit_code == 2


def test_create(run: Run, api: responses.RequestsMock) -> None:
    more = {"order_index": 1, "weight": 0, "is_default": True, "config": {"n": 1}}
    api.post(URL, json=MAPPING, status=201, match=sends(BODY | more))
    options = ["--order", "1", "--weight", "0", "--default", "--config", "n=1"]
    assert run("mapping", "create", *NEW, *options, "--raw").output == f"{ID}\n"


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (["--model", "m"], {"provider_model_name": "m"}),
        (["--alias", "a", "--no-default"], {"alias_name": "a", "is_default": False}),
        (["--provider", PROVIDER], {"provider_id": PROVIDER}),
        (["--config", "n=null"], {"config": {"n": None}}),
    ],
)
def test_update_sends_what_is_given(
    run: Run, api: responses.RequestsMock, arguments: list[str], body: dict[str, Any]
) -> None:
    api.patch(f"{URL}/{ID}", json=MAPPING, match=sends(body))
    assert run("mapping", "update", ID, *arguments).exit_code == 0


def test_update_of_nothing_is_wrong_usage(run: Run, api: responses.RequestsMock) -> None:
    assert run("mapping", "update", ID).exit_code == 2


def test_delete(run: Run, api: responses.RequestsMock) -> None:
    api.delete(f"{URL}/{ID}", status=204)
    assert run("mapping", "delete", ID).output == f"Deleted {ID}.\n"
    assert json.loads(run("mapping", "delete", ID, "--json").output) == {"deleted": ID}
