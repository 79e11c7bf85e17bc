"""Errors: the table, and what is no error of Anthropic's."""

import json
from typing import Any

import pytest

from proxy.providers.anthropic.errors import (
    anthropic_error_of,
    chat_event_status,
    client_status,
    event_status,
    openai_error,
)


def body(kind: str, message: str = "So it is.", **details: Any) -> bytes:
    error = {"type": kind, "message": message, **details}
    return json.dumps({"type": "error", "error": error, "request_id": "req_1"}).encode()


@pytest.mark.parametrize(
    ("status", "kind", "shown", "openais", "code"),
    [
        (400, "invalid_request_error", 400, "invalid_request_error", "invalid_request_error"),
        (401, "authentication_error", 401, "authentication_error", "authentication_error"),
        (402, "billing_error", 402, "invalid_request_error", "billing_error"),
        (403, "permission_error", 403, "permission_error", "permission_error"),
        (404, "not_found_error", 404, "not_found_error", "model_not_found"),
        (409, "conflict_error", 409, "invalid_request_error", "conflict_error"),
        (413, "request_too_large", 413, "invalid_request_error", "request_too_large"),
        (429, "rate_limit_error", 429, "rate_limit_error", "rate_limit_error"),
        (500, "api_error", 502, "server_error", "api_error"),
        (504, "timeout_error", 504, "server_error", "timeout_error"),
        (529, "overloaded_error", 503, "server_error", "overloaded"),
    ],
)
def test_the_table(status: int, kind: str, shown: int, openais: str, code: str) -> None:
    wanted = {
        "error": {"message": "So it is.", "type": openais, "param": None, "code": code},
    }
    assert client_status(status) == shown
    assert json.loads(openai_error(body(kind), status)) == wanted
    # As an event, it stands for the same.
    assert event_status(body(kind)) == status
    assert json.loads(openai_error(body(kind))) == wanted


def test_the_stable_code_of_the_details_counts() -> None:
    found = json.loads(
        openai_error(body("invalid_request_error", details={"error_code": "c"}), 400)
    )
    assert found["error"]["code"] == "c"


@pytest.mark.parametrize("text", [b"<html>secret</html>", b"", b"[]", b'{"error":"secret"}', b"{}"])
def test_what_is_no_error_of_its_own_is_not_quoted(text: bytes) -> None:
    found = json.loads(openai_error(text, 502))["error"]
    assert (found["type"], found["code"]) == ("server_error", "upstream_broken")
    assert "secret" not in found["message"]
    assert event_status(text) == 500


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"code": "rate_limit_exceeded", "type": "requests"}, 429),
        ({"code": "insufficient_quota", "type": "insufficient_quota"}, 429),
        ({"code": None, "type": "invalid_request_error"}, 400),
        ({"code": "model_not_found", "type": "invalid_request_error"}, 404),
        ({"code": "overloaded", "type": "server_error"}, 503),
        ({"code": None, "type": "server_error"}, 500),
        ({"code": 429}, 429),
        ({"code": 7}, 500),
        ({"status": 503, "code": "x"}, 503),
    ],
)
def test_an_error_in_a_stream_of_chat_stands_for_a_status(
    error: dict[str, Any], status: int
) -> None:
    assert chat_event_status(json.dumps({"error": {"message": "m", **error}}).encode()) == status


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_an_error_of_chat_in_anthropics_shape(status: int, kind: str) -> None:
    text = json.dumps({"error": {"message": "So it is.", "type": "x", "code": "y"}}).encode()
    assert json.loads(anthropic_error_of(text, status)) == {
        "type": "error",
        "error": {"type": kind, "message": "So it is."},
    }


def test_an_error_of_chat_may_be_a_string() -> None:
    found = json.loads(anthropic_error_of(b'{"error":"model is loading"}', 503))
    assert found["error"]["message"] == "model is loading"


@pytest.mark.parametrize("text", [b"<html>secret</html>", b"", b"[]", b'{"x":"secret"}'])
def test_what_is_no_error_of_chat_is_not_quoted(text: bytes) -> None:
    found = json.loads(anthropic_error_of(text, 502))["error"]
    assert found["type"] == "api_error"
    assert "secret" not in found["message"]
    assert chat_event_status(text) == 500
