"""Counters; more is in ``tests/contract/test_store.py``."""

from datetime import UTC, datetime

import pytest

from proxy.crypto.cipher import Cipher
from proxy.crypto.tokens import new_token_id
from proxy.store.counters import Counters
from proxy.store.database import Database
from proxy.store.migrate import Migrator
from proxy.store.projects import Projects
from proxy.store.tokens import Tokens
from proxy.store.usage import UsageLedger


def test_times_without_a_zone_are_refused(sqlite_url: str) -> None:
    counters = Counters(Database.from_url(sqlite_url))
    naive = datetime(2026, 1, 1)  # noqa: DTZ001
    with pytest.raises(ValueError, match="zone"):
        counters.lease_permits("id", naive)
    with pytest.raises(ValueError, match="zone"):
        counters.add_counts([("id", 1, 0, 0, naive)])


def test_counts_that_a_killed_worker_lost_are_added_from_the_ledger(migrated_url: str) -> None:
    database = Database.from_url(migrated_url)
    Migrator(database).migrate()
    project = Projects(database, Cipher(b"k" * 32)).create("Acme", "sk-real", "sk-real")
    tokens, counters = Tokens(database), Counters(database)
    made: dict[str, str] = {}
    for name, parent in (("parent", None), ("child", "parent"), ("limited", None)):
        made[name] = new_token_id()
        tokens.create(
            token_id=made[name],
            token_hash=name.ljust(64, "0"),
            token_mask="sk-aaaa...aaaa",
            project_id=project.id,
            expires_at=datetime(2100, 1, 1, tzinfo=UTC),
            lineage=[made[parent]] if parent else [],
            max_requests=100 if name == "limited" else None,
        )
    parent, child, limited = made.values()
    hour = datetime(2026, 5, 20, 10, tzinfo=UTC)
    sums = (6, 1, 10, 5, 9, 2, 3, 1, 2, 70, 80)
    entries = [(hour, project.id, token_id, "m", *sums) for token_id in made.values()]
    UsageLedger(database).apply("w", None, (1, 1), entries)
    counters.add_counts([(child, 1, 12, 0, hour), (parent, 1, 31, 5, hour)])

    found = counters.accounted([parent, child, new_token_id()])
    assert found == {
        parent: (31, 19 + 12, 1, 3, 5, 2),
        child: (12, 19, 1, 3, 0, 2),
    }
    assert not counters.make_good(child, found[child]._replace(tokens_used=11)), "changed since"
    assert not counters.make_good(child, found[child]._replace(requests=0)), "changed since"
    assert not counters.make_good(child, found[child]._replace(hits=1)), "changed since"
    assert counters.make_good(child, found[child])
    again = counters.accounted([parent, child, limited])
    assert again == {
        parent: (38, 19 + 19, 1, 3, 5, 2),
        child: (19, 19, 3, 3, 2, 2),
        limited: (0, 19, 0, 0, 0, 2),  # its requests are counted before they are sent
    }
    # Only a count that is too low is changed.
    assert counters.make_good(parent, again[parent])
    assert counters.accounted([parent]) == {parent: (38, 38, 3, 3, 5, 2)}
    assert counters.accounted([]) == {}
    database.close()
