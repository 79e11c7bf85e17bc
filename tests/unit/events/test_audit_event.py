"""An audit entry as a line, which no reader confuses with a usage event."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.core.usage_event import event_time
from proxy.events.audit_event import audit_line
from proxy.events.sinks.ledger import entry_from
from proxy.store.audit import AuditEntry

MAY = datetime(2026, 5, 20, 0, 3, 0, 123456, UTC)
ENTRY_ID = "0b3a7c5e-0000-4000-8000-000000000001"


def entry(details: dict[str, Any]) -> AuditEntry:
    who = ("token.revoke", "management:1f2e", "success", "p", "t", "::1", "r")
    return AuditEntry(7, ENTRY_ID, MAY, *who, details, "f" * 64)


def test_an_audit_entry_as_a_line() -> None:
    line = audit_line(entry({"before": {"is_active": True}}))
    assert line.endswith(b"}\n")
    assert list(json.loads(line).items()) == [
        ("event_id", ENTRY_ID.replace("-", "")),
        ("event", "audit"),
        ("timestamp", "2026-05-20T00:03:00.123Z"),
        ("request_id", "r"),
        ("project_id", "p"),
        ("token_id", "t"),
        ("action", "token.revoke"),
        ("actor", "management:1f2e"),
        ("outcome", "success"),
        ("client_ip", "::1"),
        ("seq", 7),
        ("hash", "f" * 64),
        ("details", {"before": {"is_active": True}}),
    ]
    assert event_time(line) == pytest.approx(MAY.timestamp(), abs=1e-3)
    with pytest.raises((KeyError, ValueError)):
        entry_from(json.loads(line))


def test_a_long_line_is_truncated_and_marked() -> None:
    line = audit_line(entry({"after": {"name": "n", "description": "ä" * 4096}}))
    assert len(line) <= 4096
    event = json.loads(line)
    assert event["truncated"] is True
    assert event["details"]["after"]["name"] == "n"
    assert event["hash"] == "f" * 64
