"""The query that finds revocations and other changes, on every database."""

from datetime import UTC, datetime, timedelta

import pytest

from proxy.crypto.cipher import Cipher
from proxy.store import changes as changes_module
from proxy.store.changes import Changes
from proxy.store.counters import Counters
from proxy.store.database import Database
from proxy.store.migrate import Migrator
from proxy.store.projects import Projects
from proxy.store.tokens import Tokens

SOON = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
def database(database_url: str):  # type: ignore[no-untyped-def]
    made = Database.from_url(database_url)
    Migrator(made).migrate()
    yield made
    made.close()


def test_changes_and_only_changes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    projects, tokens = Projects(database, Cipher(b"k" * 32)), Tokens(database)
    changes = Changes(database)
    start = changes.now() - 1
    project = projects.create("one", "sk-key", "mask")
    token = tokens.create("t" * 36, project.id, "a" * 64, "mask", SOON)
    found = changes.since(start)
    assert {change.id for change in found.changes} == {project.id, token.id}
    assert found.now >= max(change.updated_at for change in found.changes)
    assert not found.truncated

    after = max(change.updated_at for change in found.changes)
    assert changes.since(after).changes == []
    counters = Counters(database)
    counters.add_counts([(token.id, 3, 9, 1, datetime.now(UTC))])
    counters.lease_permits(token.id, datetime.now(UTC))
    assert changes.since(after).changes == [], "counting is no change"
    tokens.revoke(token.id)
    assert [change.id for change in changes.since(after).changes] == [token.id]
    projects.update(project.id, {"upstream_key": "sk-new", "upstream_key_mask": "m"})
    assert {change.id for change in changes.since(after).changes} == {token.id, project.id}

    monkeypatch.setattr(changes_module, "MAX_CHANGES", 1)
    found = changes.since(start)
    assert found.truncated
    assert len(found.changes) == 1
