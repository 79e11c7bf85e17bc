"""The log of purges of stored responses: one behaviour, on every database."""

from collections.abc import Iterator
from datetime import timedelta

import gevent
import pytest

from proxy.store import cache_purges as module
from proxy.store.audit import AuditLog, PendingEntry
from proxy.store.cache_purges import PURGES_REVISION, CachePurges, Purge
from proxy.store.changes import Changes
from proxy.store.rows import from_micros
from tests.support.stored_records import ABSENT, Store


@pytest.fixture
def store(migrated_url: str) -> Iterator[Store]:
    store = Store(migrated_url)
    yield store
    store.database.close()


@pytest.fixture
def purges(store: Store) -> CachePurges:
    return CachePurges(store.database)


def test_purges_come_back_in_their_order(purges: CachePurges) -> None:
    assert purges.since(0) == []
    given = [
        Purge(),
        Purge(project_id=ABSENT, method="GET"),
        Purge(target="/v1/models?a=☃&b='%s"),
        Purge(prefix="/v1/" + "x" * 8000),
        Purge(key="0123456789abcdef"),
    ]
    before = purges.now()
    for purge in given:
        purges.add(purge)
    found = purges.since(before - 1)
    assert [each.purge for each in found] == given
    moments = [each.moment for each in found]
    assert moments == sorted(set(moments))
    assert moments[0] >= before
    assert [each.purge for each in purges.since(moments[2])] == given[3:]


def test_a_purge_is_a_change_that_workers_find(store: Store, purges: CachePurges) -> None:
    changes = Changes(store.database)
    before = changes.now()
    purges.add(Purge())
    (change,) = changes.since(before - 1).changes
    assert (change.id, change.updated_at) == (PURGES_REVISION, purges.since(0)[0].moment)


def test_nodes_that_purge_at_once_are_seen_in_one_order(purges: CachePurges) -> None:
    """A purge that became visible after a later one would be missed by who has seen that."""
    jobs = [gevent.spawn(purges.add, Purge(key=f"{number:016x}")) for number in range(20)]
    seen, last = 0, 0
    while seen < 20:
        gevent.sleep(0.001)
        for each in purges.since(last):
            seen, last = seen + 1, each.moment
    gevent.joinall(jobs, raise_error=True)
    assert len(purges.since(0)) == 20


def test_a_page_at_a_time(purges: CachePurges, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PURGES", 2)
    for number in range(3):
        purges.add(Purge(method=f"M{number}"))
    first = purges.since(0)
    assert [each.purge.method for each in first] == ["M0", "M1"]
    assert [each.purge.method for each in purges.since(first[-1].moment)] == ["M2"]


def test_the_audit_entry_has_no_query(store: Store, purges: CachePurges) -> None:
    audit = PendingEntry("cache.purge", "management")
    purges.add(Purge(project_id=ABSENT, method="GET", target="/v1/models?key=canary"), audit)
    entry = AuditLog(store.database).get(audit.id)
    assert (entry.action, entry.project_id) == ("cache.purge", ABSENT)
    assert entry.details == {"method": "GET", "url": "/v1/models"}


def test_old_purges_are_deleted(purges: CachePurges) -> None:
    for number in range(3):
        purges.add(Purge(method=f"M{number}"))
    moments = [each.moment for each in purges.since(0)]
    assert purges.prune(from_micros(moments[0]) - timedelta(microseconds=1), 10) == 0
    assert purges.prune(from_micros(moments[2]), 2) == 2
    assert [each.moment for each in purges.since(0)] == moments[2:]
