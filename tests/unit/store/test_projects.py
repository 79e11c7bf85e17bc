"""Projects; more is in ``tests/contract/test_store.py``."""

import pytest

from proxy.core.errors import StoreError
from proxy.crypto.cipher import Cipher
from proxy.store.database import Database, Session
from proxy.store.migrate import Migrator
from proxy.store.projects import Projects
from proxy.store.tokens import Tokens


def test_deactivation_is_one_transaction(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database.from_url(sqlite_url)
    Migrator(database).migrate()
    projects = Projects(database, Cipher(b"k" * 32))
    project = projects.create("Acme", "key", "mask")

    def fail(session: Session, project_id: str, now: int) -> int:
        raise StoreError

    monkeypatch.setattr("proxy.store.projects.revoke_tokens_of", fail)
    with pytest.raises(StoreError):
        projects.deactivate(project.id)
    assert projects.get(project.id) == project
    assert Tokens(database).list() == []
