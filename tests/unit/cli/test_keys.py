"""proxy/cli/keys.py: what it makes is what the settings take, and the old key can go."""

import base64
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from proxy.cli.keys import new_encryption_key, new_management_token
from proxy.cli.local_settings import load_settings, open_database
from proxy.crypto.cipher import Cipher
from proxy.settings import parsers
from proxy.store.projects import Projects
from tests.support.cli_runner import Run

OLD, NEW, LOST = b"o" * 32, b"n" * 32, b"l" * 32


def test_generate(run: Run) -> None:
    first, second = run("keys", "generate").output, run("keys", "generate").output
    assert len(parsers.key_of_32_bytes(first.strip())) == 32
    assert first != second


def test_both_are_valid_settings() -> None:
    assert parsers.key_of_32_bytes(new_encryption_key())
    (token,) = parsers.secrets(16, max_count=2)(new_management_token())
    assert len(token) == 64


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


def use(monkeypatch: pytest.MonkeyPatch, key: bytes, *previous: bytes) -> None:
    monkeypatch.setenv("ENCRYPTION_KEY", encoded(key))
    monkeypatch.setenv("ENCRYPTION_KEYS_PREVIOUS", ",".join(map(encoded, previous)))


def project(name: str, key: bytes) -> str:
    with closing(open_database(load_settings())) as database:
        return Projects(database, Cipher(key)).create(name, f"sk-of-{name}", "mask").id


def change(sql: str, *params: str) -> None:
    with closing(sqlite3.connect(Path("data/proxy.db"))) as connection:
        connection.execute(sql, params)
        connection.commit()


@pytest.fixture
def migrated(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    run("setup")
    use(monkeypatch, OLD)
    assert run("db", "migrate").exit_code == 0
    return run


def states(run: Run) -> dict[str, int]:
    found = json.loads(run("keys", "status", "--json").stdout)["keys"]
    return {row["state"]: row["rows"] for row in found}


def test_the_whole_rotation(migrated: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    project("one", OLD)
    plain = project("two", OLD)
    change("UPDATE projects SET upstream_key = 'sk-plain' WHERE id = ?", plain)
    use(monkeypatch, NEW, OLD)
    assert states(migrated) == {"current": 0, "previous": 1, "plaintext": 1}
    done = migrated("keys", "rotate")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == (
        f"Now under key {Cipher(NEW).key_id}: 1 re-encrypted, 1 that were plaintext, 0 as before. "
        "Not readable: 0.\n"
    )
    again = migrated("keys", "rotate", "--json")
    assert json.loads(again.stdout) == {
        "key_id": Cipher(NEW).key_id,
        "rotated": 0,
        "encrypted": 0,
        "current": 2,
        "failed": [],
    }
    use(monkeypatch, NEW)
    assert states(migrated) == {"current": 2, "plaintext": 0}
    assert migrated("keys", "status").exit_code == 0


def test_an_unknown_key_is_reported_and_the_rest_done(
    migrated: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    project("fine", OLD)
    lost = project("lost", LOST)
    use(monkeypatch, NEW, OLD)
    status = migrated("keys", "status")
    assert status.exit_code == 1
    assert Cipher(LOST).key_id in status.stdout
    done = migrated("keys", "rotate")
    assert done.exit_code == 1
    assert "1 re-encrypted" in done.stdout
    assert f"Project {lost} (lost): " in done.stderr
    assert Cipher(LOST).key_id in done.stderr
    (failed,) = json.loads(migrated("keys", "rotate", "--json").stdout)["failed"]
    assert (failed["project_id"], failed["name"]) == (lost, "lost")
    assert migrated("keys", "status", "--json").exit_code == 1


@pytest.mark.parametrize("command", ["rotate", "status"])
def test_a_database_without_a_schema(run: Run, command: str) -> None:
    run("setup")
    result = run("keys", command)
    assert result.exit_code == 1
    assert "db migrate" in result.stderr
