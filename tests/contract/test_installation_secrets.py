"""Secrets of the installation: one for all nodes, on every database."""

import base64
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from proxy.core.errors import CipherError, StoreError
from proxy.crypto.cipher import Cipher
from proxy.store.database import Database
from proxy.store.installation_secrets import RESPONSE_CACHE, InstallationSecrets
from tests.support.stored_records import Store

PUT = "UPDATE installation_secrets SET value = ? WHERE id = ?"


@pytest.fixture
def store(migrated_url: str) -> Iterator[Store]:
    store = Store(migrated_url)
    yield store
    store.database.close()


def stored(store: Store, name: str = RESPONSE_CACHE) -> str:
    found = store.cell("SELECT value FROM installation_secrets WHERE id = ?", name)
    assert isinstance(found, str)
    return found


def put(store: Store, value: str, name: str = RESPONSE_CACHE) -> None:
    assert store.database.run(lambda session: session.execute(PUT, (value, name))) == 1


def test_it_is_made_once_for_all_nodes(store: Store) -> None:
    assert store.cell("SELECT COUNT(*) FROM installation_secrets") == 0
    made = store.secrets.get(RESPONSE_CACHE)
    assert len(made) == 32
    assert store.secrets.get(RESPONSE_CACHE) == made
    assert InstallationSecrets(store.database, Cipher(b"k" * 32)).get(RESPONSE_CACHE) == made
    assert store.secrets.get("another") != made


def test_it_is_stored_encrypted(store: Store) -> None:
    made = store.secrets.get(RESPONSE_CACHE)
    value = stored(store)
    assert value.startswith("v1:")
    assert base64.b64encode(made).decode() not in value


def test_nodes_that_make_it_at_once_agree(store: Store, migrated_url: str) -> None:
    """Each finds nothing before one of them has written."""
    databases = [Database.from_url(migrated_url) for _ in range(4)]
    nodes = [InstallationSecrets(database, store.cipher) for database in databases]
    try:
        asked = [gevent.spawn(node.get, RESPONSE_CACHE) for node in nodes]
        gevent.joinall(asked, timeout=30, raise_error=True)
        assert len({one.value for one in asked}) == 1
        assert asked[0].value == store.secrets.get(RESPONSE_CACHE)
    finally:
        for database in databases:
            database.close()


def test_the_first_one_counts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another node makes it after this one has found nothing."""
    late = InstallationSecrets(store.database, store.cipher)
    real: Any = InstallationSecrets._make
    others: list[bytes] = []

    def meanwhile(self: InstallationSecrets, name: str) -> None:
        monkeypatch.setattr(InstallationSecrets, "_make", real)
        others.append(store.secrets.get(name))
        real(self, name)

    monkeypatch.setattr(InstallationSecrets, "_make", meanwhile)
    assert [late.get(RESPONSE_CACHE)] == others


def test_one_under_another_key_is_not_replaced(store: Store) -> None:
    made = store.secrets.get(RESPONSE_CACHE)
    stranger = InstallationSecrets(store.database, Cipher(b"x" * 32))
    with pytest.raises(CipherError, match="ENCRYPTION_KEY"):
        stranger.get(RESPONSE_CACHE)
    assert store.secrets.get(RESPONSE_CACHE) == made


@pytest.mark.parametrize("value", ["", "v1:damaged", "c2hvcnQ=", "not base64"])
def test_a_damaged_one_is_reported_and_not_shown(store: Store, value: str) -> None:
    store.secrets.get(RESPONSE_CACHE)
    put(store, value)
    with pytest.raises(CipherError, match="damaged") as caught:
        store.secrets.get(RESPONSE_CACHE)
    assert not value or value not in str(caught.value)
    assert stored(store) == value


def test_one_that_was_copied_to_another_name_is_refused(store: Store) -> None:
    store.secrets.get(RESPONSE_CACHE)
    store.secrets.get("another")
    put(store, stored(store), "another")
    with pytest.raises(CipherError):
        store.secrets.get("another")


def test_without_a_database_there_is_none(tmp_path: Any) -> None:
    database = Database.from_url(f"sqlite:///{tmp_path}/empty.db")
    with pytest.raises(StoreError):
        InstallationSecrets(database, Cipher(b"k" * 32)).get(RESPONSE_CACHE)
    database.close()
