"""The Flask application as a whole (``proxy/web/__init__.py``): guards, one error shape, ids."""

import logging
import re
from typing import Any

import flask
import pytest
from werkzeug.exceptions import BadGateway, RequestEntityTooLarge

from proxy.core.errors import CipherError, ClientError, StoreError
from proxy.web import AccessRecord, Mount, create_flask_app
from proxy.web.guards import ManagementGuard
from proxy.web.replies import json_reply
from tests.support.limiter_factories import Limited

TOKEN = "management-token-1"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def raising(error: Exception) -> Any:
    raise error


@pytest.fixture
def app() -> flask.Flask:
    things = flask.Blueprint("things", __name__)
    things.add_url_rule("/", "list", lambda: json_reply([]), methods=["GET"])
    failures = {
        "refused": ClientError("No.", param="x"),
        "store": StoreError(),
        "cipher": CipherError("tables and rows"),
        "defect": ZeroDivisionError("private"),
        "large": RequestEntityTooLarge(),
        "gateway": BadGateway("private"),
    }
    for name, error in failures.items():
        things.add_url_rule(f"/{name}", name, lambda error=error: raising(error))
    open_room = flask.Blueprint("open", __name__)
    open_room.add_url_rule("/open", "open", lambda: json_reply({}))
    guard = ManagementGuard((TOKEN,), Limited().throttle, 0)
    return create_flask_app([Mount(things, "/manage/things", guard), Mount(open_room, None, None)])


def test_a_guard_stands_before_its_room_only(app: flask.Flask) -> None:
    client = app.test_client()
    refused = client.get("/manage/things")
    assert (refused.status_code, refused.json["error"]["code"]) == (401, "invalid_management_token")
    assert "Bearer" in refused.headers["WWW-Authenticate"]
    assert client.get("/manage/things", headers=BEARER).json == []
    assert client.get("/open").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/manage/nothing", 404, "not_found"),
        ("GET", "/manage//things", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("PUT", "/open", 405, "method_not_allowed"),
        ("PURGE", "/open", 405, "method_not_allowed"),
        ("GET", "/manage/things/refused", 400, "invalid_request"),
        ("GET", "/manage/things/large", 413, "request_too_large"),
        ("GET", "/manage/things/store", 503, "store_unavailable"),
        ("GET", "/manage/things/cipher", 500, "internal_error"),
        ("GET", "/manage/things/defect", 500, "internal_error"),
        ("GET", "/manage/things/gateway", 500, "internal_error"),
    ],
)
def test_one_error_shape(
    app: flask.Flask,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
    status: int,
    code: str,
) -> None:
    response = app.test_client().open(path, method=method, headers=BEARER)
    assert (response.status_code, response.content_type) == (status, "application/json")
    assert response.json["error"]["code"] == code
    assert b"private" not in response.data
    assert b"tables" not in response.data
    assert ("Retry-After" in response.headers) == (status == 503)
    defects = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(defects) == (status == 500)
    if defects:
        assert defects[0].exc_info
        assert defects[0].request_id == response.headers["X-Proxy-Request-ID"]


def test_405_names_what_is_allowed(app: flask.Flask) -> None:
    response = app.test_client().put("/open")
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


@pytest.mark.parametrize("path", ["/open", "/manage/things", "/nowhere", "/manage/things/defect"])
def test_every_response_has_a_request_id(app: flask.Flask, path: str) -> None:
    client = app.test_client()
    for headers in ({}, BEARER):
        kept = client.get(path, headers={**headers, "X-Request-ID": "call-1"})
        assert kept.headers.getlist("X-Proxy-Request-ID") == ["call-1"]
        hostile = client.get(path, headers={**headers, "X-Request-ID": "<script>"})
        assert re.fullmatch("[0-9a-f]{32}", hostile.headers["X-Proxy-Request-ID"])


def test_head_on_a_refusal_has_no_body(app: flask.Flask) -> None:
    response = app.test_client().head("/manage/things")
    assert (response.status_code, response.data) == (401, b"")
    assert app.test_client().head("/nowhere").data == b""


@pytest.mark.parametrize(("trusted", "seen"), [(0, "127.0.0.1"), (1, "192.0.2.7")])
@pytest.mark.parametrize("path", ["/open", "/nowhere"])
def test_the_client_is_who_the_proxies_in_front_served(trusted: int, seen: str, path: str) -> None:
    room = flask.Blueprint("open", __name__)
    room.add_url_rule("/open", "open", lambda: json_reply({}))
    told: list[AccessRecord] = []
    app = create_flask_app([Mount(room, None, None)], told.append, trusted)
    app.test_client().get(path, headers={"X-Forwarded-For": "6.6.6.6, 192.0.2.7"})
    assert [answered.client_ip for answered in told] == [seen]


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/manage/things", "management"),
        ("/admin/things", "management"),
        ("/open", "status"),
        ("/nowhere", "other"),
    ],
)
def test_the_route_of_a_response(path: str, route: str) -> None:
    room = flask.Blueprint("open", __name__)
    for rule in ("/open", "/manage/things", "/admin/things"):
        room.add_url_rule(rule, rule[1:].replace("/", "_"), lambda: json_reply({}))
    told: list[AccessRecord] = []
    create_flask_app([Mount(room, None, None)], told.append).test_client().get(path)
    assert [response.route for response in told] == [route]
