"""What the management API changes is announced, once it is committed; what it refuses is not."""

from typing import Any

import pytest

from tests.support.management_client import ABSENT, Management


@pytest.fixture
def api(sqlite_url: str) -> Management:
    return Management(sqlite_url)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PATCH", "/projects/{project}", {"is_active": False}, 200),
        ("PATCH", "/projects", {"project_id": "{project}", "name": "b"}, 200),
        ("DELETE", "/projects/{project}", None, 204),
        ("DELETE", "/projects", {"project_id": "{project}"}, 204),
        ("POST", "/projects/{project}/tokens/revoke", None, 200),
        ("PATCH", "/tokens/{token}", {"is_active": False}, 200),
        ("DELETE", "/tokens/{token}", None, 204),
        ("DELETE", "/tokens", {"token": "{secret}"}, 204),
    ],
)
def test_changes_are(
    api: Management, method: str, path: str, body: dict[str, Any] | None, status: int
) -> None:
    project = api.project()
    token = api.token(project["id"])
    assert api.announced == [], "the change is not announced yet"
    names = {"project": project["id"], "token": token["id"], "secret": token["token"]}
    filled = body and {
        name: value.format(**names) if isinstance(value, str) else value
        for name, value in body.items()
    }
    api.call(method, path.format(**names), filled, status)
    assert api.announced == [names[path.strip("/").split("s")[0]]]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/projects", None, 200),
        ("PATCH", f"/projects/{ABSENT}", {"is_active": False}, 404),
        ("DELETE", f"/tokens/{ABSENT}", None, 404),
        ("POST", f"/projects/{ABSENT}/tokens/revoke", None, 404),
    ],
)
def test_nothing_else_is(
    api: Management, method: str, path: str, body: dict[str, Any] | None, status: int
) -> None:
    api.call(method, path, body, status)
    assert api.announced == []
