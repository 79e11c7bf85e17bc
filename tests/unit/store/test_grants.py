"""Grants; more is in ``tests/contract/test_store.py``."""

import logging
from datetime import UTC, datetime, timedelta

import pytest

from proxy.core.errors import StoreError
from proxy.crypto.cipher import Cipher
from proxy.crypto.tokens import new_token_id
from proxy.store.database import Database, Session
from proxy.store.grants import Grants
from proxy.store.migrate import Migrator
from proxy.store.projects import Projects
from proxy.store.tokens import Tokens

HASH = "a" * 64


@pytest.fixture
def database(sqlite_url: str) -> Database:
    database = Database.from_url(sqlite_url)
    Migrator(database).migrate()
    project = Projects(database, Cipher(b"k" * 32)).create("Acme", "key", "mask")
    later = datetime.now(UTC) + timedelta(hours=1)
    Tokens(database).create(new_token_id(), project.id, HASH, "mask", later)
    return database


def test_finding_is_one_query(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    original = Session.execute

    def execute(self: Session, sql: str, params: tuple[str, ...] = ()) -> int:
        seen.append(sql)
        return original(self, sql, params)

    monkeypatch.setattr(Session, "execute", execute)
    assert Grants(database, Cipher(b"k" * 32)).find(HASH) is not None
    assert len([sql for sql in seen if sql.startswith("SELECT")]) == 1


def test_a_plaintext_key_works_even_if_it_cannot_be_rewritten(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = "UPDATE projects SET upstream_key = 'sk-plain-secret'"
    database.run(lambda session: session.execute(plain))
    original = Session.execute

    def execute(self: Session, sql: str, params: tuple[str, ...] = ()) -> int:
        if sql.startswith("UPDATE"):
            raise StoreError
        return original(self, sql, params)

    monkeypatch.setattr(Session, "execute", execute)
    with caplog.at_level(logging.WARNING):
        grant = Grants(database, Cipher(b"k" * 32)).find(HASH)
    assert grant is not None
    assert grant.upstream_key == "sk-plain-secret"
    assert "plaintext" in caplog.text
    assert "secret" not in caplog.text
