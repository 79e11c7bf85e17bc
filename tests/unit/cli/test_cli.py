"""proxy/cli/__init__.py: the table of commands holds, and failures become the right exit code."""

import re
import sqlite3
import subprocess
import sys

import click
import pymysql
import pytest

from proxy.cli import COMMANDS, LazyGroup, root
from proxy.cli.server import ROOT
from proxy.core.errors import SettingsError, StoreError
from tests.support.cli_runner import Run


def test_every_command_is_where_the_table_says(run: Run) -> None:
    context = click.Context(root)
    assert isinstance(root, LazyGroup)
    for name in COMMANDS:
        command = root.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert run(name, "--help").exit_code == 0
    assert root.get_command(context, "nothing") is None


def test_help_lists_every_command_with_a_line(run: Run) -> None:
    output = run("--help").output
    for name, (_, text) in COMMANDS.items():
        assert name in output
        assert text in output


def test_no_line_of_a_list_of_commands_is_cut_short(run: Run) -> None:
    for name in COMMANDS:
        listed = run(name, "--help").output.partition("\nCommands:\n")[2]
        assert not re.search(r"\.\.\.$", listed, re.MULTILINE), name


def test_an_unknown_command_is_wrong_usage(run: Run) -> None:
    assert run("nothing").exit_code == 2
    assert run("token", "nothing").exit_code == 2


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (SettingsError(["A: one", "B: two"]), 2, "cannot be used:\n  A: one\n  B: two\n"),
        (StoreError("Away."), 1, "Error: Away.\n"),
        (StoreError(), 1, "Error: store_unavailable\n"),
    ],
)
def test_our_errors(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, message: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("proxy.cli.db.load_settings", fail)
    result = run("db", "status")
    assert result.exit_code == code
    assert result.stderr.endswith(message)


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (PermissionError(13, "Permission denied", "/data/proxy.db"), "'/data/proxy.db'"),
        (pymysql.err.OperationalError(1045, "Access denied for user 'me'"), ": Access denied for"),
        (sqlite3.OperationalError("disk I/O error"), "store_unavailable: disk I/O error"),
        (TimeoutError(), "store_unavailable: TimeoutError()"),
    ],
)
def test_an_operator_sees_the_error_of_the_database(
    run: Run, monkeypatch: pytest.MonkeyPatch, cause: Exception, told: str
) -> None:
    def fail() -> None:
        raise StoreError from cause

    monkeypatch.setattr("proxy.cli.db.load_settings", fail)
    result = run("db", "status")
    assert result.exit_code == 1
    assert told in result.stderr


def test_help_is_fast_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; sys.argv = ['manage.py', '--help']; from proxy.cli import root;"
        "root(standalone_mode=False);"
        "print([m for m in ('requests', 'rich', 'flask', 'pymysql') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_manage_py_runs_from_any_directory() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "keys", "generate"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.strip()) == 44
