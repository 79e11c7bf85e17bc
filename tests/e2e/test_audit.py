"""A management session with API, CLI and attempts to get in: exactly its entries, everywhere."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

from proxy.store.audit_chain import verify
from proxy.store.database import Database
from proxy.web.audit_trail import actors
from tests.support import canaries
from tests.support.proxy_access import ProxyFactory
from tests.support.server import MANAGEMENT_TOKEN, UPSTREAM_KEY, ProxyServer
from tests.support.wait import wait_until

SECOND = "another-management-token-of-the-tests"
NEW_KEY = "sk-upstream-canary-new-0123456789abcdef"


def entries(server: ProxyServer, **filters: str) -> list[dict[str, Any]]:
    """Oldest first."""
    found = server.manage("GET", "/audit", params={"page_size": "200", **filters}).json()
    return list(reversed(found["events"]))


def lines(server: ProxyServer) -> list[dict[str, Any]]:
    text = server.event_log.read_text()
    return [json.loads(line) for line in text.splitlines() if '"event":"audit"' in line]


def test_a_session_leaves_exactly_its_entries(own_proxy: ProxyFactory) -> None:
    server = own_proxy(MANAGEMENT_TOKEN=f"{MANAGEMENT_TOKEN},{SECOND}", TRUSTED_PROXIES="1").start()
    canaries.register(NEW_KEY)
    first, second = actors([MANAGEMENT_TOKEN, SECOND])
    headers = {"X-Request-ID": "session-1", "X-Forwarded-For": "6.6.6.6, 203.0.113.7"}

    def call(method: str, path: str, body: Any = None, **more: str) -> requests.Response:
        return server.manage(method, path, body, headers={**headers, **more})

    by_second = {"Authorization": f"Bearer {SECOND}"}
    project = call("POST", "/projects", {"name": "Acme", "api_key": UPSTREAM_KEY}).json()
    path = f"/projects/{project['id']}"
    assert call("PATCH", path, {"api_key": NEW_KEY}, **by_second).status_code == 200
    token = server.mint(project["id"])
    assert call("PATCH", path, {"name": ""}).status_code == 400
    assert server.command("token", "revoke", token["id"]).returncode == 0
    assert call("POST", f"{path}/tokens/revoke").json()["already_revoked_count"] == 1
    assert call("DELETE", path).status_code == 204
    assert server.command("keys", "rotate").returncode == 0  # nothing to do: no entry

    wanted = [
        ("project.create", first, "success"),
        ("project.update", second, "success"),
        ("token.create", first, "success"),
        ("token.revoke", first, "success"),
        ("token.revoke_batch", first, "success"),
        ("project.delete", first, "success"),
    ]

    def seen() -> list[tuple[str, str, str]]:
        return [(e["action"], e["actor"], e["outcome"]) for e in entries(server)]

    wait_until(lambda: len(seen()) == 7)
    # The refused call is written off the path, some time later than it came.
    failure = ("project.update", first, "failure")
    assert [known for known in seen() if known != failure] == wanted
    assert {e["project_id"] for e in entries(server)} == {project["id"]}
    ours = entries(server, request_id="session-1")
    assert len(ours) == 5
    assert {e["client_ip"] for e in ours} == {"203.0.113.7"}
    assert entries(server, action="project.update", outcome="failure")[0]["details"]["param"] == (
        "name"
    )
    (shown,) = json.loads(server.command("audit", "list", "--actor", second, "--json").stdout)[
        "events"
    ]
    masks = ["sk-upstr...CDEF", "sk-upstr...cdef"]
    assert [shown["details"][when]["api_key"] for when in ("before", "after")] == masks
    assert shown["id"] in server.command("audit", "show", shown["id"]).stdout

    verified = server.command("audit", "verify")
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "7 entries, the chain is whole" in verified.stdout
    assert server.stop() == 0
    assert sorted(line["seq"] for line in lines(server)) == list(range(1, 8))
    database = Database.from_url(f"sqlite:///{server.folder / 'data' / 'proxy.db'}")
    table = database.run(lambda session: session.all("SELECT * FROM audit_events"), readonly=True)
    database.close()
    assert len(table) == 7
    assert token["token"] in canaries.SECRETS
    assert list(canaries.found_in(repr(table))) == []


def test_attempts_to_get_in(own_proxy: ProxyFactory) -> None:
    """Thousands of guesses, two entries a minute and worker at the most; and good ones none."""
    server, access = own_proxy.started(WEB_CONCURRENCY="1")
    before = len(entries(server))
    guess = {"Authorization": "Bearer a-guess-that-is-wrong"}

    def attempt(number: int) -> int:
        where = "/manage/projects" if number % 2 else "/v1/models"
        return requests.get(server.url + where, headers=guess, timeout=30).status_code

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(attempt, range(200))) == {401}
    assert attempt(1) == 401
    good = {"Authorization": f"Bearer {access.token}"}
    assert requests.get(f"{server.url}/v1/models", headers=good, timeout=30).status_code == 200

    def places() -> set[str]:
        return {e["details"]["where"] for e in entries(server, action="auth.denied")}

    wait_until(lambda: places() == {"/manage", "/v1"})
    server.events(101)  # all of them have been looked at
    assert server.stop() == 0
    found = [line for line in lines(server) if line["action"] == "auth.denied"]
    assert len(found) <= 4
    assert len(lines(server)) == before + len(found)
    counts = {"/manage": 0, "/v1": 0}
    for line in found:
        assert (line["actor"], line["outcome"]) == ("anonymous", "denied")
        assert line["client_ip"] == "127.0.0.1"
        counts[line["details"]["where"]] += line["details"]["count"]
    assert counts == {"/manage": 101, "/v1": 100}
    assert "a-guess" not in json.dumps(found)


def test_two_nodes_write_one_chain(own_proxy: ProxyFactory, mysql_url: str) -> None:
    settings = {"DATABASE_URL": mysql_url, "WEB_CONCURRENCY": "2"}
    first, access = own_proxy.started(**settings)
    second = own_proxy(**settings).start()
    count = 30

    def change(number: int) -> int:
        server = (first, second)[number % 2]
        if number % 3:
            path = f"/projects/{access.project_id}"
            return server.manage("PATCH", path, {"description": str(number)}).status_code
        server.mint(access.project_id, name=str(number))
        return 200

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(change, range(count))) == {200}
    database = Database.from_url(mysql_url)
    verdict = verify(database)
    database.close()
    assert (verdict.broken, verdict.checked) == (None, count + 2)
    seen = [entry["seq"] for entry in entries(second)]
    assert seen == list(range(1, count + 3))
