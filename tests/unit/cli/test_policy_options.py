"""proxy/cli/policy_options.py: options, file and ``--unset`` are one change; rules are shown in
words."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from proxy.cli.policy_options import SPELLINGS, policy_options, show
from proxy.policy.fields import FIELDS, Scope, fields_of

PLACES: list[Scope] = ["project", "token"]


def ask(*arguments: str, place: Scope = "token", stdin: str = "") -> Result:
    """What a command is given, as JSON."""

    @click.command()
    @policy_options(place, also=["max_requests"], removable=True)
    def command(policy: dict[str, Any]) -> None:
        click.echo(json.dumps(policy))

    return CliRunner().invoke(command, arguments, input=stdin)


def chosen(*arguments: str, place: Scope = "token", stdin: str = "") -> Any:
    result = ask(*arguments, place=place, stdin=stdin)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def refused(*arguments: str, stdin: str = "") -> str:
    result = ask(*arguments, stdin=stdin)
    assert result.exit_code == 2
    return result.output


def test_nothing_chosen_is_nothing() -> None:
    assert chosen() == {}


@pytest.mark.parametrize("place", PLACES)
def test_each_place_has_its_fields(place: Scope) -> None:
    """Under their own names, too. Only `--base-url` is where the proxy is."""
    offered = ask("--help", place=place).output
    assert "--base-url" not in offered
    for name in FIELDS:
        option = f"--{name.replace('_', '-')}"
        if name == "base_url":
            option = SPELLINGS[name].option
        assert (option in offered) == (name in fields_of(place)), name


def test_both_spellings_are_one_option() -> None:
    assert chosen("--allowed-model", "a", "--allowed-models", "b") == {"allowed_models": ["a", "b"]}
    assert chosen("--rate-limit-rpm", "5") == chosen("--rpm", "5") == {"rate_limit_rpm": 5}


def test_values_are_read_as_the_field_does() -> None:
    assert chosen("--allowed-method", "post") == {"allowed_methods": ["POST"]}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--allowed-ip", "10.0.0.1/8"],
        ["--allowed-origin", "*"],
        ["--allowed-endpoint", "/chat"],
        ["--rpm", "0"],
        ["--rpm", "x"],
        ["--allowed-model", ""],
        ["--allowed-param", "tools"],
        ["--unset", "name"],
        ["--rpm", "1", "--unset", "rpm"],
    ],
)
def test_wrong_usage_names_the_option(arguments: list[str]) -> None:
    said = refused(*arguments)
    assert arguments[-2] in said or "given and unset" in said


def test_a_file_holds_everything(tmp_path: Path) -> None:
    policy = {"allowed_models": ["a"], "allowed_ips": None, "max_requests": 3, "rate_limit_rpm": 9}
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(policy))
    assert chosen("--policy", str(file)) == policy
    assert chosen("--policy", "-", stdin=json.dumps(policy)) == policy
    options = ["--allowed-model", "b", "--unset", "rpm"]
    changed = policy | {"allowed_models": ["b"], "rate_limit_rpm": None}
    assert chosen("--policy", str(file), *options) == changed


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON"),
        ('{"rate_limit_rpm": 3,', "not JSON"),
        ("[]", "JSON object"),
        ('{"allowed_model": ["a"]}', "allowed_model'"),
        ('{"on_revoke": "cut"}', "not a policy field of a token"),
        ('{"allowed_models": []}', "null is no limit"),
        ('{"name": "n"}', "name"),
    ],
)
def test_a_file_is_read_as_the_server_does(text: str, problem: str) -> None:
    assert problem in refused("--policy", "-", stdin=text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "none.json" in refused("--policy", str(tmp_path / "none.json"))


@pytest.mark.parametrize("spelled", ["rate_limit_rpm", "rpm", "--rpm", "rate-limit-rpm"])
def test_unset_takes_every_spelling(spelled: str) -> None:
    assert chosen(f"--unset={spelled}") == {"rate_limit_rpm": None}


def test_the_help_lists_what_can_be_unset() -> None:
    assert "one of: allowed_endpoints, " in refused("--unset=rate_limit")


def test_rules_are_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    value = {
        "allowed_models": ["a*", "b", ""],
        "allowed_params": {"n": ["1", "2"], "tools": []},
        "forwarded_headers": [],
        "rate_limit_rpm": 60,
        "rate_limit_tpm": None,
        "allowed_ips": None,
        "can_mint": True,
        "id": "i",
        "max_requests": None,
    }
    show(value, "token")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [" ".join(line.split()) for line in lines] == [
        "id i",
        "max_requests -",
        "allowed_models a*, b, ''",
        "allowed_params n: 1, 2; tools: none",
        "forwarded_headers none",
        "rate_limit_rpm 60",
        "can_mint yes",
        "(not set) allowed_ips, rate_limit_tpm",
    ]
