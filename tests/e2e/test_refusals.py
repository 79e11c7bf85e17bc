"""What we refuse: the shape, the status, one event, and not a byte upstream."""

from email.utils import parsedate_to_datetime

import pytest

from tests.support.fake_upstream import Upstream
from tests.support.proxy_access import Access, Call, ProxyFactory
from tests.support.raw_client import RawClient, RawResponse
from tests.support.raw_requests import error_of
from tests.support.server import MANAGEMENT_TOKEN, UPSTREAM_KEY, ProxyServer
from tests.support.wait import wait_until

JSON = ("Content-Type", "application/json")


def ask(port: int, request: bytes) -> RawResponse:
    with RawClient(port) as client:
        client.send(request)
        return client.read_response()


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "invalid_token"),
        ("", "invalid_token"),
        ("Basic abc", "invalid_token"),
        ("Bearer", "invalid_token"),
        ("Bearer sk-short", "invalid_token"),
        ("Bearer sk-" + "x" * 23, "invalid_token"),
        ("Bearer pk-" + "x" * 22, "invalid_token"),
        ("Bearer sk-" + "\xe9" * 22, "invalid_token"),
        (f"Bearer {MANAGEMENT_TOKEN}", "invalid_token"),
        ("Bearer sk-" + "x" * 22, "token_not_found"),
    ],
)
def test_bad_tokens(
    proxy: ProxyServer, upstream: Upstream, authorization: str | None, code: str
) -> None:
    with RawClient(proxy.port) as client:
        headers = [] if authorization is None else [("Authorization", authorization)]
        client.request("POST", "/v1/chat/completions", [*headers, JSON], b"{}")
        answer = client.read_response()
    assert (answer.status, error_of(answer)) == (401, code)
    assert not upstream.received
    (event,) = proxy.events(1)
    assert (event["outcome"], event["error_code"], event["status_code"]) == ("rejected", code, 401)
    assert event["token"] is None


def test_a_refused_connection_goes_on(proxy: ProxyServer, access: Access) -> None:
    """The small body of a refused request is skipped, and the next one is served."""
    with RawClient(proxy.port) as client:
        client.request("POST", "/v1/chat/completions", [JSON], b"{}" * 100)
        assert client.read_response().status == 401
        client.request("GET", "/v1/models", [access.bearer])
        assert client.read_response().status == 200
    proxy.events(2)


def test_revoked_expired_inactive_and_used_up(own_proxy: ProxyFactory, upstream: Upstream) -> None:
    server, access = own_proxy.started(AUTH_CACHE_TTL="0")

    def get(token: str) -> tuple[int, str]:
        answer = ask(
            server.port,
            f"GET /v1/models HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n".encode(),
        )
        return answer.status, "" if answer.status == 200 else error_of(answer)

    assert get(access.token) == (200, "")
    revoked = server.mint(access.project_id)
    server.manage("DELETE", f"/tokens/{revoked['id']}")
    assert get(revoked["token"]) == (401, "token_inactive")

    limited = server.mint(access.project_id, max_requests=2)
    assert [get(limited["token"]) for _ in range(3)] == [
        (200, ""),
        (200, ""),
        (429, "quota_exceeded"),
    ]
    shown = server.manage("GET", f"/tokens/{limited['id']}").json()
    assert shown["request_count"] == 2
    assert shown["last_used_at"]

    server.manage("PATCH", f"/projects/{access.project_id}", {"is_active": False})
    assert get(access.token) == (403, "project_inactive")
    events = server.events(6)
    assert {event["project_id"] for event in events} == {access.project_id}
    # Each worker writes its own, so that they come in any order.
    by_code = {event["error_code"]: event for event in events}
    assert by_code["token_inactive"]["token_id"] == revoked["id"]
    assert sorted(event["error_code"] or "" for event in events) == [
        "",
        "",
        "",
        "project_inactive",
        "quota_exceeded",
        "token_inactive",
    ]
    assert len(upstream.received) == 3


def test_uses_of_an_unlimited_token_are_counted_by_the_stop(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started()
    request = f"GET /v1/models HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {access.token}\r\n\r\n"
    for _ in range(5):
        assert ask(server.port, request.encode()).status == 200
    assert server.stop() == 0
    server.start()
    assert server.manage("GET", f"/tokens/{access.token_id}").json()["request_count"] == 5


def test_quota_refusal_tells_the_sdk_not_to_retry(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started()
    limited = server.mint(access.project_id, max_requests=1)["token"]
    request = f"GET /v1/models HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {limited}\r\n\r\n"
    ask(server.port, request.encode())
    answer = ask(server.port, request.encode())
    assert answer.status == 429
    assert answer.values("x-should-retry") == ["false"]
    assert not answer.values("Retry-After")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET\r\n\r\n", 400),
        (b"GET /v1/models HTTP/9.9\r\n\r\n", 400),
        (b"G@T /v1/models HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (
            b"GET /v1/models HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
        ),
        (
            b"GET /v1/m HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n"
            + b"Transfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (b"GET /v1/models HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nHost: h\r\nX_Real_IP: 1\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nHost: h\r\nbad name: b\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\nHost: a\n\n", 400),
        (b"GET /v1/models HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nHost: secret@h\r\n\r\n", 400),
        (b"GET /v1/models#secret HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /v1/\xe4 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"CONNECT evil:443 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /v1/" + b"a" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
        (b"GET /v1/models HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 40000 + b"\r\n\r\n", 431),
        (b"GET /v1/models HTTP/1.1\r\nHost: h\r\n" + b"X: a\r\n" * 150 + b"\r\n", 431),
        (b"POST /v1/m HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, secret-coding\r\n\r\n", 501),
        (
            b"POST /v1/m HTTP/1.1\r\nHost:h\r\nExpect: secret-wish\r\nContent-Length: 1\r\n\r\n",
            417,
        ),
    ],
)
def test_what_the_parser_refuses(
    proxy: ProxyServer, upstream: Upstream, head: bytes, status: int
) -> None:
    answer = ask(proxy.port, head)
    assert (answer.status, error_of(answer)) == (status, "invalid_request")
    assert b"secret" not in answer.body
    assert answer.values("Connection") == ["close"]
    assert parsedate_to_datetime(answer.values("Date")[0])
    assert not upstream.received
    proxy.events(0, timeout=0.05)


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT"])
def test_methods_that_would_hand_out_the_upstream_key(
    call: Call, proxy: ProxyServer, upstream: Upstream, method: str
) -> None:
    """With a good token as without one: 405, and the upstream is not asked."""
    for answer in (
        call.relayed(method, "/v1/behave/echo"),
        ask(proxy.port, f"{method} /v1/behave/echo HTTP/1.1\r\nHost: t\r\n\r\n".encode()),
    ):
        assert (answer.status, error_of(answer)) == (405, "method_not_allowed")
        assert answer.values("Allow") == ["GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"]
        assert UPSTREAM_KEY.encode() not in answer.body
    assert not upstream.received
    for event in proxy.events(2):
        assert (event["method"], event["error_code"]) == (method, "method_not_allowed")


def test_options_with_counted_hops(call: Call, proxy: ProxyServer, upstream: Upstream) -> None:
    answer = call.relayed("OPTIONS", "/v1/behave/echo", [("Max-Forwards", "0")])
    assert (answer.status, answer.body) == (204, b"")
    assert not upstream.received
    call.relayed("OPTIONS", "/v1/behave/echo", [("Max-Forwards", "3")])
    assert call.last().values("Max-Forwards") == ["2"]
    first, _ = proxy.events(2)
    assert (first["status_code"], first["outcome"]) == (204, "completed")


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/v1/../manage/projects", 400, "invalid_request"),
        ("/v1/%2e%2e/manage/projects", 400, "invalid_request"),
        ("/v1/a/%2E%2E/b", 400, "invalid_request"),
        ("/v1/a/..%2fb", 400, "invalid_request"),
        ("/v1/./models", 400, "invalid_request"),
        ("/%761/models", 404, "endpoint_not_found"),
        ("//v1/models", 404, "endpoint_not_found"),
        ("/v1", 404, "endpoint_not_found"),
    ],
)
def test_paths_that_could_become_another(
    call: Call, proxy: ProxyServer, target: str, status: int, code: str
) -> None:
    answer = call.relayed("GET", target)
    assert (answer.status, error_of(answer)) == (status, code)
    assert not call.upstream.received
    assert proxy.events(1)[0]["outcome"] == "rejected"


def test_absolute_targets_are_refused(proxy: ProxyServer, upstream: Upstream) -> None:
    answer = ask(proxy.port, b"GET http://evil/v1/models HTTP/1.1\r\nHost: t\r\n\r\n")
    assert (answer.status, error_of(answer)) == (400, "invalid_request")
    assert not upstream.received


@pytest.mark.parametrize("target", ["/v2/models", "/", "/manage", "/health/x"])
def test_other_paths_are_404_in_our_shape(call: Call, proxy: ProxyServer, target: str) -> None:
    answer = call.relayed("GET", target)
    assert (answer.status, error_of(answer)) == (404, "not_found")
    assert not call.upstream.received
    proxy.events(0, timeout=0.05)


def test_management_in_our_shape(proxy: ProxyServer) -> None:
    with RawClient(proxy.port) as client:
        client.request("GET", "/manage/projects", [("Authorization", "Bearer wrong")])
        answer = client.read_response()
        assert (answer.status, error_of(answer)) == (401, "invalid_management_token")
        good = ("Authorization", f"Bearer {MANAGEMENT_TOKEN}")
        client.request("PUT", "/manage/projects", [good])
        answer = client.read_response()
        assert (answer.status, error_of(answer)) == (405, "method_not_allowed")
        assert "GET" in answer.values("Allow")[0]
        client.request("POST", "/manage/projects", [good, JSON], b"{")
        answer = client.read_response()
        assert (answer.status, error_of(answer)) == (400, "invalid_request")


# Bodies.


def test_a_truncated_upload_is_never_completed_upstream(
    proxy: ProxyServer, upstream: Upstream, access: Access
) -> None:
    with RawClient(proxy.port) as client:
        client.send(
            b"POST /v1/behave/echo HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n"
            b"Authorization: Bearer " + access.token.encode() + b"\r\n\r\nonly this"
        )
        wait_until(lambda: bool(upstream.received) and upstream.received[-1].body == b"only this")
        client.sock.shutdown(1)
        answer = client.read_response()
    assert (answer.status, error_of(answer)) == (400, "invalid_request")
    assert not upstream.received[-1].complete
    (event,) = proxy.events(1)
    assert (event["outcome"], event["bytes_in"]) == ("rejected", 9)


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 100\r\n\r\n{",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    ],
)
def test_a_broken_json_body_never_goes_upstream(
    proxy: ProxyServer, upstream: Upstream, access: Access, framing: bytes
) -> None:
    with RawClient(proxy.port) as client:
        client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer " + access.token.encode() + b"\r\n" + framing
        )
        client.sock.shutdown(1)
        answer = client.read_response()
    assert (answer.status, error_of(answer)) == (400, "invalid_request")
    assert not upstream.received
    proxy.events(1)


def test_a_badly_chunked_upload_is_cut(
    proxy: ProxyServer, upstream: Upstream, access: Access
) -> None:
    with RawClient(proxy.port) as client:
        client.send(
            b"POST /v1/behave/echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n"
            b"Authorization: Bearer " + access.token.encode() + b"\r\n\r\n3\r\nabc\r\n"
        )
        wait_until(lambda: bool(upstream.received) and upstream.received[-1].body == b"abc")
        client.send(b"zz\r\n")
        answer = client.read_response()
    assert (answer.status, error_of(answer)) == (400, "invalid_request")
    assert not upstream.received[-1].complete
    proxy.events(1)


def test_size_limits(own_proxy: ProxyFactory, upstream: Upstream) -> None:
    server, access = own_proxy.started(MAX_REQUEST_BYTES="1000", MAX_JSON_BYTES="100")

    def post(content_type: str, framing: bytes) -> RawResponse:
        return ask(
            server.port,
            b"POST /v1/behave/echo HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer "
            + access.token.encode()
            + b"\r\nContent-Type: "
            + content_type.encode()
            + b"\r\n"
            + framing,
        )

    # Announced: refused before a byte of the body has been sent.
    for content_type, length in (("application/json", 101), ("text/plain", 1001)):
        answer = post(content_type, b"Content-Length: %d\r\n\r\n" % length)
        assert (answer.status, error_of(answer)) == (413, "request_too_large")
    # Counted.
    chunk = b"Transfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101 + b"\r\n"
    answer = post("application/json; charset=utf-8", chunk)
    assert (answer.status, error_of(answer)) == (413, "request_too_large")
    assert not upstream.received
    answer = post(
        "text/plain", b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001 + b"\r\n"
    )
    assert (answer.status, error_of(answer)) == (413, "request_too_large")
    assert not any(request.complete for request in upstream.received)
    # Within.
    assert post("application/json", b"Content-Length: 100\r\n\r\n" + b"1" * 100).status == 200
    assert post("text/plain", b"Content-Length: 1000\r\n\r\n" + b"1" * 1000).status == 200
    assert [e["outcome"] for e in server.events(6)] == ["rejected"] * 4 + ["completed"] * 2


def test_expect_continue_is_answered_only_for_who_may_come_in(
    proxy: ProxyServer, upstream: Upstream, access: Access
) -> None:
    def head(token: str) -> bytes:
        return (
            b"POST /v1/behave/echo HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n"
            b"Expect: 100-continue\r\nAuthorization: Bearer " + token.encode() + b"\r\n\r\n"
        )

    with RawClient(proxy.port) as client:
        client.send(head("sk-" + "x" * 22))
        line, headers = client.read_head()
        assert " 401 " in line, "refused before the body, without a 100"
        assert ("Connection", "close") in headers
    with RawClient(proxy.port) as client:
        client.send(head(access.token))
        assert client.read_head()[0] == "HTTP/1.1 100 Continue"
        client.send(b"body")
        assert client.read_response().status == 200
    assert not upstream.received[-1].values("Expect")
    proxy.events(2)


def test_slow_clients_are_cut(own_proxy: ProxyFactory, upstream: Upstream) -> None:
    server, access = own_proxy.started(CLIENT_TIMEOUT="0.5")
    answer = ask(server.port, b"GET /v1/models HTTP/1.1\r\nHost:")
    assert (answer.status, error_of(answer)) == (408, "request_timeout")
    answer = ask(
        server.port,
        b"POST /v1/behave/echo HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n"
        b"Authorization: Bearer " + access.token.encode() + b"\r\n\r\n123",
    )
    assert (answer.status, error_of(answer)) == (408, "request_timeout")
    assert not upstream.received[-1].complete
    (event,) = server.events(1)
    assert (event["outcome"], event["error_code"]) == ("rejected", "request_timeout")


def test_full_is_503_at_once_and_health_answers(
    own_proxy: ProxyFactory, upstream: Upstream
) -> None:
    server, access = own_proxy.started(
        WEB_CONCURRENCY="1", MAX_CONCURRENT_REQUESTS="2", WORKER_CONNECTIONS="10"
    )
    waiting = [RawClient(server.port) for _ in range(2)]
    for number, client in enumerate(waiting, 1):
        client.request("GET", "/v1/behave/silent", [access.bearer])
        wait_until(lambda count=number: len(upstream.received) == count)  # type: ignore[misc]
    with RawClient(server.port) as client:
        client.request("GET", "/v1/models", [access.bearer])
        answer = client.read_response()
        assert (answer.status, error_of(answer)) == (503, "overloaded")
        assert answer.values("Retry-After")
        client.request("GET", "/health")
        assert client.read_response().status == 200
    for client in waiting:
        client.sock.close()
    server.events(3)
    with RawClient(server.port) as client:
        client.request("GET", "/v1/models", [access.bearer])
        assert client.read_response().status == 200, "the slots are free again"
