"""What goes out of a request; the endpoint's tests show it on its way."""

from functools import partial
from typing import Any

import pytest

from proxy.core.errors import ClientError
from proxy.gateway import outbound
from proxy.gateway.held_bodies import HeldBodies
from proxy.gateway.outbound import outbound_upgrade, requesting_usage
from proxy.gateway.request import ClientRequest
from proxy.policy.policy import Policy
from proxy.providers.base import OutboundRequest
from tests.support.relay_factories import environ

outbound_request = partial(outbound.outbound_request, bodies=HeldBodies(1000))


def inbound(lines: list[tuple[str, str]], body: bytes = b"", method: str = "POST") -> ClientRequest:
    pieces = [body] if body else []
    return ClientRequest(environ(method, "/v1/x?a=%2F", lines, pieces, token=None), 0)


def test_a_body_that_came_with_its_head_is_no_stream() -> None:
    """So it may go out on a kept connection."""
    for arrived in (True, False):
        given = inbound([("CONTENT-LENGTH", "2")], b"hi")
        given.body._source.arrived = arrived
        request = outbound_request(given, Policy(), request_bytes=10, json_bytes=10)
        assert isinstance(request.body, bytes) is arrived
        assert request.body is not None
        assert (request.body if arrived else b"".join(request.body)) == b"hi"  # type: ignore[arg-type]
        assert ("Content-Length", "2") in request.headers


def test_json_is_held_and_other_bodies_are_streamed() -> None:
    lines = [("CONTENT-TYPE", "application/json"), ("CONTENT-LENGTH", "2")]
    request = outbound_request(inbound(lines, b"{}"), Policy(), request_bytes=10, json_bytes=10)
    assert (request.target, request.body) == (b"/v1/x?a=%2F", b"{}")
    assert request.headers == [("Content-Type", "application/json"), ("Content-Length", "2")]
    lines = [("CONTENT-TYPE", "text/plain"), ("CONTENT-LENGTH", "2")]
    request = outbound_request(inbound(lines, b"hi"), Policy(), request_bytes=10, json_bytes=10)
    assert not isinstance(request.body, bytes | None)
    assert b"".join(request.body) == b"hi"


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_too_large_by_its_own_word(content_type: str) -> None:
    lines = [("CONTENT-TYPE", content_type), ("CONTENT-LENGTH", "11")]
    given = inbound(lines, b"x" * 11)
    with pytest.raises(ClientError) as caught:
        outbound_request(given, Policy(), request_bytes=10, json_bytes=20)
    assert caught.value.code == "request_too_large"
    assert given.body.received == 0


UPGRADE = [
    ("CONNECTION", "keep-alive, Upgrade"),
    ("UPGRADE", "WebSocket"),
    ("SEC-WEBSOCKET-KEY", "k"),
    ("SEC-WEBSOCKET-EXTENSIONS", "permessage-deflate"),
]


def test_a_websocket_s_handshake() -> None:
    token = "sk-" + "a" * 22
    protocols = ("SEC-WEBSOCKET-PROTOCOL", f"realtime, openai-insecure-api-key.{token}, beta")
    given = inbound([*UPGRADE, protocols], method="GET")
    assert given.upgrades
    assert given.authorization == f"Bearer {token}"
    assert outbound_upgrade(given, Policy()).headers == [
        ("Sec-Websocket-Key", "k"),
        ("Sec-Websocket-Protocol", "realtime, beta"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
    ]


def test_a_protocol_that_is_only_the_token_is_not_offered() -> None:
    protocols = ("SEC-WEBSOCKET-PROTOCOL", "openai-insecure-api-key.sk-x")
    headers = outbound_upgrade(inbound([*UPGRADE, protocols], method="GET"), Policy()).headers
    assert "Sec-Websocket-Protocol" not in dict(headers)


def test_what_is_no_upgrade() -> None:
    protocols = ("SEC-WEBSOCKET-PROTOCOL", "openai-insecure-api-key.sk-x")
    for given in (
        inbound([*UPGRADE, protocols], method="POST"),
        inbound([("UPGRADE", "h2c"), ("CONNECTION", "upgrade"), protocols], method="GET"),
        inbound([("UPGRADE", "websocket"), protocols], method="GET"),
    ):
        assert not given.upgrades
        assert given.authorization is None, "only a WebSocket may send its token there"


STREAM = b'{"stream":true}'
ASKING = b'{"stream":true,"stream_options":{"include_usage":true}}'


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/chat/completions",
        b"/v1/chat/completions?a=%2F",
        b"/v1/deployments/x/chat/completions",
        b"/v1/completions",
        b"/v1/chat/completion%73",
        b"/v1/%63ompletions?a=b",
    ],
)
def test_a_streamed_chat_is_made_to_ask(target: bytes) -> None:
    lines = [("Accept-Encoding", "gzip"), ("X-A", "1"), ("Content-Length", "15")]
    usage_request = requesting_usage(OutboundRequest("POST", target, lines, STREAM))
    assert usage_request == OutboundRequest(
        "POST",
        target,
        [("X-A", "1"), ("Accept-Encoding", "identity"), ("Content-Length", str(len(ASKING)))],
        ASKING,
    )


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", b"/v1/responses", STREAM),
        ("POST", b"/v1/chat/completions/", STREAM),
        ("POST", b"/v1/fim/completions", STREAM),
        ("POST", b"/v1/x?/chat/completions", STREAM),
        ("PUT", b"/v1/chat/completions", STREAM),
        ("POST", b"/v1/chat/completions", None),
        ("POST", b"/v1/chat/completions", b""),
        ("POST", b"/v1/chat/completions", [STREAM]),
        ("POST", b"/v1/chat/completions", ASKING),
    ],
)
def test_others_are_not(method: str, target: bytes, body: Any) -> None:
    assert requesting_usage(OutboundRequest(method, target, [], body)) is None


def test_a_body_that_a_policy_reads_is_held() -> None:
    policy = Policy.compile({"allowed_models": ["m"]})
    for content_type in ("text/plain", "multipart/form-data; boundary=x"):
        lines = [("CONTENT-TYPE", content_type), ("CONTENT-LENGTH", "2")]
        request = outbound_request(inbound(lines, b"hi"), policy, request_bytes=10, json_bytes=10)
        assert request.body == b"hi"
        assert ("Content-Length", "2") in request.headers
    lines = [("CONTENT-TYPE", "audio/wav"), ("TRANSFER-ENCODING", "chunked")]
    request = outbound_request(inbound(lines, b"hi"), policy, request_bytes=10, json_bytes=10)
    assert (request.body, request.chunked) == (b"hi", False)
    assert ("Content-Length", "2") in request.headers
    with pytest.raises(ClientError) as caught:
        outbound_request(inbound(lines, b"hi"), policy, request_bytes=10, json_bytes=1)
    assert caught.value.code == "request_too_large"


@pytest.mark.parametrize("content_type", ["text/plain", None])
def test_a_chat_that_must_report_usage_is_held_with_any_content_type(
    content_type: str | None,
) -> None:
    lines = [("CONTENT-LENGTH", str(len(STREAM)))]
    lines += [("CONTENT-TYPE", content_type)] if content_type else []
    for path, policy, held in (
        ("/v1/chat/completion%73", Policy(inject_usage=True), True),
        ("/v1/chat/completions", Policy(), False),
        ("/v1/files", Policy(inject_usage=True), False),
    ):
        asked = ClientRequest(environ("POST", path, lines, [STREAM], token=None), 0)
        request = outbound_request(asked, policy, request_bytes=99, json_bytes=99)
        assert isinstance(request.body, bytes) is held
        assert (requesting_usage(request) is not None) is held


def test_only_headers_that_may_pass() -> None:
    policy = Policy.compile({"forwarded_headers": ["openai-beta", "X-Stainless-*"]})
    lines = [
        ("CONTENT-TYPE", "application/json"),
        ("ACCEPT", "*/*"),
        ("ACCEPT-ENCODING", "gzip"),
        ("OPENAI-BETA", "a"),
        ("OPENAI-BETA", "b"),
        ("X-STAINLESS-LANG", "python"),
        ("COOKIE", "secret"),
        ("USER-AGENT", "me"),
        ("X-REQUEST-ID", "1"),
        ("CONTENT-LENGTH", "2"),
    ]
    sent = outbound_request(inbound(lines, b"{}"), policy, request_bytes=10, json_bytes=10)
    assert sent.headers == [
        ("Content-Type", "application/json"),
        ("Accept", "*/*"),
        ("Accept-Encoding", "gzip"),
        ("Openai-Beta", "a"),
        ("Openai-Beta", "b"),
        ("X-Stainless-Lang", "python"),
        ("Content-Length", "2"),
    ]
    lines = [("TRANSFER-ENCODING", "chunked"), ("COOKIE", "secret")]
    sent = outbound_request(inbound(lines, b"hi"), policy, request_bytes=10, json_bytes=10)
    assert sent.headers == [("Transfer-Encoding", "chunked")]
    handshake = inbound([*UPGRADE, ("COOKIE", "secret"), ("OPENAI-BETA", "a")], method="GET")
    assert outbound_upgrade(handshake, policy).headers == [
        ("Sec-Websocket-Key", "k"),
        ("Openai-Beta", "a"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
    ]
