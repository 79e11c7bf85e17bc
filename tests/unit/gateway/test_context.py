"""One request to its one event: what is in it, and how the client's socket is treated."""

import json
import socket
import struct
from typing import Any

import gevent
import pytest
from gevent import GreenletExit

from proxy.auth.principal import Principal
from proxy.core.errors import ClientError, ConnectFailed, ProxyError, StoreError, UpstreamTimeout
from proxy.gateway.context import RequestContext
from proxy.gateway.inflight import ClientDisconnected, ShuttingDown
from proxy.gateway.request import ClientRequest
from proxy.gateway.response_stream import Outcome
from proxy.ratelimit.limiter import Bucket, Charge
from proxy.ratelimit.request_limiter import Reservation
from proxy.upstream.websocket import UpgradeResponse
from proxy.usage.meter import UsageMeter
from tests.support.relay_factories import PRINCIPAL, SSE, UPSTREAM_KEY, Events, environ


class Stream:
    """What an exchange reads of a RelayStream."""

    def __init__(self, outcome: Outcome, error_code: str | None = None) -> None:
        self.outcome, self.error_code, self.bytes_out = outcome, error_code, 42
        self.read_to_end = outcome is Outcome.COMPLETED


def make(events: Events, **kwargs: Any) -> RequestContext:
    request = environ(**kwargs)
    return RequestContext(ClientRequest(request, 0), request, events)


def ended(outcome: Outcome, chunk: bytes, content_type: str, error_code: str | None = None) -> Any:
    events = Events()
    exchange = make(events)
    meter = UsageMeter(content_type)
    meter.feed(chunk)
    stream: Any = Stream(outcome, error_code)
    meter.finish(stream.read_to_end)
    exchange.status, exchange.meter = 201, meter
    exchange.finish_stream(stream)
    (event,) = events
    return event


def test_a_completed_response() -> None:
    body = b'{"model":"gpt-4","id":"x","usage":{"prompt_tokens":1,"completion_tokens":2}}'
    event = ended(Outcome.COMPLETED, body, "application/json")
    assert (event.status_code, event.outcome, event.error_code) == (201, "completed", None)
    assert (event.usage_source, event.bytes_out, event.stream) == ("reported", 42, False)
    assert (event.metadata["model"], event.metadata["prompt_tokens"]) == ("gpt-4", 1)


def test_a_charge_that_has_to_wait_does_not_cost_the_event() -> None:
    """At a stop it may be ended in that moment."""
    events, settled = Events(), list[int]()
    exchange = make(events)

    class Limited(Reservation):
        token_buckets = (Charge(Bucket("token:1", 60), 0),)

        def spend(self, tokens: int) -> None:
            raise GreenletExit

    class Access:
        def settle(self, principal: Principal, tokens: int, held: int = 0) -> None:
            settled.append(tokens)

    exchange.reservation, exchange.principal, exchange.settlement = Limited(), PRINCIPAL, Access()
    exchange.on_finish(exchange.settle)
    exchange.on_finish(exchange.spend)
    meter = UsageMeter("application/json")
    meter.feed(b'{"model":"m","usage":{"prompt_tokens":1,"completion_tokens":2}}')
    stream: Any = Stream(Outcome.COMPLETED)
    meter.finish(complete=True)
    exchange.status, exchange.meter = 200, meter
    with pytest.raises(GreenletExit):
        exchange.finish_stream(stream)
    assert (len(events), settled) == (1, [3])


@pytest.mark.parametrize(
    ("method", "status", "body", "charged"),
    [
        ("POST", 200, b'{"id":"r","usage":{"prompt_tokens":1,"completion_tokens":2}}', 3),
        ("GET", 200, b'{"id":"r","usage":{"prompt_tokens":1,"completion_tokens":2}}', 0),
        ("GET", 200, b'{"usage":{"prompt_tokens":1,"completion_tokens":2}}', 3),
        ("DELETE", 200, b'{"id":"r","usage":{"prompt_tokens":1,"completion_tokens":2}}', 3),
    ],
)
def test_reading_a_stored_response_is_charged_by_the_ledger(
    method: str, status: int, body: bytes, charged: int
) -> None:
    events, settled = Events(), list[int]()
    exchange = make(events, method=method)

    class Access:
        def settle(self, principal: Principal, tokens: int, *more: int) -> None:
            settled.append(tokens)

    exchange.principal, exchange.settlement = PRINCIPAL, Access()
    exchange.on_finish(exchange.settle)
    meter = UsageMeter("application/json")
    meter.feed(body)
    stream: Any = Stream(Outcome.COMPLETED)
    meter.finish(complete=True)
    exchange.status, exchange.meter = status, meter
    exchange.finish_stream(stream)
    (event,) = events
    assert settled == [charged]
    assert event.metadata["prompt_tokens"] == 1, "the event says what the response said"


def test_once_a_tunnel_is_left_nothing_is_thrown_in() -> None:
    """From then on its event is made, which must be one."""
    events = Events()
    exchange = make(events)
    exchange._socket, here = socket.socketpair()
    theirs, upstream = socket.socketpair()
    for sock in (here, upstream):
        sock.close()
    told: list[int] = []
    opened = UpgradeResponse(theirs, b"HTTP/1.1 101 Switching Protocols", b"")

    class Live:
        def unregister(self, greenlet: Any) -> None:
            told.append(len(events))

    exchange.in_flight = Live()
    exchange.on_finish(theirs.close)
    exchange.tunnel(opened, [])
    assert (told, len(events)) == ([0], 1)
    exchange._socket.close()


def test_a_cut_stream() -> None:
    chunk = b'data: {"model":"m","usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    event = ended(Outcome.ABORTED, chunk, "Text/Event-Stream; charset=utf-8", "upstream_broken")
    assert (event.outcome, event.error_code) == ("aborted", "upstream_broken")
    assert (event.usage_source, event.stream) == ("partial", True)


@pytest.mark.parametrize(
    ("error", "asked", "outcome"),
    [
        (ClientError(code="invalid_token"), False, "rejected"),
        (ClientError(code="request_too_large"), True, "rejected"),
        (StoreError(), False, "rejected"),
        (ProxyError(code="overloaded"), False, "rejected"),
        (ProxyError(code="draining"), False, "rejected"),
        (ProxyError(code="draining"), True, "aborted"),
        (ConnectFailed(), True, "aborted"),
        (UpstreamTimeout(), True, "aborted"),
        (ProxyError(), False, "aborted"),
    ],
)
def test_refused_or_aborted(error: ProxyError, asked: bool, outcome: str) -> None:
    events = Events()
    exchange = make(events)
    exchange.timing.upstream_asked = exchange.timing.started if asked else 0.0
    exchange.refuse(error, 17)
    (event,) = events
    assert (event.outcome, event.error_code) == (outcome, error.code)
    assert (event.status_code, event.bytes_out) == (error.status, 17)
    assert (event.project_id, event.token_id, event.token) == (None, None, None)


def test_what_every_event_has_and_what_none_has() -> None:
    events = Events()
    exchange = make(
        events,
        method="POST",
        target="/v1/files?key=sk-in-the-query-0123456789",
        headers=[("X-Request-ID", "r1"), ("Cookie", "session=private")],
    )
    exchange.principal = PRINCIPAL
    exchange.finish(200, Outcome.COMPLETED)
    (event,) = events
    assert (event.endpoint, event.method, event.request_id) == ("/v1/files", "POST", "r1")
    assert (event.project_id, event.token_id) == ("project-1", "token-1")
    assert event.token == "sk-aaaa...aaaa"
    assert event.client_ip == "192.0.2.1"
    line = event.line().decode()
    for secret in ("query", "private", UPSTREAM_KEY, "a" * 22):
        assert secret not in line
    assert json.loads(line)["duration_ms"] >= 0


def test_a_long_path_is_cut_in_the_event() -> None:
    events = Events()
    make(events, target="/v1/" + "x" * 8000).finish(404, Outcome.REJECTED)
    assert len(events[0].endpoint) == 1024
    assert len(events[0].line()) < 4096


def test_what_a_client_wrote_is_cleaned_before_it_is_an_event() -> None:
    events = Events()
    secret = "sk-" + "z" * 22
    made = make(events, target=f"/v1/{secret}/%73k-{'z' * 22}", method="A" * 7900)
    made.principal = PRINCIPAL
    made.record_intent()
    made.finish(404, Outcome.REJECTED)
    assert events[0].endpoint == "/v1/[secret]/[secret]"
    assert events[0].method == "A" * 64
    assert "zzzz" not in repr(events.intents)


def test_a_closing_event_stands_alone() -> None:
    exchange = make(Events())
    meter = UsageMeter(SSE[0][1])
    meter.feed(b"data: {}\n\n")
    exchange.sent = meter
    words = exchange.closing_event(ShuttingDown())
    assert words.startswith(b"event: error\ndata: {")
    assert words.endswith(b"}\n\n")
    assert json.loads(words.split(b"data: ")[1])["error"]["code"] == "draining"
    meter.feed(b"data: {")
    assert exchange.closing_event(ShuttingDown()) == b""
    exchange.sent = UsageMeter("application/json")
    assert exchange.closing_event(ShuttingDown()) == b""


def test_a_closing_event_for_clients_of_anthropic() -> None:
    exchange = make(Events(), target="/v1/messages?beta=true")
    exchange.sent = UsageMeter(SSE[0][1])
    words = exchange.closing_event(ShuttingDown())
    assert words.startswith(b"event: error\ndata: {")
    assert words.endswith(b"}\n\n")
    error = json.loads(words.split(b"data: ")[1])
    assert error["type"] == "error"
    assert error["error"]["type"] == "overloaded_error"
    assert error["error"]["code"] == "draining"
    assert error["request_id"] == exchange.inbound.request_id


class FakeSocket:
    def __init__(self, error: OSError | None = None) -> None:
        self.options: list[tuple[int, int, bytes]] = []
        self._error = error

    def setsockopt(self, *option: Any) -> None:
        if self._error is not None:
            raise self._error
        self.options.append(option)


@pytest.mark.parametrize(
    ("protocol", "outcome", "reset"),
    [
        ("HTTP/1.0", Outcome.ABORTED, True),
        ("HTTP/1.0", Outcome.COMPLETED, False),
        ("HTTP/1.1", Outcome.ABORTED, False),
    ],
)
def test_a_reset_shows_http_1_0_that_a_response_is_cut(
    protocol: str, outcome: Outcome, reset: bool
) -> None:
    client = FakeSocket()
    exchange = make(Events(), SERVER_PROTOCOL=protocol, **{"gunicorn.socket": client})
    stream: Any = Stream(outcome)
    exchange.status, exchange.meter = 200, UsageMeter("")
    exchange.finish_stream(stream)
    linger = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert client.options == ([linger] if reset else [])


def test_a_closed_socket_does_not_cost_the_event() -> None:
    events = Events()
    client = FakeSocket(OSError(9, "Bad file descriptor"))
    exchange = make(events, SERVER_PROTOCOL="HTTP/1.0", **{"gunicorn.socket": client})
    stream: Any = Stream(Outcome.CLIENT_GONE)
    exchange.status, exchange.meter = 200, UsageMeter("")
    exchange.finish_stream(stream)
    assert [event.outcome for event in events] == ["client_gone"]


def watching(upload: bool, finish: bool, end: bool) -> str:
    """What becomes of a greenlet that waits while its client leaves."""
    client, server = gevent.socket.socketpair()
    happened = []

    def request() -> None:
        headers = [("Content-Length", "3")] if upload else []
        exchange = make(Events(), headers=headers, pieces=[b"abc"], **{"gunicorn.socket": server})
        exchange.watch_client()
        try:
            if finish:
                exchange.inbound.body.check_length(10)
                list(exchange.inbound.body)
            if end:
                exchange.finish(200, Outcome.COMPLETED)
            gevent.sleep(0.05)
            happened.append("undisturbed")
        except ClientDisconnected:
            happened.append("gone")
            exchange.finish(499, Outcome.CLIENT_GONE)
        exchange.finish(200, Outcome.COMPLETED)

    waiting = gevent.spawn(request)
    gevent.sleep(0)
    client.close()
    waiting.get(timeout=2)
    server.close()
    (result,) = happened
    return result


@pytest.mark.parametrize(
    ("upload", "finish", "end", "expected"),
    [
        (False, False, False, "gone"),
        (True, False, False, "undisturbed"),  # the reader of the body is the one who notices
        (True, True, False, "gone"),
        (False, False, True, "undisturbed"),
        (True, True, True, "undisturbed"),
    ],
)
def test_a_client_is_watched_from_its_last_byte_to_the_end(
    upload: bool, finish: bool, end: bool, expected: str
) -> None:
    assert watching(upload, finish, end) == expected
