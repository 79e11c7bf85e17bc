"""The composition root: what goes to which door, and the life of one worker's application."""

import io
import json
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gevent
import pytest

from proxy.app import Application, create_app
from proxy.core.errors import ClientError
from proxy.store.database import Database
from proxy.store.migrate import Migrator
from proxy.store.usage import UsageLedger
from tests.support.event_samples import Sink, block, event
from tests.support.installation import MANAGEMENT, settings
from tests.support.relay_factories import Result, environ, serve

BEARER = [("Authorization", f"Bearer {MANAGEMENT}")]


@pytest.fixture
def app(tmp_path: Path, closing: None) -> Iterator[Application]:
    made = settings(tmp_path)
    Migrator(Database.from_url(made.database.url)).migrate()
    app = create_app(made)
    yield app
    app.close(1)


def ask(app: Application, *args: Any, body: Any = None, **kwargs: Any) -> Result:
    made = environ(*args, **{"token": None, **kwargs})
    if body is not None:
        data = json.dumps(body).encode()
        made |= {"CONTENT_LENGTH": str(len(data)), "CONTENT_TYPE": "application/json"}
        made["wsgi.input"] = io.BytesIO(data)
    return serve(app, made)


def code(result: Result) -> str:
    return str(json.loads(result.body)["error"]["code"])


def events(folder: Path) -> list[Any]:
    """Those of requests; the others are audit entries."""
    path = folder / "events.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [event for line in lines if "event" not in (event := json.loads(line))]


def test_nothing_is_touched_before_the_start(tmp_path: Path) -> None:
    threads = threading.active_count()
    app = create_app(settings(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads
    assert (app.database_seen, app.database_state) == (False, "not checked yet")
    app.close(1)  # never started: nothing to flush


@pytest.mark.parametrize(
    ("target", "kwargs", "status", "expected"),
    [
        ("/v1/models", {}, 401, "invalid_token"),
        ("/v1//models", {}, 401, "invalid_token"),
        ("/v1/", {}, 401, "invalid_token"),
        ("/v1/models", {"method": "PURGE"}, 401, "invalid_token"),
        ("/v1/%2e%2e/manage/projects", {"headers": BEARER}, 401, "invalid_token"),
        ("/v1", {}, 401, "invalid_token"),
        ("/v1/proxy/tokens", {"method": "POST"}, 401, "invalid_token"),
        ("/v1/proxy/tokens?x=1", {}, 401, "invalid_token"),
        ("/v1/proxy/other", {}, 401, "invalid_token"),
        ("/nowhere", {}, 404, "not_found"),
        ("//v1/models", {}, 401, "invalid_token"),  # Flask routes it, the relay refuses it
        ("//v1/models", {"token": "sk-" + "a" * 22}, 401, "token_not_found"),
        ("/manage/projects", {}, 401, "invalid_management_token"),
        ("/manage/tokens", {"method": "POST"}, 401, "invalid_management_token"),
        ("/manage/usage", {}, 401, "invalid_management_token"),
        ("/manage/usage?from=x", {"headers": BEARER}, 400, "invalid_request"),
        ("/manage/projects", {"method": "PUT", "headers": BEARER}, 405, "method_not_allowed"),
        ("/manage/projects/nonsense", {"headers": BEARER}, 404, "not_found"),
        ("/health", {"method": "POST"}, 405, "method_not_allowed"),
        ("http://evil.test/v1/models", {}, 400, "invalid_request"),
        ("evil.test:443", {"method": "CONNECT"}, 400, "invalid_request"),
        ("*", {"method": "OPTIONS"}, 400, "invalid_request"),
    ],
)
def test_every_refusal_has_the_shape_and_an_id(
    app: Application, target: str, kwargs: dict[str, Any], status: int, expected: str
) -> None:
    result = ask(app, target=target, **kwargs)
    assert (result.code, code(result)) == (status, expected)
    assert result.one("Content-Type") == "application/json"
    assert re.fullmatch("[0-9a-f]{32}", result.one("X-Proxy-Request-ID"))
    named = [*kwargs.get("headers", []), ("X-Request-ID", "r1")]
    result = ask(app, target=target, **{**kwargs, "headers": named})
    assert result.one("X-Proxy-Request-ID") == "r1"
    if kwargs.get("method", "GET") == "GET":
        assert ask(app, target=target, **{**kwargs, "method": "HEAD"}).body == b""


def test_an_encoded_prefix_is_no_way_in(app: Application) -> None:
    result = ask(app, target="/%76%31/models", token="sk-" + "a" * 22, PATH_INFO="/v1/models")
    assert code(result) == "token_not_found"  # not before the token


def test_a_project_and_a_token_come_to_be_and_count(app: Application, tmp_path: Path) -> None:
    app.start()
    project = ask(
        app,
        "POST",
        "/manage/projects",
        headers=BEARER,
        body={"name": "Acme", "api_key": "sk-upstream-canary-0123456789"},
    )
    assert project.code == 201
    minted = ask(
        app,
        "POST",
        "/manage/tokens",
        headers=BEARER,
        body={"project_id": json.loads(project.body)["id"], "duration_minutes": 5},
    )
    token = json.loads(minted.body)
    assert minted.code == 201
    refused = ask(app, "GET", "/v1/models?key=private", token=token["token"])
    assert (refused.code, code(refused)) == (502, "upstream_unreachable")
    assert ask(app).code == 401
    app.close(2)
    rejected = [(event["status_code"], event["outcome"]) for event in events(tmp_path)]
    assert rejected == [(502, "aborted"), (401, "rejected")]
    text = (tmp_path / "events.jsonl").read_text()
    for secret in (token["token"], "canary", "private", MANAGEMENT):
        assert secret not in text
    # A second application finds what the first has counted.
    again = create_app(settings(tmp_path))
    listed = ask(again, "GET", f"/manage/tokens/{token['id']}", headers=BEARER)
    assert json.loads(listed.body)["request_count"] == 1


def test_a_change_is_felt_at_once_where_it_was_made(tmp_path: Path, closing: None) -> None:
    made = settings(tmp_path, REVOCATION_INTERVAL="600", AUTH_CACHE_TTL="3600")
    Migrator(Database.from_url(made.database.url)).migrate()
    app = create_app(made)
    app.start()
    body = {"name": "Acme", "api_key": "sk-upstream-canary-0123456789"}
    project = json.loads(ask(app, "POST", "/manage/projects", headers=BEARER, body=body).body)
    body = {"project_id": project["id"], "duration_minutes": 5}
    token = json.loads(ask(app, "POST", "/manage/tokens", headers=BEARER, body=body).body)
    changes: list[tuple[str, str, Any, str]] = [
        ("PATCH", f"/manage/projects/{project['id']}", {"is_active": False}, "project_inactive"),
        ("PATCH", f"/manage/projects/{project['id']}", {"is_active": True}, "upstream_unreachable"),
        ("DELETE", f"/manage/tokens/{token['id']}", None, "token_inactive"),
    ]
    assert code(ask(app, token=token["token"])) == "upstream_unreachable"
    for method, target, change, expected in changes:
        assert ask(app, method, target, headers=BEARER, body=change).code < 300
        assert code(ask(app, token=token["token"])) == expected
    app.close(2)


def test_usage_is_priced_by_the_file_of_the_settings(tmp_path: Path, closing: None) -> None:
    file = tmp_path / "prices.json"
    file.write_text('{"currency": "EUR", "models": {"*": {"input": 1, "output": 2}}}')
    made = settings(tmp_path, PRICES_FILE=str(file))
    database = Database.from_url(made.database.url)
    Migrator(database).migrate()
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    project_id = "00000000-0000-4000-8000-000000000001"
    UsageLedger(database).apply(
        "w", None, (1, 1), [(hour, project_id, project_id, "m", 1, 0, 10, 1, *[0] * 7)]
    )
    found = json.loads(ask(create_app(made), target="/manage/usage", headers=BEARER).body)
    assert (found["currency"], found["rows"][0]["cost"]) == ("EUR", "0.000012")


def test_ready(app: Application) -> None:
    assert ask(app, target="/ready").code == 503
    app.start()
    with gevent.Timeout(5):
        while not app.database_seen:
            gevent.sleep(0.01)
    assert ask(app, target="/ready").code == 200
    assert app.database_state == "ok"
    app.begin_stop()
    assert ask(app, target="/ready").code == 503
    assert ask(app, target="/health").code == 200
    assert code(ask(app)) == "invalid_token"  # still served
    app.cut()
    assert code(ask(app)) == "draining"


def test_where_clients_bring_their_keys_no_database_is_asked(tmp_path: Path) -> None:
    away = "mysql://u:p@127.0.0.1:9/none"
    app = create_app(settings(tmp_path, AUTH_MODE="passthrough", DATABASE_URL=away))
    app.start()
    ready = ask(app, target="/ready")
    assert (ready.code, json.loads(ready.body)["database"]) == (200, "not used")
    assert code(ask(app)) == "upstream_unreachable"
    assert code(ask(app, target="/manage/projects", headers=BEARER)) == "not_found"
    app.close(1)
    (event,) = events(tmp_path)
    assert (event["project_id"], event["token_id"], event["token"]) == (None, None, None)


def test_close_is_idempotent_and_keeps_its_deadline(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.start()

    def hang(*_: Any) -> None:
        gevent.sleep(30)

    monkeypatch.setattr(app._accounts.counts, "_store", type("Hanging", (), {"add_counts": hang})())
    assert app._pump is not None
    (delivery,) = app._pump.sink_workers
    monkeypatch.setattr(delivery, "_sink", Sink(lambda: block(1)))
    app._queue.publish(event())
    app._accounts.counts.add("token")
    began = time.monotonic()
    app.close(0.4)
    app.close(0.4)
    assert time.monotonic() - began < 2


def test_what_the_worker_says(app: Application) -> None:
    error = ClientError("The request line is too long.")
    reply = app.error_response(error, "414 URI Too Long")
    assert reply.status == "414 URI Too Long"
    assert json.loads(reply.body)["error"]["code"] == "invalid_request"
    assert app.error_response(error).status == "400 Bad Request"
    assert app.client_timeout == 60.0


@pytest.mark.parametrize("redis_url", ["", "redis://127.0.0.1:9"])
def test_manage_health_reports_redis(tmp_path: Path, closing: None, redis_url: str) -> None:
    made = settings(tmp_path, REDIS_URL=redis_url)
    Migrator(Database.from_url(made.database.url)).migrate()
    app = create_app(made)
    try:
        found = json.loads(ask(app, "GET", "/manage/health", headers=BEARER).body)
    finally:
        app.close(1)
    assert found["redis"] == ("unavailable" if redis_url else "not used")
    assert found["status"] == "degraded", "the database was not checked yet"
    assert found["providers"] == []
