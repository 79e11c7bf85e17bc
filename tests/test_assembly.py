"""Parts that are made of several settings."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.assembly import housekeeper, session_transport, spool_settings, upstream_adapter
from proxy.store.audit import AuditLog
from proxy.store.database import Database, Session
from proxy.store.rows import to_micros
from proxy.store.usage import UsageLedger
from tests.test_app import settings


def test_every_running_request_and_waiting_event_has_a_slot(tmp_path: Path) -> None:
    made = settings(tmp_path, MAX_CONCURRENT_REQUESTS="7", EVENT_QUEUE_SIZE="100000")
    spool = spool_settings(made, frozenset({"local"}))
    assert spool.slots == 7 + 4096  # what waits beyond that means that the disk hangs
    assert spool.root == tmp_path / "data" / "spool"
    assert spool.sinks == {"local"}
    assert spool.max_bytes == made.spool_max_bytes


def test_both_schemes_go_through_our_adapter(tmp_path: Path) -> None:
    made = settings(tmp_path)
    adapter = upstream_adapter(made)
    transport = session_transport(made, adapter)
    for url in ("http://a/v1/x", "https://b/v1/x"):
        assert transport._session.get_adapter(url) is adapter
    transport.close()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"tokens"}),
        ({"USAGE_RETENTION_DAYS": "30"}, {"tokens", "usage"}),
        ({"AUDIT_RETENTION_DAYS": "30"}, {"tokens", "audit"}),
    ],
)
def test_what_is_kept_for_ever_has_no_chore(
    tmp_path: Path, changes: dict[str, str], expected: set[str]
) -> None:
    made = settings(tmp_path, **changes)
    keeper = housekeeper(made, Database.from_url(made.database_url))
    assert keeper.rows == dict.fromkeys(expected, 0)


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
    keeper = housekeeper(made, Database.from_url(made.database_url))
    assert keeper._chores[name.lower()](500) == 0
    assert asked == [(datetime(2020, 1, 1, tzinfo=UTC), 500)]


def test_redis_is_loaded_by_whom_it_concerns(tmp_path: Path) -> None:
    script = (
        "import sys; from types import SimpleNamespace as N; from proxy.assembly import "
        "change_channel; change_channel(N(redis_url=''), None).publish(['a']); "
        "assert 'redis' not in sys.modules; "
        "change_channel(N(redis_url='redis://h'), None).close(); assert 'redis' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
