"""`AUTH_MODE=passthrough`: the client's key goes through, and nothing of it stays."""

import json
import re
from pathlib import Path

import pytest
import requests
from wsproto.events import AcceptConnection, Request

from tests.support import canaries
from tests.support.fake_upstream import Upstream
from tests.support.proxy_access import ProxyFactory
from tests.support.raw_client import RawClient, RawResponse
from tests.support.realtime import DONE, Client, Realtime, opening
from tests.support.server import MANAGEMENT_TOKEN, ProxyServer

#: In no form that anybody would know a secret by; and one that a leak's first letters would show.
ODD_KEY = "corporate key, of no known form: Ä{}\"' 1234567890"
KEY = "sk-proj-passthrough-canary-0123456789abcdef"


@pytest.fixture
def node(own_proxy: ProxyFactory) -> ProxyServer:
    canaries.register(KEY, ODD_KEY, ODD_KEY[:20], KEY[3:23])
    server = own_proxy(AUTH_MODE="passthrough", LOG_LEVEL="debug", ACCESS_LOG="on")
    server.spawn()
    server.wait_ready()
    return server


def ask(
    server: ProxyServer, authorization: str | None, target: str = "/v1/models", method: str = "GET"
) -> RawResponse:
    lines = [] if authorization is None else [("Authorization", authorization)]
    with RawClient(server.port) as client:
        client.request(method, target, lines)
        return client.read_response(method)


def test_what_comes_goes(upstream: Upstream, node: ProxyServer) -> None:
    for given in (
        None,
        f"Bearer {KEY}",
        f"bearer   {KEY}",
        "Basic dXNlcjpwYXNzd29yZA==",
        ODD_KEY,
        "Bearer sk-" + "a" * 22,
    ):
        upstream.reset()
        assert ask(node, given).status == 200
        (sent,) = upstream.received
        assert sent.values("Authorization") == ([] if given is None else [given])
        (event,) = node.events(1)
        assert (event["project_id"], event["token_id"]) == (None, None)
        assert event["outcome"] == "completed"
        name = event["token"]
        assert name is None if given is None else re.fullmatch("key-[0-9a-f]{16}", name)


def test_both_workers_and_a_restart_call_a_key_the_same(node: ProxyServer) -> None:
    for _ in range(12):
        ask(node, f"Bearer {KEY}")
    assert node.stop() == 0
    node.spawn()
    node.wait_ready()
    ask(node, f"Bearer {KEY}")
    ask(node, "Bearer another")
    names = [event["token"] for event in node.events(14)]
    assert len(set(names[:13])) == 1
    assert names[13] not in names[:13]


def test_no_database_is_made_or_missed(
    own_proxy: ProxyFactory, node: ProxyServer, tmp_path: Path
) -> None:
    assert ask(node, f"Bearer {KEY}").status == 200
    ready = requests.get(f"{node.url}/ready", timeout=10).json()
    assert (ready["status"], ready["database"]) == ("ready", "not used")
    assert not list(Path(node.environ["DATA_DIR"]).glob("*.db*"))
    metrics = requests.get(f"{node.url}/metrics", timeout=10).text
    assert "\nproxy_requests_in_flight " in metrics
    # Alerts stand on these.
    assert "\nproxy_database_up " not in metrics
    assert "\nproxy_revocation_poll_age_seconds " not in metrics
    # Not even where there is none.
    away = own_proxy(AUTH_MODE="passthrough", DATABASE_URL="mysql://u:p@127.0.0.1:9/none")
    away.spawn()
    away.wait_ready()
    assert ask(away, f"Bearer {KEY}").status == 200
    assert "database" not in re.sub("the database are not used", "", away.log_text())


def test_the_server_says_what_it_does_and_what_it_has_not(node: ProxyServer) -> None:
    assert node.log_text().count("AUTH_MODE=passthrough") == 1
    for method, path in (("GET", "/projects"), ("POST", "/tokens"), ("GET", "/usage")):
        answer = node.manage(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert "AUTH_MODE=passthrough" in answer.json()["error"]["message"]
    assert requests.get(f"{node.url}/manage/projects", timeout=10).status_code == 401
    minted = requests.post(f"{node.url}/v1/proxy/tokens", json={"duration_minutes": 5}, timeout=10)
    assert (minted.status_code, minted.json()["error"]["code"]) == (404, "endpoint_not_found")
    assert "AUTH_MODE=passthrough" in minted.json()["error"]["message"]
    environ = {**node.environ, "MANAGEMENT_TOKEN": MANAGEMENT_TOKEN}
    done = node.command("project", "list", environ=environ)
    assert done.returncode == 1
    assert "AUTH_MODE=passthrough" in done.stderr


def test_keys_stay_out_of_everything_that_is_written(node: ProxyServer, upstream: Upstream) -> None:
    """Also where something fails; the suite's own search runs at the end of the session."""
    for key in (f"Bearer {KEY}", ODD_KEY):
        ask(node, key)
        ask(node, key, "/v1/a/../b")
        ask(node, key, "/v1/nothing-like-this?key=none", "PURGE")
    assert node.stop() == 0
    broken = ProxyServer(node.folder / "broken", "http://127.0.0.1:9", AUTH_MODE="passthrough")
    broken.spawn()
    broken.wait_ready()
    assert ask(broken, ODD_KEY).status == 502
    assert KEY not in ask(broken, f"Bearer {KEY}").body.decode()
    assert broken.stop() == 0
    files = list(canaries.outputs(node.folder))
    assert {node.log, node.event_log, broken.log, broken.event_log} <= set(files)
    assert canaries.leaks(files) == []
    tokens = [event["token"] for event in [*node.events(6), *broken.events(2)]]
    assert None not in tokens


def test_a_browser_s_key_stays_in_its_subprotocol(
    own_proxy: ProxyFactory, realtime: Realtime
) -> None:
    canaries.register(KEY)
    server = own_proxy(AUTH_MODE="passthrough", UPSTREAM_BASE_URL=realtime.url)
    server.spawn()
    server.wait_ready()
    protocols = ["realtime", f"openai-insecure-api-key.{KEY}", "openai-beta.realtime-v1"]
    request = Request(host="t", target="/v1/realtime", subprotocols=protocols)
    for opened in (request, opening(KEY)):
        client = Client(server.port, opened)
        assert isinstance(client.next(), AcceptConnection)
        client.text()
        client.send("done")
        assert json.loads(client.text()) == DONE
        client.sock.close()
        assert realtime.closed.wait(20)
        realtime.closed.clear()
    by_protocol, by_header = realtime.requests
    assert by_protocol.subprotocols == protocols
    assert "authorization" not in {name.lower() for name, _ in by_protocol.extra_headers}
    lines = {name.lower(): value for name, value in by_header.extra_headers}
    assert lines[b"authorization"] == f"Bearer {KEY}".encode()
    first, second = server.events(2)
    assert first["token"] == second["token"] is not None
    assert first["metadata"]["total_tokens"] == 9


def test_without_any_sink_the_spool_does_not_grow(own_proxy: ProxyFactory) -> None:
    server = own_proxy(AUTH_MODE="passthrough", EVENT_LOG="off")
    spool = Path(server.environ["DATA_DIR"]) / "spool"
    left: list[Path] = []
    for _ in range(3):
        server.spawn()
        server.wait_ready()
        for _ in range(5):
            assert ask(server, f"Bearer {KEY}").status == 200
        assert server.stop() == 0
        left = [path for path in spool.iterdir() if path.is_dir()]
        if not left:
            break
        # The disk was too slow for a stop, and what is left is the next start's.
    assert left == []
