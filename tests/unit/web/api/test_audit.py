"""``/manage/audit`` as its callers see it."""

from typing import Any
from urllib.parse import urlencode

import pytest

from proxy.store.audit import ACTIONS, PendingEntry
from tests.support.management_client import ABSENT, Management


@pytest.fixture
def api(sqlite_url: str) -> Management:
    return Management(sqlite_url)


def get(api: Management, **query: Any) -> dict[str, Any]:
    found: dict[str, Any] = api.call("GET", "/audit?" + urlencode(query))
    return found


def test_nothing_yet(api: Management) -> None:
    pagination = {"page": 1, "page_size": 50, "total_items": 0, "total_pages": 0}
    pagination |= {"has_next": False, "has_prev": False}
    assert get(api) == {"events": [], "pagination": pagination}


def test_an_entry(api: Management) -> None:
    project = api.project()
    (shown,) = get(api)["events"]
    assert list(shown) == [
        *["seq", "id", "created_at", "action", "actor", "outcome", "project_id", "token_id"],
        *["client_ip", "request_id", "details", "hash"],
    ]
    assert shown["project_id"] == project["id"]
    assert shown["created_at"].endswith("Z")
    assert shown["details"]["after"]["api_key"] == project["api_key"]
    assert api.call("GET", f"/audit/{shown['id']}") == shown


def test_pages(api: Management) -> None:
    api.audit.write([PendingEntry("a", "cli") for _ in range(5)])
    seen = []
    for page, (following, previous) in enumerate([(True, False), (True, True), (False, True)], 1):
        found = get(api, page=page, page_size=2)
        seen += [entry["seq"] for entry in found["events"]]
        assert found["pagination"] == {
            "page": page,
            "page_size": 2,
            "total_items": 5,
            "total_pages": 3,
            "has_next": following,
            "has_prev": previous,
        }
    assert seen == [5, 4, 3, 2, 1]
    assert get(api, page=4, page_size=2)["events"] == []


def test_filters_reach_the_log(api: Management) -> None:
    project = api.project()
    token = api.token(project["id"])
    api.audit.write([PendingEntry("auth.denied", "anonymous", "::9", "req-9", "denied")])
    api.audit.write([PendingEntry("keys.rotate", "cli", "192.0.2.9", "req-8")])
    queries: list[tuple[dict[str, str], list[int]]] = [
        ({"action": "token.create"}, [2]),
        ({"actor": "management"}, [2, 1]),
        ({"outcome": "denied"}, [3]),
        ({"client_ip": "::9"}, [3]),
        ({"client_ip": "::ffff:192.0.2.9"}, [4]),
        ({"request_id": "req-9"}, [3]),
        ({"project_id": project["id"].upper()}, [2, 1]),
        ({"token_id": token["id"]}, [2]),
        ({"search": "acme"}, [1]),
        ({"start_time": "2000-01-01", "end_time": "8999-01-01T00:00:00Z"}, [4, 3, 2, 1]),
        ({"end_time": "2000-01-01"}, []),
        ({"start_time": "8999-01-01"}, []),
        ({"project_id": ABSENT}, []),
    ]
    for query, numbers in queries:
        assert [entry["seq"] for entry in get(api, **query)["events"]] == numbers, query


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("projectId", "x"),
        ("project_id", "x"),
        ("token_id", ""),
        ("page", "0"),
        ("page", "100001"),
        ("page", "1.5"),
        ("page", "²"),
        ("page_size", "201"),
        ("page_size", "-1"),
        ("page_size", "9" * 5000),
        ("start_time", "yesterday"),
        ("end_time", "2026-02-31"),
        ("search", "x" * 256),
        ("search", "\x00"),
        ("action", "\x00"),
        ("action", ""),
        ("action", "token"),
        ("action", "nonsense"),
        ("outcome", "failed"),
    ],
)
def test_what_is_refused(api: Management, param: str, value: str) -> None:
    api.refused("GET", "/audit?" + urlencode({param: value}), None, 400, param)


def test_the_error_of_an_unknown_action_lists_the_known_ones(api: Management) -> None:
    for action in ACTIONS:
        assert get(api, action=action)["events"] == []
    error = api.call("GET", "/audit?action=token.delete", status=400)["error"]
    assert all(f"`{action}`" in error["message"] for action in ACTIONS)


def test_none_with_this_id(api: Management) -> None:
    for unknown in (ABSENT, "x"):
        assert api.call("GET", f"/audit/{unknown}", None, 404)["error"]["code"] == "not_found"


def test_nothing_can_be_written_or_deleted(api: Management) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        api.call(method, "/audit", None, 405)
        api.call(method, f"/audit/{ABSENT}", None, 405)
