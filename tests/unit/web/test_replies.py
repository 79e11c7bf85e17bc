"""The error shapes, and JSON responses."""

import json

import flask
import pytest

from proxy.core.errors import (
    STATUS_BY_CODE,
    CipherError,
    ClientError,
    ProxyError,
    StoreError,
    anthropic_error_type,
)
from proxy.gateway.responses import error_body, error_reply, status_line
from proxy.web.replies import flask_error, json_reply


@pytest.mark.parametrize("code", STATUS_BY_CODE)
def test_the_shape_of_every_code(code: str) -> None:
    reply = error_reply(ProxyError(code=code))
    assert reply.status.startswith(f"{STATUS_BY_CODE[code]} ")
    assert list(json.loads(reply.body)) == ["error"]
    error = json.loads(reply.body)["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"]
    assert error["type"]
    assert (error["param"], error["code"]) == (None, code)
    assert dict(reply.headers)["Content-Length"] == str(len(reply.body))


@pytest.mark.parametrize("code", STATUS_BY_CODE)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/messages/"])
def test_the_shape_of_every_code_for_clients_of_anthropic(code: str, path: str) -> None:
    reply = error_reply(ProxyError(code=code), path=path, request_id="id-1")
    body = json.loads(reply.body)
    assert list(body) == ["type", "error", "request_id"]
    assert (body["type"], body["request_id"]) == ("error", "id-1")
    assert list(body["error"]) == ["type", "message", "code"]
    assert body["error"]["code"] == code
    assert body["error"]["message"]
    assert body["error"]["type"] == anthropic_error_type(STATUS_BY_CODE[code])
    assert ("request-id", "id-1") in reply.headers
    assert dict(reply.headers)["Content-Length"] == str(len(reply.body))


def test_clients_of_anthropic_are_told_the_parameter() -> None:
    error = ClientError("No “x”.", param="x", retry_after=3)
    body = json.loads(error_body(error, "/v1/messages"))
    assert body["error"] == {
        "type": "invalid_request_error",
        "message": "No “x”.",
        "code": "invalid_request",
        "param": "x",
    }
    assert ("Retry-After", "3") in error_reply(error, path="/v1/messages").headers
    assert b"secret" not in error_body(ProxyError("secret"), "/v1/messages")


@pytest.mark.parametrize(
    "path", ["", "/v1/messagesx", "/v1/messages-1", "/v1/threads/1/messages", "/v1/Messages"]
)
def test_other_paths_have_openais_shape(path: str) -> None:
    reply = error_reply(ProxyError(code="conflict"), path=path, request_id="id-1")
    assert reply == error_reply(ProxyError(code="conflict"))


def test_what_the_raiser_said() -> None:
    error = ClientError(
        "No “x”.", param="x", retry_after=3, headers=[("x-should-retry", "false")], code="conflict"
    )
    reply = error_reply(error, [("X-First", "1")])
    assert json.loads(reply.body)["error"] == {
        "message": "No “x”.",
        "type": "invalid_request_error",
        "param": "x",
        "code": "conflict",
    }
    assert reply.headers == [
        ("X-First", "1"),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(reply.body))),
        ("x-should-retry", "false"),
        ("Retry-After", "3"),
    ]
    assert reply.status == "409 Conflict"


def test_a_defect_reveals_nothing() -> None:
    for error in (CipherError("projects.upstream_key of 123 is damaged"), ProxyError("secret")):
        assert b"secret" not in error_body(error)
        assert b"damaged" not in error_body(error)


def test_retry_after_of_a_backend() -> None:
    assert ("Retry-After", "2") in error_reply(StoreError()).headers


def test_for_flask_views() -> None:
    with flask.Flask("test").test_request_context():
        refusal = flask_error(ClientError(code="not_found"))
        assert (refusal.status_code, refusal.content_type) == (404, "application/json")
        response = json_reply({"a": "ä"}, 201, [("Link", "x")])
    assert refusal.headers.getlist("Content-Length") == [str(len(refusal.data))]
    assert (response.status_code, response.content_type) == (201, "application/json")
    assert (response.json, response.headers["Link"]) == ({"a": "ä"}, "x")


def test_status_line() -> None:
    assert status_line(404) == "404 Not Found"
