"""proxy/cli/local_settings.py: the server's settings, the server's database."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.cli.local_settings import load_settings, open_database
from proxy.core.errors import SettingsError
from tests.support.cli_runner import Run


def test_the_file_and_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("setup")
    monkeypatch.setenv("DATABASE_URL", "sqlite:///here.db")
    settings = load_settings()
    assert len(settings.encryption.key) == 32
    with closing(open_database(settings)) as database:
        database.check()
    assert Path("here.db").exists()


def test_a_url_that_only_the_driver_refuses(run: Run) -> None:
    run("setup")
    settings = load_settings()
    database = replace(settings.database, url="mysql://h/n?charset=latin1")
    settings = replace(settings, database=database)
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        open_database(settings)
