"""Routes of a disabled API respond with the reason."""

import flask
import pytest

from proxy.web import Mount, blueprints, create_flask_app
from proxy.web.guards import ManagementGuard
from tests.support.limiter_factories import Limited


@pytest.fixture
def app() -> flask.Flask:
    guard = ManagementGuard(["management-token-1"], Limited().throttle, 0)
    return create_flask_app(
        [Mount(blueprints.create_disabled_blueprint("x", "Because."), "/manage", guard)]
    )


@pytest.mark.parametrize("path", ["/manage", "/manage/", "/manage/projects", "/manage/a/b%2Fc"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_whatever_is_asked_the_reason_is_given(app: flask.Flask, path: str, method: str) -> None:
    response = app.test_client().open(
        path, method=method, headers={"Authorization": "Bearer management-token-1"}
    )
    assert response.status_code == 404
    assert response.json is not None
    error = response.json["error"]
    assert (error["code"], error["message"]) == ("not_found", "Because.")


def test_only_behind_the_guard(app: flask.Flask) -> None:
    assert app.test_client().get("/manage/projects").status_code == 401
