"""proxy/cli/db.py: pending, applied, up to date, and a database that says no."""

import sqlite3
from pathlib import Path

import pytest

from .conftest import Run


@pytest.fixture(autouse=True)
def _settings(run: Run) -> None:
    run("setup")


def test_status_migrate_status(run: Run) -> None:
    before = run("db", "status")
    assert before.exit_code == 1
    assert "pending" in before.output
    applied = run("db", "migrate")
    assert applied.exit_code == 0
    assert "Applied 0001 initial." in applied.output
    assert run("db", "migrate").output == "The schema is up to date.\n"
    after = run("db", "status")
    assert after.exit_code == 0
    assert "pending" not in after.output
    tables = sqlite3.connect("data/proxy.db").execute("SELECT name FROM sqlite_master")
    assert {"projects", "tokens"} <= {name for (name,) in tables}


def test_a_database_that_cannot_be_opened(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("folder").mkdir()
    monkeypatch.setenv("DATABASE_URL", "sqlite:///folder")
    result = run("db", "migrate")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")


def test_settings_are_checked_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://h/n?charset=latin1")
    result = run("db", "status")
    assert result.exit_code == 2
    assert "DATABASE_URL: " in result.stderr
