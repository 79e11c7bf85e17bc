"""A chat of OpenAI's that Anthropic serves, through the endpoint: what each side sees."""

import contextlib
import dataclasses
import json
from typing import Any

import pytest

from proxy.gateway.routing import RoutedRequests
from proxy.providers import PROVIDERS
from proxy.providers.base import Target
from proxy.routing.access import RoutingAccess
from proxy.routing.attempt_loop import RoutingOptions, Waiting
from proxy.routing.dispatcher import RouteDispatcher
from proxy.routing.router import Router
from proxy.routing.states import RoutingStates
from tests.support.relay_factories import JSON, SSE, Access, FakeResponse, Result, World
from tests.support.routing_records import catalog, key, mapping, provider
from tests.support.watched_request import PRINCIPAL_WITH_LIMITS

PRINCIPAL = dataclasses.replace(
    PRINCIPAL_WITH_LIMITS, upstream_key=None, routing=RoutingAccess(all_providers=True)
)
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
USAGE = {"input_tokens": 3, "cache_read_input_tokens": 100, "output_tokens": 5}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "usage": USAGE,
}


def frame(kind: str, **event: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **event})}\n\n".encode()


START = frame("message_start", message={**MESSAGE, "content": []})
TEXT = frame("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"})
END = frame("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 9})
STOP = frame("message_stop")


def world(response: FakeResponse) -> World:
    records = catalog(
        dataclasses.replace(provider("a", max_retries=0), provider_type="anthropic"),
        key("a", "1"),
        mapping("m", "a/claude-x"),
    )
    states = RoutingStates(lambda: 1000.0, lambda: 0.5)
    states.replace(records)
    waiting = Waiting(
        clock=lambda: 1000.0,
        wall=lambda: 1.7e9,
        random=lambda: 0.5,
        sleep=lambda _: None,
        limit=lambda _: contextlib.nullcontext(),
    )
    router = Router(Target.from_url("http://upstream.test"), lambda: 0.5, records)
    return World(
        response,
        access=Access(principal=PRINCIPAL),
        routing=lambda transport: RoutedRequests(
            router,
            RouteDispatcher(PROVIDERS, transport, states, RoutingOptions(), waiting),
        ),
    )


def ask(
    made: World, body: dict[str, Any], path: str = "/v1/chat/completions", **headers: str
) -> Result:
    text = json.dumps(body).encode()
    lines = [*JSON, ("Content-Length", str(len(text)))]
    lines += [(name.replace("_", "-"), value) for name, value in headers.items()]
    return made.ask("POST", path, lines, [text])


def metered(made: World) -> tuple[Any, Any, Any]:
    metadata = made.event.metadata
    return tuple(
        metadata.get(name) for name in ("prompt_tokens", "completion_tokens", "cached_tokens")
    )  # type: ignore[return-value]


def test_a_message() -> None:
    made = world(FakeResponse([json.dumps(MESSAGE).encode()]))
    result = ask(made, {**CHAT, "seed": 1})
    assert result.code == 200
    assert json.loads(result.body)["choices"][0]["message"]["content"] == "Hello"
    assert result.one("X-Proxy-Dropped-Params") == "seed"
    assert result.one("Content-Type") == "application/json"
    assert not result.all("Content-Length")
    assert made.transport.calls[0].request.target == b"/v1/messages"
    assert metered(made) == (103, 5, 100)


def test_a_stream() -> None:
    made = world(FakeResponse([START, TEXT + END, STOP], headers=SSE))
    result = ask(made, {**CHAT, "stream": True})
    assert result.error is None
    assert result.code == 200
    assert result.body.endswith(b"data: [DONE]\n\n")
    assert b'"usage"' not in result.body
    assert metered(made) == (103, 9, 100)


def test_a_stream_that_ends_early() -> None:
    made = world(FakeResponse([START, TEXT, END], headers=SSE))
    result = ask(made, {**CHAT, "stream": True})
    assert isinstance(result.error, ConnectionResetError)
    assert b'"content":"Hello"' in result.body
    assert b"[DONE]" not in result.body
    assert made.event.outcome == "aborted"


@pytest.mark.parametrize("streamed", [True, False])
def test_an_overload_is_a_503(streamed: bool) -> None:
    error = {"error": {"type": "overloaded_error", "message": "So."}}
    if streamed:
        response = FakeResponse([START, frame("error", **error)], headers=SSE)
    else:
        text = json.dumps({"type": "error", **error}).encode()
        response = FakeResponse([text], status=529, reason="Overloaded")
    made = world(response)
    result = ask(made, {**CHAT, "stream": streamed})
    assert result.status == "503 Service Unavailable"
    assert json.loads(result.body)["error"]["code"] == "overloaded"
    assert result.one("Content-Type") == "application/json"
    # The attempt whose stream began may be billed, so it is an event of its own.
    assert [event.status_code for event in made.events] == ([200, 503] if streamed else [503])


def test_a_native_message_passes_as_it_is() -> None:
    text = json.dumps(MESSAGE).encode()
    made = world(FakeResponse([text]))
    result = ask(made, CHAT, "/v1/messages?beta=true", anthropic_beta="a,b")
    assert result.body == text
    call = made.transport.calls[0].request
    assert call.target == b"/v1/messages?beta=true"
    assert made.transport.bodies == [json.dumps({**CHAT, "model": "claude-x"}).encode()]
    sent = {name.lower(): value for name, value in call.headers}
    assert (sent["anthropic-beta"], sent["x-api-key"]) == ("a,b", "secret-1")
    assert "authorization" not in sent
    assert metered(made) == (103, 5, 100)


def test_embeddings_are_not_supported() -> None:
    result = ask(world(FakeResponse()), {"model": "m", "input": "x"}, "/v1/embeddings")
    assert result.code == 404
    assert json.loads(result.body)["error"]["code"] == "endpoint_not_supported"
