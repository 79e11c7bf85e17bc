"""Start, refusal to start, reload and graceful stop of the real server."""

import json
import signal
from pathlib import Path

import requests

from tests.support.fake_upstream import Upstream
from tests.support.odd_responses import gated_pieces
from tests.support.proxy_access import ProxyFactory
from tests.support.raw_client import RawClient
from tests.support.raw_requests import error_of
from tests.support.server import MANAGEMENT_TOKEN
from tests.support.wait import wait_until

#: Its head; the bearer and the length are to be filled in.
UPLOAD = (
    b"POST /v1/behave/echo HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %b\r\n"
    b"Content-Length: %b\r\n\r\n"
)


def test_every_bad_setting_is_named_at_once(own_proxy: ProxyFactory) -> None:
    server = own_proxy(
        MANAGEMENT_TOKEN="short",
        ENCRYPTION_KEY="secret-that-is-no-key",
        DATABASE_URL="oracle://u:password@h/d",
        UPSTREAM_READ_TIMEOUT="soon",
        REDIS_URL="redis:/h",
    )
    server.spawn()
    assert server.wait() == 2
    log = server.log_text()
    for name in (
        "MANAGEMENT_TOKEN",
        "ENCRYPTION_KEY",
        "DATABASE_URL",
        "UPSTREAM_READ_TIMEOUT",
        "REDIS_URL",
    ):
        assert f"{name}: " in log
    assert "secret-that-is-no-key" not in log
    assert "password" not in log


def test_an_old_schema_is_refused_with_the_command(own_proxy: ProxyFactory) -> None:
    server = own_proxy()
    server.spawn()
    assert server.wait() == 2
    assert "manage.py db migrate" in server.log_text()


def test_a_database_that_is_away_leaves_the_node_unready(own_proxy: ProxyFactory) -> None:
    server = own_proxy(DATABASE_URL="mysql://u:p@127.0.0.1:9/none", WEB_CONCURRENCY="1")
    server.spawn()
    wait_until(lambda: _status(server.url + "/health") == 200, 60)
    assert _status(server.url + "/ready") == 503
    answer = server.manage("GET", "/projects")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
    assert answer.headers["Retry-After"]
    token = "sk-" + "a" * 22
    answer = requests.get(
        f"{server.url}/v1/models", headers={"Authorization": f"Bearer {token}"}, timeout=30
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")


def test_a_reload_takes_good_settings_and_keeps_the_old_ones_when_bad(
    own_proxy: ProxyFactory,
) -> None:
    server = own_proxy(WEB_CONCURRENCY="1")
    server.migrate()
    dotenv = server.folder / ".env"
    dotenv.write_text("CORS_ALLOWED_ORIGINS=https://one.example\n")
    server.spawn()
    server.wait_ready()
    assert server.process is not None

    def allowed(origin: str) -> bool:
        answer = requests.options(
            f"{server.url}/v1/models",
            headers={"Origin": origin, "Access-Control-Request-Method": "GET"},
            timeout=30,
        )
        return answer.headers.get("Access-Control-Allow-Origin") == origin

    assert allowed("https://one.example")
    dotenv.write_text("CORS_ALLOWED_ORIGINS=not-an-origin\n")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "settings not reloaded: CORS_ALLOWED_ORIGINS" in server.log_text(), 60)
    wait_until(lambda: _status(server.url + "/ready") == 200, 60)
    assert allowed("https://one.example")
    dotenv.write_text("CORS_ALLOWED_ORIGINS=https://two.example\n")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: allowed("https://two.example"), 60)
    assert server.stop() == 0


def test_a_graceful_stop_lets_running_answers_finish(
    own_proxy: ProxyFactory, upstream: Upstream
) -> None:
    server, access = own_proxy.started(WEB_CONCURRENCY="1", GRACEFUL_TIMEOUT="20")
    idle = RawClient(server.port)
    idle.request("GET", "/health")
    assert idle.read_response().status == 200
    probe = RawClient(server.port)  # connected, and not served yet
    running = RawClient(server.port)
    body = json.dumps({"model": "gated", "messages": [], "stream": True}).encode()
    json_type = ("Content-Type", "application/json")
    running.request("POST", "/v1/chat/completions", [access.bearer, json_type], body)
    upstream.gate.release()
    running.read_head()
    assert running.read_chunk()

    server.terminate()
    assert idle.at_end(), "an idle connection is closed at once"
    probe.request("GET", "/ready")
    answer = probe.read_response()
    assert answer.status == 503
    assert json.loads(answer.body)["status"] == "draining"
    assert answer.values("Connection") == ["close"]
    for _ in range(10):
        upstream.gate.release()
    chunks = []
    while chunk := running.read_chunk():
        chunks.append(chunk)
    assert chunk == b"", "the stream ended cleanly"
    assert b"[DONE]" in chunks[-1]
    assert server.wait() == 0
    assert server.events(1)[0]["outcome"] == "completed"


def test_a_stop_that_runs_out_of_time_ends_the_rest_broken(
    own_proxy: ProxyFactory, upstream: Upstream
) -> None:
    server, access = own_proxy.started(WEB_CONCURRENCY="1", GRACEFUL_TIMEOUT="5")
    streams = {
        name: RawClient(server.port) for name in ("silent-midstream", "half-event", "silent")
    }
    for count, (name, client) in enumerate(streams.items(), 1):
        client.request("GET", f"/v1/behave/{name}", [access.bearer])
        wait_until(lambda count=count: len(upstream.received) == count)  # type: ignore[misc]
        if name != "silent":
            client.read_head()
            assert client.read_chunk()
    server.terminate()
    # At an event's border: an error event, then broken.
    closing_event = streams["silent-midstream"].read_chunk()
    assert closing_event is not None
    assert closing_event.startswith(b"event: error\ndata: ")
    assert json.loads(closing_event.split(b"data: ")[1])["error"]["code"] == "draining"
    assert streams["silent-midstream"].read_chunk() is None
    # Within an event: only broken.
    assert streams["half-event"].read_chunk() is None
    # Before the head: an answer in our shape.
    answer = streams["silent"].read_response()
    assert (answer.status, error_of(answer)) == (503, "draining")
    assert server.wait() == 0
    assert {(e["outcome"], e["error_code"]) for e in server.events(3)} == {("aborted", "draining")}


def test_a_client_that_keeps_back_the_rest_of_a_refused_upload_holds_no_stop(
    own_proxy: ProxyFactory, upstream: Upstream
) -> None:
    server, access = own_proxy.started(WEB_CONCURRENCY="1", GRACEFUL_TIMEOUT="30")
    running = RawClient(server.port)
    running.request("GET", "/v1/behave/gated-sse", [access.bearer])
    running.read_head()
    refused = RawClient(server.port)
    refused.send(UPLOAD % (b"none", b"1000") + b"a part")
    answer = refused.read_response()
    assert (answer.status, error_of(answer)) == (401, "invalid_token")
    assert answer.values("Connection") == ["keep-alive"]
    refused.send(b"more")

    server.terminate()
    assert refused.at_end()
    for _ in gated_pieces():
        upstream.gate.release()
    assert running.read_chunk(), "it was not the end of the stop that closed the other"
    assert server.wait() == 0


def test_no_slow_client_keeps_the_last_events_from_being_written(
    own_proxy: ProxyFactory, upstream: Upstream
) -> None:
    """They are, after the last connection has ended, or never if that takes too long."""
    server, access = own_proxy.started(WEB_CONCURRENCY="1", GRACEFUL_TIMEOUT="5")
    upload, head, form = (RawClient(server.port) for _ in range(3))
    upload.send(UPLOAD % (access.token.encode(), b"1000") + b"a part")
    wait_until(lambda: bool(upstream.received) and upstream.received[-1].body == b"a part")
    head.send(b"GET /v1/models HTTP/1.1\r\nHost:")
    manage = UPLOAD.replace(b"/v1/behave/echo", b"/manage/projects")
    form.send(manage % (MANAGEMENT_TOKEN.encode(), b"1000") + b"{")
    server.terminate()
    answer = upload.read_response()
    assert (answer.status, error_of(answer)) == (503, "draining")
    assert head.at_end()
    answer = form.read_response()
    assert (answer.status, error_of(answer)) == (400, "invalid_request")
    assert server.wait() == 0
    (event,) = server.events_so_far()
    assert (event["outcome"], event["error_code"]) == ("aborted", "draining")
    assert "Traceback" not in server.log_text()


def test_projects_that_wait_for_a_cache_are_told_once(own_proxy: ProxyFactory) -> None:
    server = own_proxy(CACHE_TTL="5m").start()
    for number in range(6):
        body = {"name": f"p{number}", "api_key": "sk-upstream-canary-cache", "cache": "on"}
        assert server.manage("POST", "/projects", body).status_code == 201
    assert "CACHE_TTL" not in server.log_text()
    assert server.stop() == 0
    del server.environ["CACHE_TTL"]
    server.spawn()
    server.wait_ready()
    said = [line for line in server.log_text().splitlines() if "CACHE_TTL is not set" in line]
    assert len(said) == 1
    assert "the 6 project(s)" in said[0]
    assert "'p4', …" in said[0]
    refused = server.manage("POST", "/projects", body | {"name": "another"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "cache")
    assert server.stop() == 0


def test_a_file_limit_that_is_too_low_is_told(own_proxy: ProxyFactory) -> None:
    server = own_proxy(WEB_CONCURRENCY="1", WORKER_CONNECTIONS="500", MAX_CONCURRENT_REQUESTS="9")
    server.migrate()
    server.spawn(prefix=["sh", "-c", 'ulimit -S -n 300; ulimit -H -n 900; exec "$@"', "sh"])
    server.wait_ready()
    assert "limit of 900 open files is too low" in server.log_text()
    assert server.process is not None
    limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert line.split()[3] == "900", "the soft limit is raised to the hard one"


def test_events_on_stdout(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(
        EVENT_LOG="stdout", LOG_FILE=str(own_proxy._folder / "app.log")
    )
    with RawClient(server.port) as client:
        client.request("GET", "/v1/models", [access.bearer])
        client.read_response()
    assert server.stop() == 0
    # Each worker writes for itself: in whatever order.
    lines = [json.loads(line) for line in server.log_text().splitlines()]
    assert [line["endpoint"] for line in lines if "endpoint" in line] == ["/v1/models"]
    actions = sorted(line["action"] for line in lines if "endpoint" not in line)
    assert actions == ["project.create", "token.create"]


def test_cors_on_the_wire(own_proxy: ProxyFactory, upstream: Upstream) -> None:
    server, access = own_proxy.started(CORS_ALLOWED_ORIGINS="https://*.example.com")
    with RawClient(server.port) as client:
        origin = ("Origin", "https://app.example.com")
        wish = ("Access-Control-Request-Method", "POST")
        client.request("OPTIONS", "/v1/chat/completions", [origin, wish])
        answer = client.read_response()
        assert answer.status == 204
        assert answer.values("Access-Control-Allow-Origin") == ["https://app.example.com"]
        client.request("GET", "/v1/models", [origin, access.bearer])
        answer = client.read_response()
        assert answer.values("Access-Control-Allow-Origin") == ["https://app.example.com"]
        assert answer.values("Vary") == ["Origin"]
        client.request("GET", "/v1/models", [origin])
        answer = client.read_response()
        assert answer.status == 401
        assert answer.values("Access-Control-Allow-Origin") == ["https://app.example.com"]
    server.events(2)


def test_a_second_start_on_a_taken_port_fails(own_proxy: ProxyFactory) -> None:
    server = own_proxy(WEB_CONCURRENCY="1").start()
    second = own_proxy(WEB_CONCURRENCY="1", PORT=str(server.port))
    second.migrate()
    second.spawn()
    wait_until(lambda: "in use" in second.log_text(), 60)
    second.stop()
    assert _status(server.url + "/health") == 200


def _status(url: str) -> int:
    try:
        return requests.get(url, timeout=5).status_code
    except requests.RequestException:
        return 0
