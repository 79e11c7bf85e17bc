"""proxy/tools/fake_upstream.py: what the official client needs of it, and the key it insists on."""

from collections.abc import Iterator

import openai
import pytest
import requests
from openai.types.chat import ChatCompletionUserMessageParam

from proxy.tools.fake_upstream import MODEL, FakeUpstream

KEY = "sk-the-right-one"
QUESTION: ChatCompletionUserMessageParam = {"role": "user", "content": "two words"}


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(KEY, pace=0) as running:
        yield running


@pytest.fixture
def client(upstream: FakeUpstream) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{upstream.base_url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_a_buffered_and_a_streamed_chat_say_the_same(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=[QUESTION])
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 20)
    *chunks, last = client.chat.completions.create(
        model=MODEL,
        messages=[QUESTION],
        stream=True,
        stream_options={"include_usage": True},
    )
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == answer.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.usage == answer.usage


def test_no_usage_in_a_stream_that_did_not_ask(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model=MODEL, messages=[QUESTION], stream=True)
    assert all(chunk.choices for chunk in stream)


def test_another_key_is_refused(upstream: FakeUpstream) -> None:
    with openai.OpenAI(base_url=f"{upstream.base_url}/v1", api_key="sk-other") as client:
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
        with pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(model=MODEL, messages=[])


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/nothing", b"", 404),
        ("POST", "/v1/nothing", b"", 404),
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("POST", "/v1/chat/completions", b"{}", 400),
    ],
)
def test_what_it_does_not_know(
    upstream: FakeUpstream, method: str, path: str, body: bytes, status: int
) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    found = requests.request(
        method, upstream.base_url + path, data=body, headers=headers, timeout=5
    )
    assert found.status_code == status
    assert found.json()["error"]["message"]
