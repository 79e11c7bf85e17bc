"""Which maintenance tasks an installation has."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.maintenance.scheduler import BATCH
from proxy.store.audit import AuditLog
from proxy.store.database import Database, Session
from proxy.store.migrate import Migrator
from proxy.store.rows import to_micros
from proxy.store.usage import UsageLedger
from proxy.wiring.accounts import maintenance_scheduler
from tests.support.installation import settings

ALWAYS = {"tokens", "counted_ids", "key_health", "cache_purges"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ALWAYS),
        ({"USAGE_RETENTION_DAYS": "30"}, {*ALWAYS, "usage"}),
        ({"AUDIT_RETENTION_DAYS": "30"}, {*ALWAYS, "audit"}),
    ],
)
def test_what_is_kept_forever_has_no_task(
    tmp_path: Path, changes: dict[str, str], expected: set[str]
) -> None:
    made = settings(tmp_path, **changes)
    scheduler = maintenance_scheduler(made, Database.from_url(made.database.url))
    assert scheduler.rows == dict.fromkeys(expected, 0)


@pytest.mark.parametrize(("name", "store"), [("AUDIT", AuditLog), ("USAGE", UsageLedger)])
def test_how_old_something_is_the_database_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, store: type
) -> None:
    """A node whose clock is years ahead would delete everything."""
    made = settings(tmp_path, **{f"{name}_RETENTION_DAYS": "30"})
    asked: list[tuple[datetime, int]] = []
    monkeypatch.setattr(store, "prune", lambda self, *args: asked.append(args) or 0)
    today = datetime(2020, 1, 31, tzinfo=UTC)
    monkeypatch.setattr(Session, "now", lambda self: to_micros(today))
    scheduler = maintenance_scheduler(made, Database.from_url(made.database.url))
    assert scheduler._tasks[name.lower()](500) == 0
    assert asked == [(datetime(2020, 1, 1, tzinfo=UTC), 500)]


def test_ids_that_were_counted_go_as_fast_as_a_busy_node_makes_them(tmp_path: Path) -> None:
    """One for each request: a turn of 20 seconds a minute is for thousands of requests a second."""
    made = settings(tmp_path)
    database = Database.from_url(made.database.url)
    Migrator(database).migrate()
    rows = [(f"{number:032x}", 0) for number in range(6000)]

    def fill(session: Session) -> None:
        for row in rows:
            session.execute("INSERT INTO counted_ids (id, forget_at) VALUES (?, ?)", row)

    database.run(fill)
    scheduler = maintenance_scheduler(made, database)
    assert scheduler._tasks["counted_ids"](BATCH) == 5000
    assert scheduler._tasks["counted_ids"](BATCH) == 1000
    database.close()
