"""proxy/cli/audit.py: what it asks, what it prints, and a chain that somebody has broken."""

import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest
import responses
from responses.matchers import query_param_matcher

from proxy.cli.local_settings import load_settings, open_database
from proxy.store.audit import ACTIONS, AuditLog, PendingEntry
from tests.support.cli_runner import BASE, Run

URL = f"{BASE}/manage/audit"
ENTRY: dict[str, Any] = {
    "seq": 7,
    "id": "0b3a7c5e-0000-4000-8000-000000000001",
    "created_at": "2026-05-20T00:03:00.123456Z",
    "action": "token.revoke",
    "actor": "management:1f2e",
    "outcome": "success",
    "project_id": "0b3a7c5e-0000-4000-8000-000000000002",
    "token_id": "01a1fcaf-c19f-72c2-91e6-6f230ccf0676",
    "client_ip": "203.0.113.7",
    "request_id": "r",
    "details": {"before": {"is_active": True}, "after": {"is_active": False}},
    "hash": "f" * 64,
}
PAGE = {"page": 2, "page_size": 50, "total_items": 51, "total_pages": 2}
FOUND = {"events": [ENTRY], "pagination": PAGE | {"has_next": False, "has_prev": True}}


@pytest.mark.parametrize(
    ("arguments", "query"),
    [
        ([], {}),
        (["--page", "2", "--page-size", "50"], {"page": "2", "page_size": "50"}),
        (
            ["--action", "auth.denied", "--actor", "b", "--outcome", "c", "--search", "50%"],
            {"action": "auth.denied", "actor": "b", "outcome": "c", "search": "50%"},
        ),
        (["--project-id", "p", "--token-id", "t"], {"project_id": "p", "token_id": "t"}),
        (["--client-ip", "::1", "--request-id", "r"], {"client_ip": "::1", "request_id": "r"}),
        (
            ["--start-time", "2026-05-20", "--end-time", "2026-05-21"],
            {"start_time": "2026-05-20", "end_time": "2026-05-21"},
        ),
    ],
)
def test_list_asks(
    run: Run, api: responses.RequestsMock, arguments: list[str], query: dict[str, str]
) -> None:
    api.get(URL, json=FOUND, match=[query_param_matcher(query)])
    assert json.loads(run("audit", "list", *arguments, "--json").stdout) == FOUND


def test_the_error_of_an_unknown_action_lists_the_known_ones(run: Run) -> None:
    result = run("audit", "list", "--action", "nonsense")
    assert result.exit_code == 2
    assert all(action in result.stderr for action in ACTIONS)


def test_a_table(run: Run, api: responses.RequestsMock) -> None:
    other = ENTRY | {"token_id": None, "project_id": None, "action": "auth.denied"}
    api.get(URL, json=FOUND | {"events": [ENTRY, other]})
    result = run("audit", "list")
    assert result.exit_code == 0
    _, first, second = result.stdout.splitlines()
    assert first.split() == [
        *[ENTRY["created_at"], "token.revoke", "success", "management:1f2e", ENTRY["token_id"]],
        *["203.0.113.7", ENTRY["id"]],
    ]
    assert second.split()[4] == "-"
    assert result.stderr == "Page 2 of 2, 51 entries.\n"


def test_nothing_found(run: Run, api: responses.RequestsMock) -> None:
    pagination = {"page": 1, "page_size": 50, "total_items": 0, "total_pages": 0}
    api.get(URL, json={"events": [], "pagination": pagination})
    assert run("audit", "list").stderr == "No entries.\n"


def test_show(run: Run, api: responses.RequestsMock) -> None:
    api.get(f"{URL}/{ENTRY['id']}", json=ENTRY)
    assert json.loads(run("audit", "show", ENTRY["id"], "--json").stdout) == ENTRY
    assert '{"is_active":false}' in run("audit", "show", ENTRY["id"]).stdout


def test_show_what_is_not_there(run: Run, api: responses.RequestsMock) -> None:
    error = {"error": {"message": "There is no audit entry with this id.", "code": "not_found"}}
    api.get(f"{URL}/x", json=error, status=404)
    result = run("audit", "show", "x")
    assert result.exit_code == 1
    assert "no audit entry" in result.stderr


@pytest.fixture
def chained(run: Run) -> Run:
    """With three entries in the database of this directory."""
    run("setup")
    assert run("db", "migrate").exit_code == 0
    with closing(open_database(load_settings())) as database:
        AuditLog(database).write([PendingEntry("a", "cli") for _ in range(3)])
    return run


def change(sql: str) -> None:
    with closing(sqlite3.connect("data/proxy.db")) as connection:
        connection.execute(sql)
        connection.commit()


def test_verify(chained: Run) -> None:
    whole = chained("audit", "verify")
    assert whole.exit_code == 0
    assert whole.stdout.startswith("3 entries, the chain is whole. Head: 3:")
    head = whole.stdout.strip().rpartition(" ")[2]
    assert chained("audit", "verify", "--expect", head).exit_code == 0
    told = json.loads(chained("audit", "verify", "--json").stdout)
    assert (told["intact"], told["checked"], told["broken"]) == (True, 3, None)
    assert f"{told['head']['seq']}:{told['head']['hash']}" == head
    assert told["deleted_up_to"] == {"seq": 0, "hash": ""}
    other = chained("audit", "verify", "--expect", f"3:{'0' * 64}")
    assert (other.exit_code, "broken at row 3" in other.stderr) == (1, True)
    assert chained("audit", "verify", "--expect", "3").exit_code == 2


def test_verify_names_what_is_wrong(chained: Run) -> None:
    change("UPDATE audit_events SET actor = 'nobody' WHERE seq = 2")
    broken = chained("audit", "verify")
    assert (broken.exit_code, broken.stdout) == (1, "")
    told = json.loads(chained("audit", "verify", "--json").stdout)
    assert (told["intact"], told["broken"]["seq"]) == (False, 2)
    assert f"broken at row 2 ({told['broken']['id']}): " in broken.stderr
    change("DELETE FROM audit_events WHERE seq = 2")
    assert "broken at row 2: this row is missing." in chained("audit", "verify").stderr


def test_verify_needs_the_schema(run: Run) -> None:
    run("setup")
    result = run("audit", "verify")
    assert result.exit_code == 1
    assert "db migrate" in result.stderr


def test_the_commands_that_work_on_the_database_leave_entries(
    chained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    chained("db", "export", "backup.jsonl")
    monkeypatch.setenv("DATABASE_URL", "sqlite:///other.db")
    chained("db", "migrate")
    assert chained("db", "import", "backup.jsonl").exit_code == 0
    with closing(open_database(load_settings())) as database:
        ((entry,), _) = AuditLog(database).find({}, 10, 0)
    assert (entry.action, entry.actor) == ("db.import", "cli")
    tables = ("projects", "tokens", "providers", "provider_keys", "mappings")
    assert entry.details == dict.fromkeys(tables, 0)
