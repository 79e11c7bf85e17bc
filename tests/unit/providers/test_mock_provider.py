"""The four dialects over a real socket: what a provider prepares, the mock takes, and back."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from proxy.providers import PROVIDERS
from proxy.providers.base import Target
from tests.support.mock_provider import (
    DIALECTS,
    WORDS,
    MockProvider,
    cut,
    error_event,
    html,
    reset,
    silence,
    status,
)
from tests.support.provider_dialects import call, target

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


@pytest.fixture(params=DIALECTS)
def mock(request: pytest.FixtureRequest) -> Iterator[MockProvider]:
    with MockProvider(request.param, keys={"k1", "k2"}) as made:
        yield made


def asked(
    mock: MockProvider, path: str = "/v1/chat/completions", key: str = "k1", **body: Any
) -> tuple[int, str]:
    """Status and body as the client gets them. Without a body it is a GET."""
    where = target(mock.dialect, mock.base_url, "m1" if body else None)
    text = json.dumps({"model": "alias", **body}) if body else None
    return sent(mock, where, path, text, key)


def sent(
    mock: MockProvider, where: Target, path: str, text: str | None, key: str = "k1"
) -> tuple[int, str]:
    prepared = call(where, path, text, key)
    response = requests.request(
        prepared.request.method,
        prepared.url,
        headers=dict(prepared.request.headers),
        data=prepared.request.body,
        timeout=5,
    )
    lines = list(response.headers.items())
    plain = path.partition("?")[0]
    found = PROVIDERS[mock.dialect].transform(where, plain, response.status_code, lines)
    if found is None:
        return response.status_code, response.text
    return response.status_code, (found.body.feed(response.content) + found.body.end()).decode()


def chunks(stream: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]


def test_a_chat(mock: MockProvider) -> None:
    code, text = asked(mock, messages=[])
    assert code == 200, text
    whole = json.loads(text)
    assert whole["model"] == "m1"
    assert whole["choices"][0]["message"]["content"] == "".join(WORDS)
    assert mock.keys_used == ["k1"]


def test_a_stream(mock: MockProvider) -> None:
    code, text = asked(mock, messages=[], stream=True, stream_options={"include_usage": True})
    assert code == 200
    assert text.endswith("data: [DONE]\n\n")
    deltas = [choice.get("delta", {}) for one in chunks(text) for choice in one["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "".join(WORDS)
    assert chunks(text)[-1]["usage"]["total_tokens"] == 12


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls(mock: MockProvider, stream: bool) -> None:
    _, text = asked(mock, messages=[], tools=TOOLS, stream=stream)
    found = chunks(text) if stream else [json.loads(text)]
    choices = [choice for one in found for choice in one["choices"]]
    calls = [
        each
        for choice in choices
        for each in (choice.get("delta") or choice.get("message") or {}).get("tool_calls", ())
    ]
    assert "tool_calls" in [choice["finish_reason"] for choice in choices]
    assert {each["id"] for each in calls} == (
        {"call_0", "call_1"} if len(calls) > 1 else {"call_0"}
    )
    if stream:
        assert [each["index"] for each in calls] == list(range(len(calls)))
    if mock.dialect == "gemini":
        assert all(each["extra_content"]["google"]["thought_signature"] for each in calls)


def test_dated_azure() -> None:
    with MockProvider("azure") as mock:
        where = target("azure", mock.base_url, "my dep", api_version="2024-10-21", auth="bearer")
        code, text = sent(mock, where, "/v1/chat/completions", '{"model":"alias"}')
        assert code == 200, text
        assert mock.received[0].target == (
            "/openai/deployments/my%20dep/chat/completions?api-version=2024-10-21"
        )


def test_models_and_embeddings(mock: MockProvider) -> None:
    _, text = asked(mock, "/v1/models")
    names = [model["id"] for model in json.loads(text)["data"]]
    assert names == [f"{mock.dialect}-small", f"{mock.dialect}-large"]
    code, text = asked(mock, "/v1/embeddings", input="x")
    assert (code, json.loads(text)["model"]) == (200, "m1")


def test_an_endpoint_that_is_not_there(mock: MockProvider) -> None:
    code, text = asked(mock, "/v1/unknown")
    assert code == 404
    assert json.loads(text)["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("code", [401, 402, 403, 429, 500, 529])
def test_failures_have_openais_shape(mock: MockProvider, code: int) -> None:
    mock.next(status(code, message="no"))
    found, text = asked(mock, messages=[])
    assert found == code
    error = json.loads(text)["error"]
    assert error["message"] == "no"
    assert {"message", "type", "param", "code"} <= set(error)
    assert asked(mock, messages=[])[0] == 200


def test_the_script(mock: MockProvider) -> None:
    mock.next(status(500), None, status(503))
    assert [asked(mock, messages=[])[0] for _ in range(4)] == [500, 200, 503, 200]
    mock.for_key("k1", status(402))
    mock.for_model("m2", status(404))
    assert asked(mock, messages=[])[0] == 402
    assert asked(mock, key="k2", messages=[])[0] == 200
    m2 = target(mock.dialect, mock.base_url, "m2")
    assert sent(mock, m2, "/v1/chat/completions", '{"model":"a"}', "k2")[0] == 404
    mock.for_key("k1", None)
    mock.always(html())
    assert asked(mock, messages=[]) == (502, "<h1>Bad gateway</h1>")
    mock.always(None)
    assert asked(mock, key="k3", messages=[])[0] == 401
    mock.reset()
    assert (mock.received, mock.keys_used) == ([], [])


def test_retry_after(mock: MockProvider) -> None:
    mock.next(status(429, retry_after=2, retry_after_ms=1500, error_code="insufficient_quota"))
    response = requests.get(mock.url + "/v1/models", timeout=5)
    assert response.headers["Retry-After"] == "2"
    assert response.headers["retry-after-ms"] == "1500"


@pytest.mark.parametrize("after", [0, 2])
def test_an_error_in_a_stream(mock: MockProvider, after: int) -> None:
    mock.next(error_event(503, after=after))
    code, text = asked(mock, messages=[], stream=True)
    assert code == 200
    assert "[DONE]" not in text
    *before, last = chunks(text)
    assert last["error"]["type"] == "server_error"
    deltas = [choice["delta"] for one in before for choice in one["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "".join(WORDS[:after])


def test_cut_and_reset(mock: MockProvider) -> None:
    mock.next(cut(after=1))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        asked(mock, messages=[], stream=True)
    mock.next(reset())
    with pytest.raises(requests.ConnectionError):
        asked(mock, messages=[])


@pytest.mark.parametrize("after", [None, 1])
def test_silence(mock: MockProvider, after: int | None) -> None:
    mock.next(silence(after=after))
    with pytest.raises((requests.ReadTimeout, requests.ConnectionError)):
        requests.get(mock.url + "/v1/models", timeout=0.2)
    assert mock.left.wait(5)


def test_killed_and_revived_on_the_same_port(mock: MockProvider) -> None:
    port = mock.port
    with requests.Session() as session:
        assert session.get(mock.url + "/v1/models", timeout=5).status_code in (401, 404)
        mock.kill()
        for client in (session, requests.Session()):
            with client, pytest.raises(requests.ConnectionError):
                client.get(mock.url + "/v1/models", timeout=5)
    mock.revive()
    assert mock.port == port
    assert asked(mock, messages=[])[0] == 200
