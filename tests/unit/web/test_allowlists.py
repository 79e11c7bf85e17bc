"""Policies on the way of a request: what is refused never reaches the upstream, and is reported."""

import json
from dataclasses import replace
from typing import Any

import pytest

from proxy.policy.policy import Policy
from tests.support.relay_factories import (
    JSON_BODY,
    PRINCIPAL,
    Access,
    Result,
    World,
    chunked,
    sized,
)

CHAT = "/v1/chat/completions"
FORM = [("Content-Type", "multipart/form-data; boundary=BB")]
WEBSOCKET = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "k")]


def world(*tokens: dict[str, Any], **project: Any) -> World:
    policy = Policy.compile(project, tokens)
    assert not policy.unreadable
    return World(access=Access(principal=replace(PRINCIPAL, policy=policy)))


def refused(made: World, result: Result, status: int, code: str, param: str | None = None) -> None:
    error = json.loads(result.body)["error"]
    assert (result.code, error["code"], error["param"]) == (status, code, param)
    assert error["message"]
    assert not made.transport.calls
    event = made.event
    assert (event.error_code, event.token_id, event.outcome) == (code, "token-1", "rejected")
    assert made.access.steps == ["authenticate"], "nothing was counted"
    assert not made.events.intents


def chat(**body: Any) -> dict[str, Any]:
    return sized(json.dumps(body).encode())


def test_what_is_allowed_passes_as_it_is() -> None:
    made = world(
        {"allowed_params": {"n": ["1"]}},
        allowed_ips=["192.0.2.0/24"],
        allowed_methods=["POST"],
        allowed_endpoints=["/v1/chat/*"],
        allowed_models=["gpt-4o*"],
    )
    body = b'{ "model" : "gpt-4o-mini", "n": 1.0, "x":"\\u00e9" }'
    assert made.ask("POST", CHAT, **sized(body)).code == 200
    assert made.transport.bodies == [body]
    assert made.access.steps == ["authenticate", "take_quota"]


@pytest.mark.parametrize("door", ["front", "flask"])
def test_both_doors_refuse(door: str) -> None:
    made = world(allowed_endpoints=["/v1/models"])
    ask = made.ask if door == "front" else made.ask_flask
    refused(made, ask("POST", CHAT, **chat(model="m")), 404, "endpoint_not_found")


def test_a_method() -> None:
    made = world(allowed_methods=["POST", "GET"])
    result = made.ask("DELETE", "/v1/files/a")
    refused(made, result, 405, "method_not_allowed")
    assert result.one("Allow") == "GET, POST"


def test_a_refusal_of_the_head_reads_no_body() -> None:
    made = world(allowed_endpoints=["/v1/models"], allowed_models=["m"])
    request = chat(model="m")
    result = made.ask("POST", CHAT, **request)
    refused(made, result, 404, "endpoint_not_found")
    assert made.event.bytes_in == 0


def test_an_address() -> None:
    made = world(allowed_ips=["198.51.100.0/24"])
    refused(made, made.ask(), 403, "ip_not_allowed")


@pytest.mark.parametrize(
    ("origins", "status", "code"),
    [
        ([], 400, "origin_required"),
        (["https://b.test"], 403, "origin_not_allowed"),
        (["https://a.test", "https://b.test"], 403, "origin_not_allowed"),
    ],
)
def test_an_origin(origins: list[str], status: int, code: str) -> None:
    made = world(allowed_origins=["https://a.test"])
    headers = [("Origin", origin) for origin in origins]
    refused(made, made.ask(headers=headers), status, code)
    assert made.ask(headers=[("Origin", "https://a.test")]).code == 200


def test_a_header() -> None:
    made = world(required_headers={"X-Team": ["red"]})
    refused(made, made.ask(), 400, "invalid_request", "X-Team")
    assert made.ask(headers=[("x-team", "red")]).code == 200


@pytest.mark.parametrize("send", [sized, chunked])
@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b'{"model":"gpt-4"}', 403, "model_not_allowed", "model"),
        (b"{}", 403, "model_not_allowed", "model"),
        (b'{"model":null}', 403, "model_not_allowed", "model"),
        (b'{"model":["m"]}', 403, "model_not_allowed", "model"),
        (b'{"model":"m","model":"gpt-4"}', 400, "invalid_request", "model"),
        (b'{"model":"m","Model":"gpt-4"}', 400, "invalid_request", "Model"),
        (b'{"model":"m","mod\\u0065l":"gpt-4"}', 400, "invalid_request", "model"),
        ('{"model":"m"}'.encode("utf-16"), 400, "invalid_request", None),
        (b'{"model":"m"', 400, "invalid_request", None),
        (b'{"model":"m","n":2}', 400, "param_not_allowed", "n"),
    ],
)
def test_a_body(send: Any, body: bytes, status: int, code: str, param: str | None) -> None:
    made = world(allowed_models=["m"], allowed_params={"n": ["1"]})
    refused(made, made.ask("POST", CHAT, **send(body)), status, code, param)
    for content_type in ("text/plain", "application/x-ndjson"):
        headers = [("Content-Type", content_type)]
        made = world(allowed_models=["m"], allowed_params={"n": ["1"]})
        refused(made, made.ask("POST", CHAT, **send(body, headers=headers)), status, code, param)


def test_an_encoded_body() -> None:
    made = world(allowed_models=["m"])
    request = sized(b'{"model":"m"}', headers=[*JSON_BODY, ("Content-Encoding", "gzip")])
    refused(made, made.ask("POST", CHAT, **request), 400, "invalid_request")


@pytest.mark.parametrize(("model", "code"), [("whisper-1", 200), ("gpt-4o-transcribe", 403)])
def test_a_form(model: str, code: int) -> None:
    made = world(allowed_models=["whisper-*"])
    body = (
        '--BB\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF\r\n'
        f'--BB\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n--BB--\r\n'
    ).encode()
    assert made.ask("POST", "/v1/audio/transcriptions", **sized(body, headers=FORM)).code == code
    assert made.transport.bodies == ([body] if code == 200 else [])


def test_requests_without_a_body_name_no_model() -> None:
    made = world(allowed_models=["m"])
    assert made.ask("GET", "/v1/files").code == 200
    assert made.ask("POST", "/v1/responses/r/cancel", headers=[("Content-Length", "0")]).code == 200


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1/models/gpt-4"),
        ("DELETE", "/v1/models/gpt-4"),
        ("GET", "/v1/models/m?model=gpt-4"),
        ("GET", "/v1/engines/gpt-4"),
    ],
)
def test_a_model_in_the_target(method: str, target: str) -> None:
    made = world(allowed_models=["m"])
    refused(made, made.ask(method, target), 403, "model_not_allowed", "model")


def test_a_websocket() -> None:
    for target in ("/v1/realtime?model=gpt-4", "/v1/realtime"):
        made = world(allowed_models=["m"])
        result = made.ask("GET", target, headers=WEBSOCKET)
        refused(made, result, 403, "model_not_allowed", "model")


def test_rules_that_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    policy = Policy.compile({"from_the_future": ["x"]})
    made = World(access=Access(principal=replace(PRINCIPAL, policy=policy)))
    result = made.ask()
    assert result.code == 500
    assert b"future" not in result.body
    assert "from_the_future" in caplog.text
    assert not made.transport.calls


def test_without_a_policy_a_body_is_not_read() -> None:
    made = world()
    body = b'{"model":"a","model":"b"'
    assert made.ask("POST", "/v1//odd;x", **sized(body)).code == 200
    assert made.transport.bodies == [body]
