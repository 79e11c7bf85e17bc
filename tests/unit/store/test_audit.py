"""Damaged details; more is in ``tests/contract/test_audit.py``."""

from proxy.store.audit import AuditLog, PendingEntry
from proxy.store.database import Database
from proxy.store.migrate import Migrator


def test_damaged_details_do_not_hide_the_others(sqlite_url: str) -> None:
    database = Database.from_url(sqlite_url)
    Migrator(database).migrate()
    log = AuditLog(database)
    log.write([PendingEntry("a", "cli"), PendingEntry("b", "cli", details={"x": 1})])
    sql = "UPDATE audit_events SET details = ? WHERE seq = 1"
    database.run(lambda session: session.execute(sql, ("{oops",)))
    found, _ = log.find({}, 10, 0)
    assert [entry.details for entry in found] == [{"x": 1}, {"unreadable": "{oops"}]
