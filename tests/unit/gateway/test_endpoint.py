"""The relay endpoint: its order, and one event however a request ends."""

import json
import logging
import re
from collections.abc import Callable
from typing import Any

import gevent
import gevent.socket
import pytest

from proxy.auth.authenticator import Authenticator
from proxy.core.errors import (
    CipherError,
    ClientError,
    ConnectFailed,
    ProxyError,
    ResponseBroken,
    StoreError,
    UpstreamTimeout,
)
from proxy.gateway.inflight import ClientDisconnected, ShuttingDown, TokenRevoked
from proxy.quota.budgets import Budgets
from proxy.ratelimit.request_limiter import Rates
from tests.support.clock import Clock
from tests.support.grants import PAST, START, Store
from tests.support.grants import SECRET as STORED_SECRET
from tests.support.limiter_factories import Limited
from tests.support.process_holds import process_holds
from tests.support.relay_factories import (
    ALLOWING,
    ASKED,
    CHAT,
    EVENT,
    JSON,
    JSON_BODY,
    ORIGIN,
    SECRET,
    SSE,
    UPSTREAM_KEY,
    USAGE,
    Access,
    FakeResponse,
    Input,
    Result,
    World,
    chunked,
    environ,
    failing,
    limits,
    serve,
    sized,
)


def code(result: Result) -> str:
    return str(json.loads(result.body)["error"]["code"])


# What passes.


def test_a_response_passes() -> None:
    world = World()
    result = world.ask("POST", "/v1/chat/completions?a=%2F", **sized(b'{"a":', b"1}"))
    assert (result.status, result.chunks, result.error) == ("200 OK", [b"", CHAT], None)
    assert result.headers[:3] == JSON
    assert [name for name, _ in result.headers[3:]] == [
        "X-Proxy",
        "X-Proxy-Request-ID",
        "Server-Timing",
        "X-Upstream-Request-Start",
        "X-Upstream-Request-Stop",
    ]
    assert re.fullmatch(
        r"auth;dur=[\d.]+, queue;dur=[\d.]+, upstream;dur=[\d.]+", result.one("Server-Timing")
    )
    (call,) = world.transport.calls
    assert call.url == "http://upstream.test/v1/chat/completions?a=%2F"
    assert call.request.headers == [
        ("Host", "upstream.test"),
        ("Content-Type", "application/json"),
        ("Content-Length", "7"),
        ("Authorization", f"Bearer {UPSTREAM_KEY}"),
    ]
    assert world.transport.bodies == [b'{"a":1}']
    assert (world.response.closed, len(world.in_flight)) == (1, 0)
    assert world.access.steps == ["authenticate", "take_quota"]


def test_its_event() -> None:
    world = World()
    world.ask("POST", "/v1/chat/completions", **sized(b"{}"))
    event = world.event
    assert (event.status_code, event.outcome, event.error_code) == (200, "completed", None)
    assert (event.bytes_in, event.bytes_out) == (2, len(CHAT))
    assert (event.usage_source, event.metadata["total_tokens"]) == ("reported", 21)
    assert (event.token_id, event.project_id) == ("token-1", "project-1")
    assert event.upstream_ms is not None
    assert event.ttfb_ms is not None
    assert event.duration_ms >= event.ttfb_ms


def test_an_upstream_s_error_is_a_response() -> None:
    response = FakeResponse([b'{"error":{}}'], status=429, reason="Slow down", headers=JSON)
    world = World(response)
    result = world.ask()
    assert (result.status, result.body) == ("429 Slow down", b'{"error":{}}')
    assert (world.event.outcome, world.event.error_code) == ("completed", None)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("/v1/files/a%2Fb", "/v1/files/a%2Fb"),
        ("/v1//chat//completions", "/v1//chat//completions"),
        ("/v1/files/%zz?x=../..", "/v1/files/%zz?x=../.."),
        ("/v1/", "/v1/"),
        ("/v1/a#b", "/v1/a#b"),
    ],
)
def test_targets_pass_byte_for_byte(given: str, url: str) -> None:
    world = World()
    assert world.ask("GET", given).code == 200
    assert world.transport.calls[0].url == f"http://upstream.test{url}"


def test_bodies() -> None:
    for request, sent, line in [
        (sized(b"{}"), b"{}", ("Content-Length", "2")),
        (chunked(b"{", b"}"), b"{}", ("Content-Length", "2")),
        (sized(), b"", ("Content-Length", "0")),
        (sized(b"ab", b"c", headers=[]), b"abc", ("Content-Length", "3")),
        (sized(headers=[]), b"", ("Content-Length", "0")),
        (chunked(b"ab", b"c", headers=[]), b"abc", ("Transfer-Encoding", "chunked")),
        ({}, None, None),
    ]:
        world = World()
        assert world.ask("POST", **request).code == 200
        assert world.transport.bodies == [sent]
        framing = [
            item
            for item in world.transport.calls[0].request.headers
            if item[0] in ("Content-Length", "Transfer-Encoding")
        ]
        assert framing == ([line] if line else [])
        assert world.event.bytes_in == len(sent or b"")


@pytest.mark.parametrize(
    ("content_type", "buffered"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/vnd.x+json", True),
        ("application/jsonl", False),
        ("multipart/form-data; boundary=x", False),
    ],
)
def test_only_json_is_read_before_the_upstream_is_asked(content_type: str, buffered: bool) -> None:
    world = World()
    world.ask("POST", **sized(b"{}", headers=[("Content-Type", content_type)]))
    assert isinstance(world.transport.calls[0].request.body, bytes) is buffered


def test_a_request_is_noted_before_the_upstream_is_asked() -> None:
    begun: list[tuple[Any, ...]] = []

    def response() -> FakeResponse:
        begun.extend(world.events.intents)
        return FakeResponse()

    world = World(response)
    world.ask("POST", "/v1/chat?q=secret", **sized(b"{}"))
    ((event_id, started, *rest),) = begun
    assert rest == [
        world.event.request_id,
        "project-1",
        "token-1",
        "sk-aaaa...aaaa",
        "/v1/chat",
        "POST",
        "192.0.2.1",
    ]
    event = world.event
    assert (event.event_id, event.started, event.slot) == (event_id, started, 0)


# What is refused, and in which order.


def test_order_of_checks() -> None:
    """Each request is wrong in several ways; the first check that fails is reported."""
    bad_path = "/v1/../x"
    large = sized(b"x" * 2000)
    quota = ClientError(code="quota_exceeded", headers=[("x-should-retry", "false")])
    revoked = ClientError(code="token_inactive")
    for draining, full, refusal, target, body, expected, steps in [
        (True, True, revoked, bad_path, large, "draining", []),
        (False, True, revoked, bad_path, large, "overloaded", []),
        (False, False, revoked, bad_path, large, "token_inactive", ["authenticate"]),
        (False, False, None, bad_path, large, "invalid_request", ["authenticate"]),
        (False, False, None, "/v1/x", large, "request_too_large", ["authenticate"]),
        (
            False,
            False,
            None,
            "/v1/x",
            sized(b"{}"),
            "quota_exceeded",
            ["authenticate", "take_quota"],
        ),
    ]:
        access = Access(refusal=refusal, quota=quota)
        world = World(access=access, concurrent=0 if full else 9)
        if draining:
            world.in_flight.drain()
        result = world.ask("POST", target, **body)
        assert code(result) == expected
        assert access.steps == steps
        assert world.transport.calls == []
        assert len(world.in_flight) == 0
        assert world.event.error_code == expected
        assert world.events.intents == [], "what does not go upstream leaves no note of it"


@pytest.mark.parametrize(
    ("error", "status", "outcome"),
    [
        (ClientError(code="token_expired"), 401, "rejected"),
        (ClientError(code="project_inactive"), 403, "rejected"),
        (StoreError(), 503, "rejected"),
        (ProxyError(code="draining", retry_after=1), 503, "rejected"),
    ],
)
def test_refused_by_the_token_check(error: ProxyError, status: int, outcome: str) -> None:
    world = World(access=Access(refusal=error))
    result = world.ask("POST", headers=[("X-Request-ID", "r1")])
    assert (result.code, code(result)) == (status, error.code)
    assert result.one("Content-Type") == "application/json"
    assert result.one("X-Proxy-Request-ID") == "r1"
    assert result.one("Server-Timing").startswith("auth;dur=")
    assert result.all("Retry-After") == ([str(error.retry_after)] if error.retry_after else [])
    event = world.event
    assert (event.status_code, event.outcome, event.error_code) == (status, outcome, error.code)
    assert (event.request_id, event.bytes_out) == ("r1", len(result.body))
    assert (event.upstream_ms, event.ttfb_ms, event.token_id) == (None, None, None)


@pytest.mark.parametrize(
    ("changes", "authorization", "status", "expected"),
    [
        ({}, None, 401, "invalid_token"),
        ({}, "Bearer nonsense", 401, "invalid_token"),
        ({}, "Bearer sk-" + "z" * 22, 401, "token_not_found"),
        ({"is_active": False}, f"Bearer {STORED_SECRET}", 401, "token_inactive"),
        ({"expires_at": PAST}, f"Bearer {STORED_SECRET}", 401, "token_expired"),
        ({"project_active": False}, f"Bearer {STORED_SECRET}", 403, "project_inactive"),
        ({"max_requests": 1}, f"Bearer {STORED_SECRET}", 429, "quota_exceeded"),
    ],
)
def test_the_real_token_check(
    changes: dict[str, object], authorization: str | None, status: int, expected: str
) -> None:
    store = Store(**changes)
    budgets = Budgets(store, process_holds(), lambda token_id: 0)
    access = Authenticator(
        store, store, store, budgets, cache_size=9, cache_ttl=9, clock=Clock(START.timestamp())
    )
    world = World(access=access)
    headers = [] if authorization is None else [("Authorization", authorization)]
    result = world.ask("POST", headers=headers, token=None)
    assert (result.code, code(result)) == (status, expected)
    assert ("Bearer" in "".join(result.all("WWW-Authenticate"))) == (status == 401)
    assert result.all("x-should-retry") == (["false"] if status == 429 else [])


@pytest.mark.parametrize(
    ("request_", "status", "reads"),
    [
        (sized(b"x" * 1001), 413, 0),
        (chunked(b"x" * 600, b"x" * 600, b"x" * 600), 413, 2),
        (sized(b"x" * 10_001, headers=[]), 413, 0),
        ({"headers": [*JSON_BODY, ("Content-Length", "9")], "pieces": [b"abc"]}, 400, 2),
        (chunked(ClientError(code="request_timeout")), 408, 1),  # type: ignore[arg-type]
    ],
)
def test_a_body_that_is_refused_costs_no_quota(
    request_: dict[str, Any], status: int, reads: int
) -> None:
    world = World()
    made = environ("POST", **request_)
    result = serve(world.endpoint, made)
    assert result.code == status
    assert made["wsgi.input"].read == reads
    assert made["wsgi.input"].abandoned == 1
    assert world.access.steps == ["authenticate"]
    assert (world.event.status_code, world.event.outcome) == (status, "rejected")


def test_a_streamed_body_that_grows_too_large_ends_the_request() -> None:
    world = World(options=limits(request_bytes=10))
    result = world.ask("POST", **chunked(b"x" * 8, b"x" * 8, headers=[]))
    assert (result.code, code(result)) == (413, "request_too_large")
    assert (world.event.outcome, len(world.in_flight)) == ("rejected", 0)


@pytest.mark.parametrize(
    ("trusted", "lines", "counted"),
    [
        (0, [], "192.0.2.1"),
        (0, [("X-Forwarded-For", "203.0.113.9")], "192.0.2.1"),
        (1, [("X-Forwarded-For", "203.0.113.9")], "203.0.113.9"),
        (1, [], ""),
    ],
)
def test_whose_share_a_place_counts_for(
    trusted: int, lines: list[tuple[str, str]], counted: str
) -> None:
    """A trusted proxy that names no client has no share."""
    seen: list[str | None] = []

    def look() -> FakeResponse:
        seen.extend(world.in_flight._by_address.held)
        return FakeResponse()

    world = World(look, options=limits(trusted_proxies=trusted))
    assert world.ask(headers=lines).code == 200
    assert seen == [counted]


def test_a_trusted_proxy_has_no_share_however_its_address_is_spelled() -> None:
    """A socket that listens on ``::`` shows IPv4 in IPv6."""
    seen: list[str | None] = []

    def look() -> FakeResponse:
        seen.extend(world.in_flight._by_address.held)
        return FakeResponse()

    world = World(look, options=limits(trusted_proxies=1))
    assert world.ask(REMOTE_ADDR="::ffff:192.0.2.1").code == 200
    assert seen == [""]


def test_overloaded_only_beyond_the_bound() -> None:
    inner: list[Result] = []
    world = World(concurrent=2)

    def ask(depth: int) -> FakeResponse:
        if depth:
            world.transport.response = lambda: ask(depth - 1)
            inner.append(gevent.spawn(world.ask).get())
        return FakeResponse()

    world.transport.response = lambda: ask(2)
    assert world.ask().code == 200
    assert sorted(result.code for result in inner) == [200, 503]
    refused = next(result for result in inner if result.code == 503)
    assert (code(refused), refused.all("Retry-After")) == ("overloaded", ["1"])
    assert len(world.in_flight) == 0


# One event, however it ends.


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConnectFailed("The upstream could not be reached: it refused the connection."), 502),
        (ResponseBroken(), 502),
        (UpstreamTimeout(), 504),
    ],
)
def test_an_upstream_that_fails_before_the_head(error: ProxyError, status: int) -> None:
    world = failing(error)
    result = world.ask()
    assert (result.code, code(result)) == (status, error.code)
    assert result.all("X-Upstream-Request-Stop") == []
    event = world.event
    assert (event.status_code, event.outcome, event.error_code) == (status, "aborted", error.code)
    assert event.token_id == "token-1"
    assert event.upstream_ms is not None
    assert len(world.in_flight) == 0


@pytest.mark.parametrize("error", [ResponseBroken("cut"), UpstreamTimeout()])
def test_an_upstream_that_fails_after_the_head(error: ProxyError) -> None:
    world = World(FakeResponse([EVENT, error], headers=SSE))
    result = world.ask()
    assert result.chunks == [b"", EVENT]
    assert isinstance(result.error, ConnectionResetError)
    event = world.event
    assert (event.status_code, event.outcome, event.error_code) == (200, "aborted", error.code)
    assert (event.stream, event.bytes_out) == (True, len(EVENT))
    assert (world.response.closed, len(world.in_flight)) == (1, 0)


@pytest.mark.parametrize(
    ("chunks", "source"), [((USAGE, EVENT), "partial"), ((EVENT,) * 2, "none")]
)
def test_a_client_that_leaves_in_the_middle(chunks: tuple[bytes, ...], source: str) -> None:
    world = World(FakeResponse([*chunks, EVENT], headers=SSE))
    result = world.ask(stop_after=2)
    assert isinstance(result.error, BrokenPipeError)
    event = world.event
    assert (event.status_code, event.outcome, event.error_code) == (200, "client_gone", None)
    assert event.usage_source == source
    assert (world.response.closed, len(world.in_flight)) == (1, 0)


def test_a_client_that_leaves_before_the_first_byte() -> None:
    world = World()
    world.ask(stop_after=0)
    assert (world.event.outcome, world.event.bytes_out) == ("client_gone", 0)
    assert (world.response.reads, world.response.closed, len(world.in_flight)) == (0, 1, 0)


def in_greenlet(
    world: World, interrupt: Callable[[Any, Any], object], **kwargs: Any
) -> tuple[Result, Any]:
    """Serve with a real client socket; ``interrupt`` gets it and the greenlet in mid-wait."""
    client, server = gevent.socket.socketpair()
    made = environ(**kwargs, **{"gunicorn.socket": server})
    serving = gevent.spawn(serve, world.endpoint, made)
    gevent.sleep(0.01)
    interrupt(client, serving)
    result: Result = serving.get(timeout=3)
    client.close()
    server.close()
    return result, made["wsgi.input"]


def waiting(value: Any = b"") -> Callable[[], Any]:
    def wait() -> Any:
        gevent.sleep(5)
        return value

    return wait


def test_a_client_that_leaves_before_the_head() -> None:
    world = World(waiting())
    result, _ = in_greenlet(world, lambda client, _: client.close())
    assert result.status == ""
    assert isinstance(result.error, ClientDisconnected)
    event = world.event
    assert (event.status_code, event.outcome, event.error_code) == (499, "client_gone", None)
    assert len(world.in_flight) == 0


def test_a_client_that_leaves_while_the_upstream_is_silent() -> None:
    world = World(FakeResponse([EVENT, waiting()], headers=SSE))
    result, _ = in_greenlet(world, lambda client, _: client.close())
    assert result.chunks == [b"", EVENT]
    assert isinstance(result.error, ClientDisconnected)
    assert (world.event.status_code, world.event.outcome) == (200, "client_gone")
    assert (world.response.closed, len(world.in_flight)) == (1, 0)


@pytest.mark.parametrize(
    ("response", "status", "closing_event"),
    [
        (waiting(), 503, None),
        (FakeResponse([EVENT, waiting()], headers=SSE), 200, True),
        (FakeResponse([b"data: {", waiting()], headers=SSE), 200, False),
        # A closing event would fill up the length, and the cut response would look complete.
        (FakeResponse([EVENT, waiting()], headers=[*SSE, ("Content-Length", "500")]), 200, False),
        (FakeResponse([b"{", waiting()]), 200, False),
    ],
)
def test_a_stop_that_runs_out_of_time(
    response: Any, status: int, closing_event: bool | None
) -> None:
    world = World(response)
    result, _ = in_greenlet(world, lambda *_: world.in_flight.cancel_all(ShuttingDown))
    assert result.code == status
    if closing_event is None:
        assert (code(result), result.error) == ("draining", None)
    else:
        assert isinstance(result.error, ShuttingDown)
        assert (b'"code":"draining"' in result.body) is closing_event
    event = world.event
    assert (event.status_code, event.outcome) == (status, "aborted")
    assert (event.error_code, event.bytes_out) == ("draining", len(result.body))
    assert len(world.in_flight) == 0


@pytest.mark.parametrize("error", ["token_inactive", "project_inactive"])
@pytest.mark.parametrize("begun", [False, True])
def test_a_token_that_is_withdrawn_meanwhile(begun: bool, error: str) -> None:
    world = World(FakeResponse([EVENT, waiting()], headers=SSE) if begun else waiting())
    refusal = ClientError(code=error, headers=[("WWW-Authenticate", "Bearer")])
    result, _ = in_greenlet(
        world, lambda *_: world.in_flight.revoke(world.in_flight.owned(), refusal)
    )
    if not begun:
        assert (result.code, code(result), result.error) == (refusal.status, error, None)
        assert result.one("WWW-Authenticate") == "Bearer"
    else:
        assert result.code == 200
        assert isinstance(result.error, TokenRevoked)
        assert result.body.endswith(b"\n\n")
        assert f'"code":"{error}"'.encode() in result.body
    event = world.event
    assert (event.status_code, event.outcome) == (result.code, "aborted")
    assert (event.error_code, event.bytes_out) == (error, len(result.body))
    assert len(world.in_flight) == 0


def test_a_token_that_is_withdrawn_during_the_upload() -> None:
    class Slow(Input):
        def read_arrived(self, most: int) -> bytes:
            gevent.sleep(5)
            return b""

    world = World()
    headers = [*JSON_BODY, ("Transfer-Encoding", "chunked"), ("Authorization", f"Bearer {SECRET}")]
    result, _ = in_greenlet(
        world,
        lambda *_: world.in_flight.revoke(
            world.in_flight.owned(), ClientError(code="token_inactive")
        ),
        method="POST",
        headers=headers[:-1],
        **{"wsgi.input": Slow(headers)},
    )
    assert (result.code, code(result)) == (401, "token_inactive")
    assert (world.event.outcome, world.event.error_code) == ("rejected", "token_inactive")
    assert (world.transport.calls, len(world.in_flight)) == ([], 0)


def test_a_stop_while_the_token_is_looked_up_is_a_refusal() -> None:
    class Slow(Access):
        def authenticate(self, authorization: str | None) -> Any:
            gevent.sleep(5)

    world = World(access=Slow())
    result, _ = in_greenlet(world, lambda *_: world.in_flight.cancel_all(ShuttingDown))
    assert (result.code, code(result)) == (503, "draining")
    assert (world.event.outcome, world.event.status_code) == ("rejected", 503)
    assert len(world.in_flight) == 0


def test_a_killed_greenlet_leaves_an_event_and_no_slot() -> None:
    world = World(waiting())
    result, _ = in_greenlet(world, lambda _, serving: serving.kill(block=False))
    assert isinstance(result.error, gevent.GreenletExit)
    assert (world.event.outcome, world.event.error_code) == ("aborted", "draining")
    assert len(world.in_flight) == 0


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("private detail"), CipherError("private detail")]
)
def test_a_defect_of_the_proxy(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    world = World(access=Access(refusal=error))
    result = world.ask(headers=[("X-Request-ID", "r1")])
    assert (result.code, code(result)) == (500, "internal_error")
    assert b"private" not in result.body
    assert (world.event.outcome, world.event.error_code) == ("aborted", "internal_error")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.request_id == "r1"
    assert "private detail" in caplog.text
    assert len(world.in_flight) == 0


def test_a_head_that_the_server_refuses_to_send() -> None:
    world = World()
    heads: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        heads.append(status)
        if len(heads) == 1:
            raise ValueError("Invalid status")

    items = list(world.endpoint(environ(), start_response))
    assert json.loads(items[0])["error"]["code"] == "internal_error"
    assert heads == ["200 OK", "500 Internal Server Error"]
    assert (world.response.closed, len(world.in_flight)) == (1, 0)
    assert world.event.status_code == 500


def test_a_defect_after_the_upstream_s_head_closes_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    world = World()
    monkeypatch.setattr("proxy.gateway.endpoint.UsageMeter", broken)
    assert world.ask().code == 500
    assert (world.response.closed, len(world.in_flight), world.event.status_code) == (1, 0, 500)


def test_head_on_a_refusal_sends_no_body() -> None:
    world = World()
    result = world.ask("HEAD", token=None)
    assert (result.code, result.body) == (401, b"")
    assert int(result.one("Content-Length")) > 0
    assert world.event.bytes_out == 0


def test_an_early_response_leaves_the_rest_of_the_upload_unread() -> None:
    world = World()
    world.transport.handle = lambda call, timing: world.response  # type: ignore[method-assign]
    made = environ("POST", **sized(b"abc", headers=[]))
    assert serve(world.endpoint, made).code == 200
    assert (made["wsgi.input"].abandoned, made["wsgi.input"].read) == (1, 0)


def test_no_event_holds_a_secret() -> None:
    worlds = [World(), failing(ConnectFailed()), World(access=Access(refusal=StoreError()))]
    for world in worlds:
        world.ask("POST", "/v1/x?key=private-query", headers=[("Cookie", "private-cookie")])
        line = world.event.line().decode()
        for secret in (SECRET, UPSTREAM_KEY, "private"):
            assert secret not in line


# Names and addresses.


def test_request_ids() -> None:
    world = World()
    result = world.ask(headers=[("X-Request-ID", "call-1")])
    assert (result.one("X-Proxy-Request-ID"), world.event.request_id) == ("call-1", "call-1")
    world = World()
    result = world.ask(headers=[("X-Request-ID", "a\tb")])
    assert re.fullmatch("[0-9a-f]{32}", result.one("X-Proxy-Request-ID"))
    assert world.event.request_id == result.one("X-Proxy-Request-ID")


@pytest.mark.parametrize(
    ("trusted", "expected"), [(0, "192.0.2.1"), (1, "203.0.113.9"), (2, "6.6.6.6")]
)
def test_the_client_s_address(trusted: int, expected: str) -> None:
    world = World(options=limits(trusted_proxies=trusted))
    world.ask(headers=[("X-Forwarded-For", "1.1.1.1, 6.6.6.6, 203.0.113.9")])
    assert world.event.client_ip == expected
    names = {name.lower() for name, _ in world.transport.calls[0].request.headers}
    assert "x-forwarded-for" not in names


# CORS.


def test_without_cors_options_and_permissions_are_the_upstream_s() -> None:
    world = World(FakeResponse(headers=ALLOWING))
    result = world.ask("OPTIONS", headers=[ORIGIN, ASKED])
    assert result.all("Access-Control-Allow-Origin") == ["https://upstream.test"]
    assert result.all("Vary") == []
    assert world.transport.calls[0].request.method == "OPTIONS"
    assert world.event.method == "OPTIONS"


def test_the_proxy_responds_to_a_preflight_without_a_token_or_an_event() -> None:
    world = World(origins=["https://a.test"])
    headers = [ORIGIN, ASKED, ("Access-Control-Request-Headers", "authorization")]
    result = world.ask("OPTIONS", headers=headers, token=None)
    assert (result.status, result.body) == ("204 No Content", b"")
    assert result.one("Access-Control-Allow-Origin") == "https://a.test"
    assert result.one("Access-Control-Allow-Headers") == "authorization"
    assert result.one("X-Proxy-Request-ID")
    assert (world.events, world.access.steps, world.transport.calls) == ([], [], [])
    assert len(world.in_flight) == 0
    refused = world.ask("OPTIONS", headers=[("Origin", "https://evil.test"), ASKED], token=None)
    assert (refused.code, refused.all("Access-Control-Allow-Origin")) == (204, [])


def test_a_preflight_counts_for_its_address() -> None:
    world = World(origins=["https://a.test"], limited=Limited(Rates(address=2)))
    responses = [world.ask("OPTIONS", headers=[ORIGIN, ASKED], token=None) for _ in range(3)]
    assert [response.code for response in responses] == [204, 204, 429]
    assert responses[2].all("Access-Control-Allow-Origin") == ["https://a.test"]
    assert world.ask().code == 429
    assert [event.error_code for event in world.events] == ["rate_limit_exceeded"] * 2


def test_other_options_go_to_the_upstream() -> None:
    world = World(origins=["https://a.test"])
    assert world.ask("OPTIONS", headers=[ORIGIN]).code == 200
    assert len(world.transport.calls) == 1


def test_the_upstream_s_permissions_are_replaced() -> None:
    world = World(FakeResponse(headers=ALLOWING), origins=["https://a.test"])
    result = world.ask(headers=[ORIGIN])
    assert result.all("Access-Control-Allow-Origin") == ["https://a.test"]
    assert result.one("Access-Control-Expose-Headers") == "*"
    assert result.one("Vary") == "Origin"
    world = World(FakeResponse(headers=ALLOWING), origins=["https://a.test"])
    result = world.ask(headers=[("Origin", "https://evil.test")])
    assert result.all("Access-Control-Allow-Origin") == []


@pytest.mark.parametrize("kwargs", [{"token": None}, {"target": "/v1/.."}])
def test_browsers_can_read_refusals(kwargs: dict[str, Any]) -> None:
    world = World(origins=["https://a.test"])
    result = world.ask(headers=[ORIGIN], **kwargs)
    assert result.code >= 400
    assert result.one("Access-Control-Allow-Origin") == "https://a.test"
    assert result.one("Access-Control-Expose-Headers") == "*"


@pytest.mark.parametrize("target", ["/v1/messages?beta=true", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ClientError(code="token_expired"), 401, "authentication_error"),
        (ConnectFailed("no way"), 502, "api_error"),
        (StoreError(), 503, "overloaded_error"),
        (ValueError("a defect"), 500, "api_error"),
        (ShuttingDown(), 503, "overloaded_error"),
    ],
)
def test_refusals_of_anthropics_endpoints_have_its_shape(
    target: str, error: BaseException, status: int, kind: str
) -> None:
    result = failing(error).ask("POST", target, **sized(b"{}"))
    body = json.loads(result.body)
    assert (result.code, body["type"], body["error"]["type"]) == (status, "error", kind)
    assert body["request_id"] == result.one("request-id") == result.one("X-Proxy-Request-ID")
    assert "defect" not in body["error"]["message"]
