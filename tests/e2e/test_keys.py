"""Encryption keys with a server running: a rotation goes unnoticed, a lost key is one project's."""

import base64
import json
import sqlite3
from contextlib import closing
from typing import Any

import gevent
import requests

from proxy.crypto.cipher import Cipher
from tests.support.fake_upstream import Upstream
from tests.support.proxy_access import ProxyFactory
from tests.support.server import UPSTREAM_KEY, ProxyServer
from tests.support.wait import wait_until

OLD, NEW = (base64.b64encode(letter * 32).decode() for letter in (b"o", b"n"))


def ask(server: ProxyServer, token: str) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return requests.get(f"{server.url}/v1/models", headers=headers, timeout=30)


def test_a_project_under_an_unknown_key_fails_alone(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(WEB_CONCURRENCY="1")  # each worker logs a line
    lost = server.create_project("lost")
    token = server.mint(lost["id"])["token"]
    place = {"table": "projects", "column": "upstream_key", "row_id": lost["id"]}
    stored = Cipher(b"l" * 32).encrypt("sk-lost-upstream-key", **place)
    with closing(sqlite3.connect(server.folder / "data" / "proxy.db")) as connection:
        connection.execute(
            "UPDATE projects SET upstream_key = ? WHERE id = ?", (stored, lost["id"])
        )
        connection.commit()
    for _ in range(2):
        refused = ask(server, token)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "store_unavailable"
        assert refused.headers["x-should-retry"] == "false"
        assert lost["id"] not in refused.text
        assert "projects" not in refused.text
        assert ask(server, access.token).status_code == 200
    entries = [json.loads(line) for line in server.log_text().splitlines()]
    said = [entry["message"] for entry in entries if entry["level"] == "error"]
    assert len(said) == 1, "a line for the project, not for each request"
    assert lost["id"] in said[0]
    assert "encrypted with another key" in said[0]
    assert "ENCRYPTION_KEYS_PREVIOUS" in said[0]
    assert stored[12:] not in server.log_text()
    # The management API goes on, and a new key heals it.
    assert server.manage("GET", "/projects").status_code == 200
    change = {"api_key": UPSTREAM_KEY}
    assert server.manage("PATCH", f"/projects/{lost['id']}", change).status_code == 200
    assert ask(server, token).status_code == 200


def ready(server: ProxyServer) -> Any:
    return requests.get(f"{server.url}/ready", timeout=30).json()


def test_a_wrong_key_is_reported_at_the_start_and_by_ready(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(ENCRYPTION_KEY=OLD, WEB_CONCURRENCY="1")
    server.create_project("another")
    assert "keys" not in ready(server)
    assert server.stop() == 0
    server.environ["ENCRYPTION_KEY"] = NEW
    server.spawn()
    server.wait_ready()
    wait_until(lambda: ready(server).get("keys") == "2 of 2 rows cannot be read")
    entries = [json.loads(line) for line in server.log_text().splitlines()]
    said = [each["message"] for each in entries if each["message"].startswith("keys: 2 of 2 rows")]
    assert len(said) == 1
    assert Cipher(b"o" * 32).key_id in said[0]
    assert "ENCRYPTION_KEYS_PREVIOUS" in said[0]
    assert ask(server, access.token).status_code == 503


def test_rotating_while_serving(own_proxy: ProxyFactory, upstream: Upstream) -> None:
    server, access = own_proxy.started(ENCRYPTION_KEY=OLD, AUTH_CACHE_TTL="0")
    for number in range(20):
        server.create_project(f"more-{number}")
    assert server.stop() == 0
    server.environ |= {"ENCRYPTION_KEY": NEW, "ENCRYPTION_KEYS_PREVIOUS": OLD}
    server.spawn()
    server.wait_ready()
    running = True
    answers: list[int] = []

    def go_on() -> None:
        while running:
            answers.append(ask(server, access.token).status_code)

    clients = [gevent.spawn(go_on) for _ in range(4)]
    try:
        rotated = server.command("keys", "rotate", "--json")  # the clients go on
        gevent.sleep(0.5)
    finally:
        running = False
        gevent.joinall(clients, raise_error=True)
    assert rotated.returncode == 0, rotated.stderr
    assert json.loads(rotated.stdout)["rotated"] == 21
    assert set(answers) == {200}
    assert upstream.received[-1].values("authorization") == [f"Bearer {UPSTREAM_KEY}"]
    assert server.stop() == 0
    # Without the old key.
    del server.environ["ENCRYPTION_KEYS_PREVIOUS"]
    server.spawn()
    server.wait_ready()
    assert ask(server, access.token).status_code == 200
