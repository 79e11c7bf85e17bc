"""Ollama: what it ignores is translated or named, and how its chats end is repaired."""

import json
from typing import Any

import pytest

from proxy.providers import PROVIDERS
from tests.support.provider_dialects import LINES, answered, call, refused, sent, target

OLLAMA = target("ollama", "http://h:11434/v1", "llama3.3")
STRICT = target("ollama", "http://h:11434", params="strict")


@pytest.mark.parametrize(
    ("body", "goes_out", "dropped"),
    [
        ('{"model":"a","max_completion_tokens": 20}', '{"model":"llama3.3","max_tokens": 20}', ()),
        ('{"model":"a","max_tokens":9,"max_completion_tokens":20}',
         '{"model":"llama3.3","max_tokens":20}', ()),
        ('{"model":"a","n":1,"user":"u","tool_choice":"auto"}',
         '{"model":"llama3.3","n":1,"user":"u","tool_choice":"auto"}', ()),
        ('{"model":"a","n":2,"logit_bias":{"1":5}}', '{"model":"llama3.3"}', ("n", "logit_bias")),
        ('{"model":"a","logit_bias":{}}', '{"model":"llama3.3","logit_bias":{}}', ()),
        ('{"model":"a","tools":[{}],"tool_choice":"none"}', '{"model":"llama3.3"}', ()),
        ('{"model":"a","tools":[{}],"tool_choice":"required"}',
         '{"model":"llama3.3","tools":[{}]}', ("tool_choice",)),
        ('{"model":"a","tool_choice":{"type":"function"}}', '{"model":"llama3.3"}',
         ("tool_choice",)),
        ('{"model":"a","reasoning_effort":"minimal"}',
         '{"model":"llama3.3","reasoning_effort":"low"}', ()),
        ('{"model":"a","reasoning_effort":"xhigh"}',
         '{"model":"llama3.3","reasoning_effort":"max"}', ()),
        ('{"model":"a","reasoning_effort":"high","think":1.0}',
         '{"model":"llama3.3","reasoning_effort":"high","think":1.0}', ()),
    ],
)  # fmt: skip
def test_chats(body: str, goes_out: str, dropped: tuple[str, ...]) -> None:
    prepared = call(OLLAMA, body=body)
    assert sent(prepared) == goes_out
    assert prepared.dropped == dropped


@pytest.mark.parametrize(
    ("path", "body", "goes_out", "dropped"),
    [
        ("completions", '{"best_of":2,"echo":true,"n":1}', '{"n":1}', ("best_of", "echo")),
        ("completions", '{"echo":false,"max_completion_tokens":1}',
         '{"echo":false,"max_completion_tokens":1}', ()),
        ("embeddings", '{"input":[[1]],"n":2}', '{"input":[[1]],"n":2}', ()),
        ("responses", '{"truncation":"auto","n":2}', '{"n":2}', ("truncation",)),
    ],
)  # fmt: skip
def test_other_endpoints(path: str, body: str, goes_out: str, dropped: tuple[str, ...]) -> None:
    prepared = call(target("ollama"), f"/v1/{path}", body)
    assert sent(prepared) == goes_out
    assert prepared.dropped == dropped


def test_strict() -> None:
    assert refused(STRICT, body='{"n":2}') == ("invalid_request", "n")
    assert refused(STRICT, "/v1/completions", '{"echo":true}') == ("invalid_request", "echo")
    assert sent(call(STRICT, body='{"n":1,"max_completion_tokens":2}')) == '{"n":1,"max_tokens":2}'


def test_the_mappings_edits_are_seen() -> None:
    where = target("ollama", edits={"max_completion_tokens": 7, "n": 3, "drop": ["logit_bias"]})
    prepared = call(where, body='{"logit_bias":{"1":1}}')
    assert json.loads(sent(prepared)) == {"max_tokens": 7}
    assert prepared.dropped == ("logit_bias", "n")
    forced = target("ollama", edits={"override": {"reasoning_effort": "minimal", "n": 3}})
    prepared = call(forced, body='{"n":2}')
    assert json.loads(sent(prepared)) == {"reasoning_effort": "minimal", "n": 3}
    assert prepared.dropped == ()


def test_strict_is_about_what_the_client_sends() -> None:
    where = target("ollama", edits={"n": 3}, params="strict")
    prepared = call(where, body='{"top_p":1}')
    assert sent(prepared) == '{"top_p":1}'
    assert prepared.dropped == ("n",)


@pytest.mark.parametrize("name", ["previous_response_id", "conversation"])
def test_it_keeps_no_responses(name: str) -> None:
    found = refused(target("ollama"), "/v1/responses", json.dumps({name: "x"}))
    assert found == ("invalid_request", name)


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/files", "/v1/batches?x=1", "/v1", "/x"])
def test_endpoints_that_it_lacks(path: str) -> None:
    assert refused(target("ollama"), path) == ("endpoint_not_supported", None)


def test_credentials() -> None:
    lines = [("Authorization", "Bearer client"), *LINES]
    where = target("ollama", "http://h:11434")
    plain = call(where, "/v1/models", headers=lines, key=None).request.headers
    assert plain == [("Host", "h:11434"), *LINES]
    keyed = call(where, "/v1/models", headers=lines).request.headers
    assert keyed == [*plain, ("Authorization", "Bearer sk-up")]


def test_a_chat_comes_uncompressed() -> None:
    headers = call(OLLAMA, body="{}").request.headers
    assert [line for line in headers if line[0] == "Accept-Encoding"] == [
        ("Accept-Encoding", "identity")
    ]


def chunk(delta: dict[str, Any], finish: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return "data: " + json.dumps({"id": "c", "choices": [choice]}) + "\n\n"


CALL = {
    "index": 0,
    "id": "call_1",
    "type": "function",
    "function": {"name": "f", "arguments": "{}"},
}
REASONING = chunk({"role": "assistant", "content": "", "reasoning": "hm"})
DONE = "data: [DONE]\n\n"


@pytest.mark.parametrize("step", [0, 1, 7])
def test_the_end_of_a_stream_with_tool_calls(step: int) -> None:
    """The chunk that ends it stands apart, with `stop` (litellm#35663)."""
    begin = REASONING + ": ping\n\n" + chunk({"tool_calls": [CALL]})
    upstream = begin + chunk({"content": ""}, "stop") + DONE
    found = answered(OLLAMA, upstream, step=step)
    assert found.startswith(begin)
    assert found.endswith('"delta":{"content":""},"finish_reason":"tool_calls"}]}\n\n' + DONE)


def test_other_ends_stay() -> None:
    for finish in ("length", "tool_calls"):
        upstream = chunk({"tool_calls": [CALL]}) + chunk({}, finish) + DONE
        assert answered(OLLAMA, upstream) == upstream
    upstream = REASONING + chunk({"content": "x"}, "stop") + DONE
    assert answered(OLLAMA, upstream) == upstream


def test_a_whole_response() -> None:
    message = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    whole = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "x": 1}
    found = json.loads(answered(OLLAMA, json.dumps(whole), step=5))
    whole["choices"][0]["finish_reason"] = "tool_calls"  # type: ignore[index]
    assert found == whole
    plain = '{ "choices": [{"index":0, "message":{"content":"x"}, "finish_reason":"stop"}]}'
    assert answered(OLLAMA, plain) == plain


def test_an_error_that_is_no_event() -> None:
    upstream = REASONING + '{"error":"model runner has stopped"}\n'
    assert answered(OLLAMA, upstream) == REASONING + (
        'data: {"error":{"message":"model runner has stopped","type":"server_error",'
        '"param":null,"code":null}}\n\n'
    )


@pytest.mark.parametrize(
    ("path", "status", "head"),
    [
        ("/v1/chat/completions", 404, ("Content-Type", "application/json")),
        ("/v1/embeddings", 200, ("Content-Type", "application/json")),
        ("/v1/chat/completions", 200, ("Content-Type", "text/html")),
    ],
)
def test_what_passes(path: str, status: int, head: tuple[str, str]) -> None:
    assert PROVIDERS["ollama"].transform(OLLAMA, path, status, [head]) is None


def test_messages_of_anthropics_clients_pass() -> None:
    body = '{"model":"a","max_tokens":9,"messages":[],"tool_choice":{"type":"none"},"tools":[]}'
    prepared = call(target("ollama", model="llama"), "/v1/messages?beta=true", body)
    assert prepared.url == "https://h/v1/messages?beta=true"
    assert sent(prepared) == body.replace('"a"', '"llama"')
    head = [("Content-Type", "text/event-stream")]
    assert PROVIDERS["ollama"].transform(target("ollama"), "/v1/messages", 200, head) is None
