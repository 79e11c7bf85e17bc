"""OpenAI's API at a shared provider: the model and the mapping's edits, and whose account it is."""

import pytest

from proxy.providers import PROVIDERS
from proxy.providers.base import OutboundRequest, Target
from proxy.providers.body import scan
from tests.support.provider_dialects import LINES, call, refused, sent, target


@pytest.fixture(params=["openai", "custom"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_model_is_replaced(kind: str) -> None:
    prepared = call(target(kind, model="gpt-4-0613"), body='{"model" : "gpt-4" , "x":1.50}')
    assert sent(prepared) == '{"model" : "gpt-4-0613" , "x":1.50}'
    assert prepared.request.headers == [
        ("Host", "h"),
        *LINES,
        ("Content-Type", "application/json"),
        ("Content-Length", "35"),
        ("Authorization", "Bearer sk-up"),
    ]
    assert prepared.dropped == ()


def test_without_changes_the_body_is_the_same_object(kind: str) -> None:
    body = b'{"model":"a"}'
    request = OutboundRequest("POST", b"/v1/x", [], body)
    for model in (None, "a"):
        where = target(kind, model=model)
        prepared = PROVIDERS[kind].prepare(request, where, "k", scan(body, "application/json"))
        assert prepared.request.body is body


def test_the_edits_of_the_mapping(kind: str) -> None:
    edits = {"temperature": 0.7, "top_p": 1, "override": {"n": 1}, "drop": ["user", "seed"]}
    where = target(kind, model="b", edits=edits)
    prepared = call(where, body='{"model":"a","top_p":0,"n":5,"user":"u"}')
    assert sent(prepared) == '{"model":"b","top_p":0,"n":1,"temperature":0.7}'
    assert prepared.dropped == ("user",)


def test_an_administrators_drop_is_no_fault_of_the_client(kind: str) -> None:
    where = target(kind, edits={"drop": ["user"]}, params="strict")
    assert sent(call(where, body='{"user":"u"}')) == "{}"


def test_the_model_of_a_form(kind: str) -> None:
    form = '--B\r\nContent-Disposition: form-data; name="model"\r\n\r\n{}\r\n--B--\r\n'
    prepared = call(
        target(kind, model="whisper-large"),
        "/v1/audio/transcriptions",
        form.format("w"),
        content_type="multipart/form-data; boundary=B",
    )
    assert sent(prepared) == form.format("whisper-large")


def test_the_model_of_a_realtime_connection(kind: str) -> None:
    where = target(kind, model="gpt/rt")
    assert (
        call(where, "/v1/realtime?x=%41&model=rt").url
        == "https://h/v1/realtime?x=%41&model=gpt%2Frt"
    )
    assert refused(where, "/v1/realtime?model=a&model=b") == ("invalid_request", "model")


def test_the_account_is_the_providers(kind: str) -> None:
    lines = [
        ("Authorization", "Bearer sk-client"),
        ("Openai-Organization", "org-1"),
        ("Openai-Project", "proj-1"),
        ("Api-Key", "1"),
        ("X-Api-Key", "3"),
        ("X-Goog-Api-Key", "2"),
        ("Openai-Beta", "assistants=v2"),
    ]
    kept = [("Host", "h"), ("Openai-Beta", "assistants=v2")]
    where = target(kind)
    assert call(where, "/v1/models", headers=lines).request.headers == [
        *kept,
        ("Authorization", "Bearer sk-up"),
    ]
    assert call(where, "/v1/models", headers=lines, key=None).request.headers == kept


def test_the_default_upstream_gets_all_lines() -> None:
    lines = [("Authorization", "Bearer sk-client"), ("Openai-Organization", "org-1")]
    request = OutboundRequest("GET", b"/v1/models", lines, None)
    prepared = PROVIDERS["openai"].prepare(request, Target.from_url("https://h"), None)
    assert prepared.request.headers == [("Host", "h"), *lines]


def test_responses_pass(kind: str) -> None:
    provider = PROVIDERS[kind]
    head = [("Content-Type", "text/event-stream")]
    assert provider.transform(target(kind), "/v1/chat/completions", 200, head) is None
