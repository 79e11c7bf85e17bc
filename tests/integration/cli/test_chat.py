"""proxy/cli/chat.py: a conversation that remembers, and that no refusal ends."""

import builtins
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import requests
import responses

from proxy.tools.fake_upstream import FakeUpstream
from tests.support.cli_runner import Run

KEY = "sk-the-right-one"
URL = "http://127.0.0.1:8080/v1/chat/completions"


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(KEY, pace=0) as running:
        yield running


def answer(text: str) -> bytes:
    chunk = orjson.dumps({"choices": [{"delta": {"content": text}}]})
    return b"data: " + chunk + b"\n\ndata: [DONE]\n\n"


def sent(call: responses.Call) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(call.request.body or b"")
    return body


def test_a_real_stream(run: Run, upstream: FakeUpstream) -> None:
    result = run(
        "chat", "--base-url", upstream.base_url, "--token", KEY, "--verbose", input="hi\nEXIT\nx\n"
    )
    assert result.exit_code == 0
    assert result.stdout.startswith("This response was made up")
    assert "1 + 20 tokens]" in result.stderr


@responses.activate
def test_history_and_options(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXY_TOKEN", KEY)
    responses.post(URL, body=answer("one"))
    responses.post(URL, body=answer("two"))
    arguments = ["--model", "m", "--system", "be brief", "--temperature", "0", "--max-tokens", "9"]
    result = run("chat", *arguments, input="first\n\n second \n")
    assert result.output == "one\ntwo\n"
    first, second = (sent(call) for call in responses.calls)
    system = {"role": "system", "content": "be brief"}
    assert first == {
        "model": "m",
        "stream": True,
        "temperature": 0.0,
        "max_completion_tokens": 9,
        "messages": [system, {"role": "user", "content": "first"}],
    }
    assert second["messages"][1:] == [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "second"},
    ]
    assert responses.calls[0].request.headers["Authorization"] == f"Bearer {KEY}"


@responses.activate
def test_a_failed_response_is_shown_and_forgotten(run: Run) -> None:
    error = {"message": "Too much.", "code": "quota_exceeded"}
    responses.post(URL, json={"error": error}, status=429)
    responses.post(URL, body=b'data: {"error": {"message": "Overloaded."}}\n\n')
    responses.post(URL, body=requests.ConnectionError("refused"))
    responses.post(URL, body=answer("fine"))
    result = run("chat", "--token", KEY, "--model", "m", input="a\nb\nc\nd\nquit\n")
    assert result.exit_code == 0
    assert result.stdout.split() == ["fine"]
    for message in ("Too much. (quota_exceeded, HTTP 429)", "Overloaded.", "refused"):
        assert message in result.stderr
    assert sent(responses.calls[3])["messages"] == [{"role": "user", "content": "d"}]


@responses.activate
def test_ctrl_c_leaves(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(builtins, "input", interrupted)
    assert run("chat", "--token", KEY).exit_code == 0


def test_in_a_terminal_there_is_a_prompt(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[str] = []

    def end(prompt: str) -> str:
        prompts.append(prompt)
        raise EOFError

    monkeypatch.setattr("proxy.cli.chat._is_terminal", lambda: True)
    monkeypatch.setattr(builtins, "input", end)
    result = run("chat", "--token", KEY)
    assert result.exit_code == 0
    assert "exit" in result.output
    assert prompts == ["> "]


def test_without_a_token(run: Run) -> None:
    result = run("chat")
    assert result.exit_code == 2
    assert "PROXY_TOKEN" in result.output
