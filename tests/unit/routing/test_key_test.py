"""A provider's keys are tested by asking for the models, and nothing of the key is shown."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import gevent
import pytest

from proxy.core.errors import ConnectFailed
from proxy.providers import PROVIDERS
from proxy.providers.base import PreparedCall
from proxy.providers.records import ProviderKeyRecord, ProviderKeySecret, ProviderRecord
from proxy.routing.key_test import KeyTester
from proxy.upstream.timing import Timing
from tests.support.relay_factories import FakeResponse

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "AIzaSy-canary-0123456789"
MODELS = b'{"object": "list", "data": [{"id": "a"}, {"id": "b"}]}'


def provider(base_url: str = "https://h.example/v1", kind: Any = "openai") -> ProviderRecord:
    return ProviderRecord("p", "eu", kind, base_url, {}, True, False, NOW, NOW)


def key(name: str = "team-a") -> ProviderKeySecret:
    record = ProviderKeyRecord(f"id-{name}", "p", name, "mask", 1, (), True, NOW, NOW)
    return ProviderKeySecret(record, SECRET)


class Upstream:
    """Responds to each call by ``respond``, and counts how many are open at once."""

    def __init__(self, respond: Callable[[PreparedCall], Any]) -> None:
        self.calls: list[PreparedCall] = []
        self.most = self._open = 0
        self._respond = respond

    def handle(self, call: PreparedCall, timing: Timing) -> Any:
        self.calls.append(call)
        self._open += 1
        self.most = max(self.most, self._open)
        try:
            return self._respond(call)
        finally:
            self._open -= 1

    def upgrade(self, call: PreparedCall, timing: Timing) -> Any:
        raise NotImplementedError


def result_of(respond: Callable[[PreparedCall], Any], **options: Any) -> Any:
    upstream = Upstream(respond)
    (result,) = KeyTester(PROVIDERS, upstream, **options).test(provider(), [key()])
    assert SECRET not in repr(result)
    return result


def test_asks_for_the_models_once() -> None:
    upstream = Upstream(lambda call: FakeResponse([MODELS]))
    (result,) = KeyTester(PROVIDERS, upstream).test(provider(), [key()])
    assert (result.key_id, result.name, result.ok) == ("id-team-a", "team-a", True)
    assert (result.status, result.models_count, result.error) == (200, 2, None)
    assert result.duration_ms >= 0
    (call,) = upstream.calls
    assert (call.request.method, call.url) == ("GET", "public+https://h.example/v1/models")
    assert call.request.body is None
    assert ("Authorization", f"Bearer {SECRET}") in call.request.headers
    assert ("Accept-Encoding", "identity") in call.request.headers


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (
            401,
            b'{"error": {"code": "invalid_api_key", "message": "x"}}',
            "HTTP 401 (invalid_api_key)",
        ),
        (401, b'{"error": {"type": "authentication_error"}}', "HTTP 401 (authentication_error)"),
        (
            400,
            b'{"error": {"code": 400, "status": "INVALID_ARGUMENT"}}',
            "HTTP 400 (INVALID_ARGUMENT)",
        ),
        (
            403,
            f'{{"error": {{"message": "no {SECRET}", "code": "{SECRET} x"}}}}'.encode(),
            "HTTP 403",
        ),
        (403, b'{"error": {"code": "sk-proj-abcdefghijkl"}}', "HTTP 403"),
        (403, b'{"error": "no"}', "HTTP 403"),
        (500, b"<html>", "HTTP 500"),
        (302, b"", "HTTP 302"),
        (200, b"<html>", "the response is not a list of models"),
        (200, b'{"data": {}}', "the response is not a list of models"),
        (200, b"[]", "the response is not a list of models"),
    ],
)
def test_what_is_no_list_of_models(status: int, body: bytes, error: str) -> None:
    response = FakeResponse([body], status=status)
    result = result_of(lambda call: response)
    assert (result.ok, result.status, result.models_count, result.error) == (
        False,
        status,
        None,
        error,
    )
    assert response.closed


def test_the_secret_is_taken_out_of_failures() -> None:
    def fail(call: PreparedCall) -> Any:
        raise ConnectFailed(f"The upstream could not be reached: {SECRET}.")

    result = result_of(fail)
    assert (result.ok, result.status) == (False, None)
    assert result.error == "The upstream could not be reached: [secret]."


def test_a_silent_upstream_is_given_up() -> None:
    result = result_of(lambda call: gevent.sleep(60), timeout=0.05)
    assert (result.ok, result.status, result.error) == (False, None, "no response within 0.05 s")


def test_a_type_without_a_dialect() -> None:
    upstream = Upstream(lambda call: FakeResponse([MODELS]))
    (result,) = KeyTester({}, upstream).test(provider(kind="gemini"), [key()])
    assert result.error == "This version cannot ask a provider of the type gemini."
    assert upstream.calls == []


def test_four_at_once_in_the_order_of_the_keys() -> None:
    def slowly(call: PreparedCall) -> Any:
        gevent.sleep(0.01)
        return FakeResponse([MODELS])

    upstream = Upstream(slowly)
    keys = [key(str(number)) for number in range(10)]
    results = KeyTester(PROVIDERS, upstream).test(provider(), keys)
    assert [result.name for result in results] == [str(number) for number in range(10)]
    assert (upstream.most, len(upstream.calls)) == (4, 10)
    assert KeyTester(PROVIDERS, upstream).test(provider(), []) == []


@pytest.mark.parametrize(
    ("kind", "base_url", "url"),
    [
        ("openai", "https://h.example", "https://h.example/v1/models"),
        ("custom", "https://h.example/v1", "https://h.example/v1/models"),
        ("ollama", "http://h.example:11434/v1/", "http://h.example:11434/v1/models"),
        ("azure", "https://h.example", "https://h.example/openai/v1/models"),
        ("gemini", "https://h.example", "https://h.example/v1beta/openai/models"),
    ],
)
def test_asks_where_the_provider_has_its_models(kind: str, base_url: str, url: str) -> None:
    upstream = Upstream(lambda call: FakeResponse([MODELS]))
    (result,) = KeyTester(PROVIDERS, upstream).test(provider(base_url, kind), [key()])
    assert [call.url for call in upstream.calls] == [f"public+{url}"]
    assert result.models_count == 2


def test_an_error_in_googles_shape() -> None:
    error = b'[{"error": {"code": 400, "message": "API key not valid.", "status": "X"}}]'
    upstream = Upstream(lambda call: FakeResponse([error], status=400))
    (result,) = KeyTester(PROVIDERS, upstream).test(provider(kind="gemini"), [key()])
    assert result.error == "HTTP 400 (invalid_api_key)"
