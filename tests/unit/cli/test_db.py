"""proxy/cli/db.py: pending, applied, up to date, and a database that says no."""

import json
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from proxy.cli.local_settings import load_settings, open_database
from proxy.crypto.cipher import Cipher
from proxy.store.projects import Projects
from tests.support.cli_runner import Run


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


def project(name: str) -> None:
    settings = load_settings()
    with closing(open_database(settings)) as database:
        Projects(database, Cipher(settings.encryption.key)).create(name, "sk-secret", "mask")


def test_export_and_import(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("db", "migrate")
    project("Acme")
    done = run("db", "export", "backup.jsonl")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "Exported 1 projects and 0 tokens.\n"
    assert stat.S_IMODE(Path("backup.jsonl").stat().st_mode) == 0o600
    assert b"sk-secret" not in Path("backup.jsonl").read_bytes()
    monkeypatch.setenv("DATABASE_URL", "sqlite:///other.db")
    assert "db migrate" in run("db", "import", "backup.jsonl").stderr
    run("db", "migrate")
    done = run("db", "import", "backup.jsonl")
    assert (done.exit_code, done.stdout) == (0, "Imported 1 projects and 0 tokens.\n")
    again = run("db", "import", "backup.jsonl")
    assert again.exit_code == 1
    assert "not empty" in again.stderr
    # The same through pipes.
    piped = run("db", "export")
    assert piped.stdout_bytes == Path("backup.jsonl").read_bytes()
    monkeypatch.setenv("DATABASE_URL", "sqlite:///third.db")
    run("db", "migrate")
    assert run("db", "import", "-", input=piped.stdout).exit_code == 0
    assert run("db", "export", "-").stdout == piped.stdout


def test_an_import_without_its_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("db", "migrate")
    project("Acme")
    run("db", "export", "backup.jsonl")
    (key_id,) = json.loads(Path("backup.jsonl").read_text().splitlines()[0])["key_ids"]
    monkeypatch.setenv("DATABASE_URL", "sqlite:///other.db")
    monkeypatch.setenv("ENCRYPTION_KEY", run("keys", "generate").output.strip())
    run("db", "migrate")
    refused = run("db", "import", "backup.jsonl")
    assert refused.exit_code == 1
    assert key_id in refused.stderr
    assert run("db", "import", "--allow-missing-keys", "backup.jsonl").exit_code == 0


def test_a_failed_export_leaves_the_last_one(run: Run) -> None:
    run("db", "migrate")
    project("Acme")
    Path("backup.jsonl").write_text("the last one")
    with closing(sqlite3.connect("data/proxy.db")) as connection:
        connection.execute("UPDATE projects SET upstream_key = 'sk-plain'")
        connection.commit()
    for target in ("backup.jsonl", "-"):
        failed = run("db", "export", target)
        assert (failed.exit_code, failed.stdout) == (1, "")
        assert "keys rotate" in failed.stderr
    assert Path("backup.jsonl").read_text() == "the last one"
    assert not list(Path().glob(".export*"))


def test_a_device_is_written_to_and_not_replaced(run: Run) -> None:
    run("db", "migrate")
    os.mkfifo("pipe")
    # Kept open at both ends, so that nobody waits; one line fits into it.
    reader = os.open("pipe", os.O_RDWR)
    assert run("db", "export", "pipe").exit_code == 0
    assert os.read(reader, 4096).startswith(b'{"format":')
    os.close(reader)
    assert stat.S_ISFIFO(Path("pipe").stat().st_mode)


@pytest.mark.parametrize("target", ["no/such/folder", "file/below"])
def test_a_target_that_cannot_be_written(run: Run, target: str) -> None:
    run("db", "migrate")
    Path("file").touch()
    failed = run("db", "export", target)
    assert failed.exit_code == 1
    assert failed.stderr.startswith("Error: ")
