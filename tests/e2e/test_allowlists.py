"""Allowlists on the real server: what is refused, and not a byte of it upstream."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.fake_upstream import Upstream
from tests.support.raw_client import RawClient, RawResponse
from tests.support.raw_requests import error_of
from tests.support.server import UPSTREAM_KEY, ProxyServer
from tests.support.wait import wait_until

CHAT = "/v1/chat/completions"
JSON = ("Content-Type", "application/json")
WEBSOCKET = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]


class Server:
    """One proxy behind one trusted reverse proxy; a token per policy."""

    def __init__(self, proxy: ProxyServer, upstream: Upstream) -> None:
        self.proxy, self.upstream = proxy, upstream

    def token(self, policy: dict[str, Any], project: dict[str, Any] | None = None) -> str:
        body = {"name": uuid.uuid4().hex, "api_key": UPSTREAM_KEY, **(project or {})}
        made = self.proxy.manage("POST", "/projects", body)
        assert made.status_code == 201, made.text
        return str(self.proxy.mint(made.json()["id"], **policy)["token"])

    def ask(
        self,
        token: str,
        method: str = "POST",
        target: str = CHAT,
        headers: list[tuple[str, str]] = [JSON],  # noqa: B006
        body: bytes = b"",
    ) -> RawResponse:
        with RawClient(self.proxy.port) as client:
            bearer = ("Authorization", f"Bearer {token}")
            client.request(method, target, [bearer, *headers], body)
            return client.read_response(method)

    def code(self, *args: Any, **more: Any) -> tuple[int, str]:
        """Status, and the code of our refusal; nothing of a refused request went upstream."""
        before = len(self.upstream.received)
        answer = self.ask(*args, **more)
        if len(self.upstream.received) > before:
            return answer.status, "sent"
        return answer.status, error_of(answer)


@pytest.fixture(scope="module")
def started(
    tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream
) -> Iterator[ProxyServer]:
    folder = tmp_path_factory.mktemp("allowlists")
    server = ProxyServer(folder, session_upstream.url, TRUSTED_PROXIES="1").start()
    yield server
    assert server.stop() == 0
    assert "Traceback" not in server.log_text()


@pytest.fixture
def server(started: ProxyServer, upstream: Upstream) -> Server:
    return Server(started, upstream)


def test_models(server: Server) -> None:
    token = server.token(
        {"allowed_models": ["gpt-4o-*"]}, {"allowed_models": ["*-mini", "error-*"]}
    )

    def code(body: bytes, content_type: str = "application/json") -> tuple[int, str]:
        return server.code(token, headers=[("Content-Type", content_type)], body=body)

    good = b'{ "model": "gpt-4o-mini" ,"temperature":0.70}'
    assert code(good) == (200, "sent")
    assert server.upstream.received[-1].body == good
    assert code(good, "text/plain") == (200, "sent")
    for model in ("gpt-4o", "gpt-4o-2", "gpt-5-mini", "", "GPT-4o-mini"):
        assert code(json.dumps({"model": model}).encode()) == (403, "model_not_allowed")
    assert code(b"{}") == (403, "model_not_allowed")
    for body in (
        b'{"model":"gpt-4o-mini","model":"gpt-4"}',
        b'{"model":"gpt-4o-mini","mod\\u0065l":"gpt-4"}',
        b'{"model":"gpt-4o-mini","MODEL":"gpt-4"}',
        '{"model":"gpt-4o-mini"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"model":"gpt-4o-mini"}',
        b'{"model":"gpt-4o-mini"}}',
        b'[{"model":"gpt-4o-mini"}]',
    ):
        for content_type in ("application/json", "text/plain", "multipart/form-data; boundary=x"):
            assert code(body, content_type) == (400, "invalid_request")
    for charset in ("utf-16", "utf-7", "shift_jis", "utf-8; charset=utf-7"):
        assert code(good, f"application/json; charset={charset}") == (400, "invalid_request")
    encoded = [JSON, ("Content-Encoding", "gzip")]
    assert server.code(token, headers=encoded, body=good) == (400, "invalid_request")
    wanted = server.code(token, "GET", "/v1/realtime?model=gpt-4", WEBSOCKET)
    assert wanted == (403, "model_not_allowed")
    assert server.code(token, "DELETE", "/v1/models/gpt-4") == (403, "model_not_allowed")
    assert server.code(token, "GET", "/v1/models") == (200, "sent")


def test_a_chunked_body(server: Server) -> None:
    token = server.token({"allowed_models": ["m"]})
    for model, status in (("m", 200), ("n", 403)):
        body = b'{"model":"%b"}' % model.encode()
        chunks = b"".join(b"1\r\n%b\r\n" % body[at : at + 1] for at in range(len(body)))
        headers = [JSON, ("Transfer-Encoding", "chunked")]
        with RawClient(server.proxy.port) as client:
            client.request("POST", CHAT, [("Authorization", f"Bearer {token}"), *headers])
            client.send(chunks + b"0\r\n\r\n")
            assert client.read_response().status == status
    assert [request.body for request in server.upstream.received] == [b'{"model":"m"}']


def test_uploads_of_the_official_client(server: Server) -> None:
    token = server.token({"allowed_models": ["whisper-1"]})
    base_url = f"{server.proxy.url}/v1"
    with openai.OpenAI(base_url=base_url, api_key=token, max_retries=0) as client:
        sound = ("ü.wav", b"RIFF" + bytes(range(256)) * 500, "audio/wav")
        with pytest.raises(openai.PermissionDeniedError):
            client.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound)
        assert not server.upstream.received
        with pytest.raises(openai.NotFoundError):  # by the upstream, which knows no such route
            client.audio.transcriptions.create(model="whisper-1", file=sound)
        assert b"whisper-1" in server.upstream.received[-1].body
        with pytest.raises(openai.PermissionDeniedError):
            client.files.create(file=b"x", purpose="assistants")  # names no model


def test_parameters(server: Server) -> None:
    token = server.token({"allowed_params": {"temperature": ["0"], "tools": []}})
    for body, expected in (
        ({"model": "m", "temperature": 0.0}, (200, "sent")),
        ({"model": "m"}, (200, "sent")),
        ({"model": "m", "temperature": 1}, (400, "param_not_allowed")),
        ({"model": "m", "tools": [{"type": "web_search"}]}, (400, "param_not_allowed")),
    ):
        assert server.code(token, body=json.dumps(body).encode()) == expected


def test_methods_and_endpoints(server: Server) -> None:
    policy = {"allowed_methods": ["GET", "POST"], "allowed_endpoints": ["/v1/models", "/v1/chat/*"]}
    token = server.token(policy)
    body = b'{"model":"m"}'
    assert server.code(token, body=body) == (200, "sent")
    assert server.code(token, "GET", "/v1/models") == (200, "sent")
    refused = server.ask(token, "DELETE", "/v1/models")
    assert (refused.status, error_of(refused)) == (405, "method_not_allowed")
    assert refused.values("Allow") == ["GET, POST"]
    for target in (
        "/v1/modelsX",
        "/v1/models/",
        "/v1/models/x",
        "/v1/embeddings",
        "/v1//models",
        "/v1/models;x",
        "/v1/models%00",
        "/v1/chat%2Fcompletions",
        "/v1/chat/%2e%2e/embeddings",
        "/v1/chat/..%5cembeddings",
        "/v1/chat/completions/..",
    ):
        assert server.code(token, target=target, body=body) == (404, "endpoint_not_found"), target
    other = [JSON, ("X-HTTP-Method-Override", "DELETE")]
    assert server.code(token, headers=other, body=body) == (405, "method_not_allowed")


def test_headers(server: Server) -> None:
    token = server.token(
        {"required_headers": {"X-Team": ["red"]}, "forwarded_headers": ["OpenAI-*", "X-Team"]}
    )
    body = b'{"model":"m"}'
    assert server.code(token, body=body) == (400, "invalid_request")
    assert server.code(token, headers=[JSON, ("X-Team", "blue")], body=body)[0] == 400
    sent = [
        JSON,
        ("x-team", "red"),
        ("OpenAI-Beta", "assistants=v2"),
        ("Cookie", "secret"),
        ("User-Agent", "me"),
        ("Accept", "application/json"),
    ]
    assert server.code(token, headers=sent, body=body) == (200, "sent")
    names = [name.lower() for name, _ in server.upstream.received[-1].headers]
    assert sorted(names) == [
        *("accept", "authorization", "content-length", "content-type", "host"),
        *("openai-beta", "x-team"),
    ]


def test_origins(server: Server) -> None:
    token = server.token({"allowed_origins": ["https://*.example.com"]})
    body = b'{"model":"m"}'
    assert server.code(token, body=body) == (400, "origin_required")
    for origin, expected in (
        ("https://app.example.com", (200, "sent")),
        ("https://app.example.com.evil.test", (403, "origin_not_allowed")),
        ("null", (403, "origin_not_allowed")),
    ):
        assert server.code(token, headers=[JSON, ("Origin", origin)], body=body) == expected


def test_addresses_behind_a_trusted_proxy(server: Server) -> None:
    token = server.token({"allowed_ips": ["203.0.113.0/24", "2001:db8::/32"]})
    body = b'{"model":"m"}'
    for forwarded, allowed in (
        ("203.0.113.9", True),
        ("2001:db8::9", True),
        ("::ffff:203.0.113.9", True),
        ("198.51.100.1", False),
        ("203.0.113.9, 198.51.100.1", False),  # the left one is the client's own claim
        ("198.51.100.1, 203.0.113.9", True),
        ("unknown", False),
        ("", False),
    ):
        headers = [JSON, ("X-Forwarded-For", forwarded)]
        expected = (200, "sent") if allowed else (403, "ip_not_allowed")
        assert server.code(token, headers=headers, body=body) == expected, forwarded
    assert server.code(token, body=body) == (403, "ip_not_allowed")  # 127.0.0.1


def test_a_changed_policy_is_felt(server: Server) -> None:
    project = server.proxy.create_project("changing")
    token = server.proxy.mint(project["id"])

    def codes() -> set[tuple[int, str]]:
        return {server.code(token["token"], "GET", "/v1/models") for _ in range(8)}

    assert codes() == {(200, "sent")}
    server.proxy.manage("PATCH", f"/tokens/{token['id']}", {"allowed_methods": ["POST"]})
    wait_until(lambda: codes() == {(405, "method_not_allowed")})
    server.proxy.manage("PATCH", f"/projects/{project['id']}", {"allowed_methods": ["GET"]})
    server.proxy.manage("PATCH", f"/tokens/{token['id']}", {"allowed_methods": None})
    wait_until(lambda: codes() == {(200, "sent")})
