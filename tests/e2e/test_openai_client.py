"""The official client, through the proxy, against the stand-in upstream."""

import io

import httpx2
import openai
import pytest

from tests.support.fake_upstream import AUDIO, Upstream
from tests.support.proxy_access import Access
from tests.support.server import UPSTREAM_KEY, ProxyServer

ASK = [{"role": "user", "content": "Hi"}]


def test_chat(
    client: openai.OpenAI, proxy: ProxyServer, upstream: Upstream, access: Access
) -> None:
    answer = client.chat.completions.create(model="gpt-4.1-mini", messages=ASK)  # type: ignore[call-overload]
    assert answer.choices[0].message.content == "Hello there."
    sent = upstream.received[-1]
    assert sent.values("Authorization") == [f"Bearer {UPSTREAM_KEY}"]
    assert access.token not in str(sent.headers)
    (event,) = proxy.events(1)
    assert event["metadata"] == {
        "model": "gpt-4.1-mini",
        "response_id": "chatcmpl-1",
        "created": 1677652288,
        "prompt_tokens": 9,
        "completion_tokens": 12,
        "total_tokens": 21,
        "cached_tokens": 3,
        "reasoning_tokens": 5,
    }
    assert event["outcome"] == "completed"
    assert event["status_code"] == 200
    assert event["usage_source"] == "reported"
    assert event["project_id"] == access.project_id
    assert event["token_id"] == access.token_id
    assert event["token"] == f"sk-{access.token[3:7]}...{access.token[-4:]}"
    assert event["endpoint"] == "/v1/chat/completions"
    assert event["stream"] is False
    assert event["error_code"] is None
    assert event["bytes_in"] == len(sent.body)
    assert event["duration_ms"] >= event["upstream_ms"] > 0
    assert event["duration_ms"] >= event["ttfb_ms"] > 0


def test_streamed_chat_arrives_event_by_event(
    client: openai.OpenAI, proxy: ProxyServer, upstream: Upstream
) -> None:
    stream = client.chat.completions.create(  # type: ignore[call-overload]
        model="gated", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    words = []
    # The upstream sends an event only when it is let to: each must be here before the next goes.
    upstream.gate.release()
    for chunk in stream:
        words.append(chunk.choices[0].delta.content if chunk.choices else chunk.usage.total_tokens)
        upstream.gate.release()
    assert words == ["One ", "two ", "three.", None, 21]
    (event,) = proxy.events(1)
    assert event["stream"] is True
    assert event["outcome"] == "completed"
    assert event["usage_source"] == "reported"
    assert event["metadata"]["total_tokens"] == 21


def test_stream_without_usage_says_none(client: openai.OpenAI, proxy: ProxyServer) -> None:
    stream = client.chat.completions.create(model="gpt-4.1-mini", messages=ASK, stream=True)  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "One two three."
    (event,) = proxy.events(1)
    assert event["usage_source"] == "none"
    assert event["metadata"]["model"] == "gpt-4.1-mini"
    assert "total_tokens" not in event["metadata"]


def test_completions(client: openai.OpenAI, proxy: ProxyServer) -> None:
    answer = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hello")
    assert answer.choices[0].text == " world"
    assert proxy.events(1)[0]["metadata"]["total_tokens"] == 3


def test_responses(client: openai.OpenAI, proxy: ProxyServer) -> None:
    answer = client.responses.create(model="gpt-4.1-mini", input="Hi")
    assert answer.output_text == "Hi."
    (event,) = proxy.events(1)
    assert event["metadata"]["prompt_tokens"] == 36
    assert event["metadata"]["reasoning_tokens"] == 64


def test_streamed_responses(client: openai.OpenAI, proxy: ProxyServer) -> None:
    stream = client.responses.create(model="gpt-4.1-mini", input="Hi", stream=True)
    assert [event.type for event in stream] == [
        "response.created",
        "response.output_text.delta",
        "response.completed",
    ]
    (event,) = proxy.events(1)
    assert event["usage_source"] == "reported"
    assert event["metadata"]["total_tokens"] == 123
    assert event["metadata"]["response_id"] == "resp_1"


def test_embeddings(client: openai.OpenAI, proxy: ProxyServer) -> None:
    answer = client.embeddings.create(
        model="text-embedding-3-small", input="Hi", encoding_format="float"
    )
    assert answer.data[0].embedding == [0.1, 0.2, 0.3]
    assert proxy.events(1)[0]["metadata"]["prompt_tokens"] == 4


def test_file_upload(client: openai.OpenAI, proxy: ProxyServer, upstream: Upstream) -> None:
    content = bytes(range(256)) * 2000
    answer = client.files.create(file=("a.bin", io.BytesIO(content)), purpose="assistants")
    assert answer.id == "file-1"
    assert content in upstream.received[-1].body
    (event,) = proxy.events(1)
    assert event["bytes_in"] == len(upstream.received[-1].body)


def test_audio_bytes(client: openai.OpenAI, proxy: ProxyServer) -> None:
    answer = client.audio.speech.create(model="tts-1", voice="alloy", input="Hi")
    assert answer.read() == AUDIO
    (event,) = proxy.events(1)
    assert event["bytes_out"] == len(AUDIO)
    assert event["usage_source"] == "none"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("error-400", openai.BadRequestError),
        ("error-401", openai.AuthenticationError),
        ("error-403", openai.PermissionDeniedError),
        ("error-404", openai.NotFoundError),
        ("error-409", openai.ConflictError),
        ("error-422", openai.UnprocessableEntityError),
        ("error-429", openai.RateLimitError),
        ("error-500", openai.InternalServerError),
    ],
)
def test_the_upstreams_errors_are_its_exceptions(
    client: openai.OpenAI, proxy: ProxyServer, model: str, expected: type[openai.APIStatusError]
) -> None:
    with pytest.raises(expected) as caught:
        client.chat.completions.create(model=model, messages=ASK)  # type: ignore[call-overload]
    assert caught.value.body["message"] == f"{model} asked for"  # type: ignore[index]
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert caught.value.request_id == "req_upstream"
    (event,) = proxy.events(1)
    assert event["outcome"] == "completed"
    assert event["error_code"] is None


def test_our_refusal_is_its_exception(proxy: ProxyServer, upstream: Upstream) -> None:
    stranger = openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="sk-" + "x" * 22, max_retries=0)
    with pytest.raises(openai.AuthenticationError) as caught:
        stranger.models.list()
    assert caught.value.code == "token_not_found"
    assert not upstream.received
    (event,) = proxy.events(1)
    assert (event["outcome"], event["error_code"]) == ("rejected", "token_not_found")


def test_the_proxys_headers(proxy: ProxyServer, access: Access) -> None:
    answer = httpx2.get(
        f"{proxy.url}/v1/models",
        headers={"Authorization": f"Bearer {access.token}", "X-Request-ID": "mine-1"},
    )
    assert answer.headers["x-proxy-request-id"] == "mine-1"
    assert answer.headers["x-request-id"] == "req_upstream"
    timing = answer.headers["server-timing"]
    assert [part.split(";")[0].strip() for part in timing.split(",")] == [
        "auth",
        "queue",
        "upstream",
    ]
    start = int(answer.headers["x-upstream-request-start"])
    stop = int(answer.headers["x-upstream-request-stop"])
    assert stop > start > 1_600_000_000_000_000_000
    assert proxy.events(1)[0]["request_id"] == "mine-1"
