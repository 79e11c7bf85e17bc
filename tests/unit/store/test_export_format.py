"""Lines of an export: every column, every type, nothing else."""

import json
from typing import Any

import pytest

from proxy.crypto.cipher import Cipher
from proxy.store.database import Database
from proxy.store.export_format import KINDS, MAPPING, PROJECT, PROVIDER, PROVIDER_KEY, TOKEN, Kind
from proxy.store.migrate import Migrator

PROJECT_ID = "f27373a6-371c-4dd1-bfdb-4128e1c4d854"
SEALED = Cipher(b"k" * 32).encrypt("sk", table="t", column="c", row_id=PROJECT_ID)
PROJECT_ROW = [PROJECT_ID, "Acme ☃", None, '{"b":1.0,"a":2}', None, SEALED, "m", 1, None, 7, 8, 9]
TOKEN_ROW = [
    *("01a1fcad-83dd-735c-b3be-932b2d9c521a", "a" * 64, "mask", None, PROJECT_ID, 2**50, 0, 9),
    *(None, '{"c":[]}', 3, 0, None, 10, 11, "01a1fcad-83dd-735c-b3be-932b2d9c521b", 2**40),
]
PROVIDER_ROW = [PROJECT_ID, "eu ☃", "azure", "https://h", '{"timeout":1.0}', 1, 0, 7, 8]
PROVIDER_KEY_ROW = [PROJECT_ID, PROJECT_ID, "a", SEALED, "m", 0, '["gpt-*"]', 1, 7, 8]
MAPPING_ROW = [PROJECT_ID, "fast-*", "file:eu", "gpt-5", 2**31 - 1, 1, 1, "{}", 7, 8]
ROWS = {
    "project": PROJECT_ROW,
    "token": TOKEN_ROW,
    "provider": PROVIDER_ROW,
    "provider_key": PROVIDER_KEY_ROW,
    "mapping": MAPPING_ROW,
}
SCHEMA = 9
MISSING = object()


def line(kind: Kind, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(kind.to_line(ROWS[kind.name])) | changes
    return {name: value for name, value in content.items() if value is not MISSING}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_row_survives_export_and_import(kind: Kind) -> None:
    assert kind.to_row(line(kind), SCHEMA) == ROWS[kind.name]


def test_a_line_is_one_line_with_plain_types() -> None:
    written = PROJECT.to_line(PROJECT_ROW)
    assert written.endswith(b"}\n")
    assert written.count(b"\n") == 1
    content = json.loads(written)
    assert content["kind"] == "project"
    assert content["is_active"] is True
    assert content["metadata"] == '{"b":1.0,"a":2}'


def test_every_table_and_column_is_there(sqlite_url: str) -> None:
    """A migration that adds a table or column has to decide here how it is exported."""
    database = Database.from_url(sqlite_url)
    Migrator(database).migrate()
    sql = (
        "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c "
        "WHERE t.type = ? AND t.name <> ?"
    )
    found = database.run(lambda session: session.all(sql, ("table", "schema_migrations")))
    ours = {(kind.table, column) for kind in KINDS for column in kind.columns}
    # Usage, audit entries and leases stay with their installation, as the events do. So do the
    # secrets: another installation makes its own, and then finds nothing in the cache of this one.
    stays = {
        "usage_hourly",
        "usage_positions",
        "audit_events",
        "audit_chain",
        "leases",
        "counted_ids",
        "cache_purges",
        "provider_key_health",
        "revisions",
        "installation_secrets",
    }
    assert {(table, column) for table, column in found if table not in stays} == ours
    assert {kind.columns[0] for kind in KINDS} == {"id"}


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (PROJECT, "id", PROJECT_ID.upper()),
        (PROJECT, "id", f"{PROJECT_ID}\n"),
        (PROJECT, "id", 5),
        (PROJECT, "name", None),
        (PROJECT, "name", "x" * 256),
        (PROJECT, "name", "x\x00"),
        (PROJECT, "description", "☃" * 30_000),
        (PROJECT, "metadata", {}),
        (PROJECT, "metadata", "[]"),
        (PROJECT, "metadata", "{"),
        (PROJECT, "metadata", json.dumps({"a": "x" * 1024 * 1024})),
        (PROJECT, "policy", ""),
        (PROJECT, "upstream_key", "sk-in-clear"),
        (PROJECT, "upstream_key", "v1:sk-in-clear"),
        (PROJECT, "upstream_key", None),
        (PROJECT, "is_active", 1),
        (PROJECT, "created_at", "2026-01-01T00:00:00Z"),
        (PROJECT, "created_at", True),
        (PROJECT, "created_at", 1.0),
        (PROJECT, "created_at", 2**62),
        (PROJECT, "deactivated_at", -(2**62)),
        (PROJECT, "cache_epoch", -1),
        (PROJECT, "cache_epoch", MISSING),
        (TOKEN, "token_hash", "A" * 64),
        (TOKEN, "token_hash", "a" * 63),
        (TOKEN, "request_count", -1),
        (TOKEN, "request_count", 2**63),
        (TOKEN, "request_count", None),
        (TOKEN, "max_requests", "5"),
        (TOKEN, "name", MISSING),
        (TOKEN, "policy", MISSING),
        (TOKEN, "parent_id", MISSING),
        (TOKEN, "parent_id", "parent"),
        (TOKEN, "tokens_used", None),
        (TOKEN, "tokens_used", 1.5),
        (TOKEN, "secret", "x"),
        (PROVIDER, "provider_type", "öllama"),
        (PROVIDER, "base_url", "x" * 2049),
        (PROVIDER, "config", "[]"),
        (PROVIDER, "is_default", 1),
        (PROVIDER_KEY, "value", "sk-in-clear"),
        (PROVIDER_KEY, "provider_id", "file:eu"),
        (PROVIDER_KEY, "models", "{}"),
        (PROVIDER_KEY, "models", "[1]"),
        (PROVIDER_KEY, "models", "["),
        (PROVIDER_KEY, "models", []),
        (PROVIDER_KEY, "weight", -1),
        (PROVIDER_KEY, "weight", 2**31),
        (MAPPING, "alias_name", "x" * 257),
        (MAPPING, "provider_id", ""),
        (MAPPING, "config", None),
        (MAPPING, "order_index", 1.5),
    ],
)
def test_invalid_values_are_refused(kind: Kind, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        kind.to_row(line(kind, **{field: value}), SCHEMA)
    assert "in-clear" not in str(caught.value)


def test_a_column_missing_in_an_older_export_is_null() -> None:
    row = PROJECT.to_row(line(PROJECT, policy=MISSING), 1)
    assert row[PROJECT.columns.index("policy")] is None
    with pytest.raises(ValueError, match="created_at"):
        PROJECT.to_row(line(PROJECT, created_at=MISSING), 1)


def test_a_count_missing_in_an_older_export_is_zero() -> None:
    row = TOKEN.to_row(line(TOKEN, parent_id=MISSING, tokens_used=MISSING), 3)
    assert row == [*TOKEN_ROW[:-2], None, 0]
    row = PROJECT.to_row(line(PROJECT, cache_epoch=MISSING), 8)
    assert row == [*PROJECT_ROW[:-1], 0]
