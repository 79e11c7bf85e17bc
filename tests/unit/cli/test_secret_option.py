"""Secrets on a command line: taken, with a warning that does not show them."""

import importlib

import click
import pytest
from click.testing import CliRunner

from proxy.cli import COMMANDS
from proxy.cli.secret_option import SecretOption

#: Options that hold a secret, by their names: a new one of these has to be a SecretOption.
SECRET_WORDS = ("token", "key", "secret", "password")
#: No secrets, although they are called so.
HARMLESS = {"--token-env", "--compare-token-env", "--allow-missing-keys", "--max-tokens-total"} | {
    "--max-tokens",
    "--cache-key",
    "--token-id",
}


@click.command()
@click.option("--key", "-k", cls=SecretOption, better="KEY in the environment", envvar="TEST_KEY")
def command(key: str | None) -> None:
    click.echo(f"key is {key}")


@pytest.mark.parametrize("arguments", [["--key", "s3cret"], ["-k", "s3cret"], ["--key=s3cret"]])
def test_a_secret_on_the_command_line_is_taken_and_warned_of(arguments: list[str]) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.stdout == "key is s3cret\n"
    assert result.stderr.startswith("Warning: --key on the command line is visible")
    assert "Better: KEY in the environment." in result.stderr
    assert "s3cret" not in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--key", "-"], ["--key", ""]])
def test_other_ways_bring_no_warning(arguments: list[str]) -> None:
    result = CliRunner().invoke(command, arguments, env={"TEST_KEY": "s3cret"})
    assert (result.exit_code, result.stderr) == (0, "")


def options(found: click.Command) -> list[click.Option]:
    own = [each for each in found.params if isinstance(each, click.Option)]
    inner = found.commands.values() if isinstance(found, click.Group) else ()
    return own + [option for each in inner for option in options(each)]


def test_every_option_that_takes_a_secret_is_one() -> None:
    plain = set()
    seen = 0
    for path, _ in COMMANDS.values():
        module, attribute = path.split(":")
        for option in options(getattr(importlib.import_module(f"proxy.cli.{module}"), attribute)):
            named = {name for name in option.opts if any(word in name for word in SECRET_WORDS)}
            seen += isinstance(option, SecretOption)
            if named - HARMLESS and not option.is_flag and not isinstance(option, SecretOption):
                plain |= named
    assert not plain
    assert seen > 5
