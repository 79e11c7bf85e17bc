"""A message as a chat completion: golden files, and what OpenAI's SDK makes of each."""

import copy
import logging
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from proxy.providers.anthropic.response import chat_completion, chat_usage
from tests.unit.providers.anthropic.golden import cases

CASES = cases("responses")


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    message = CASES[name]["message"]
    before = copy.deepcopy(message)
    found = chat_completion(message, 7)
    assert found == CASES[name]["completion"]
    assert message == before
    read = ChatCompletion.model_validate(found)
    assert read.choices[0].finish_reason == found["choices"][0]["finish_reason"]


def test_a_stop_reason_that_is_not_known_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        chat_completion({"content": [], "stop_reason": "new\n" + "x" * 100}, 7)
    (record,) = caplog.records
    assert "unknown stop_reason 'new\\n" in record.getMessage()
    assert len(record.getMessage()) < 120


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"content": "x", "usage": [], "stop_details": "x", "stop_reason": 1},
        {"content": [1, {}, {"type": "text"}, {"type": "tool_use"}, {"type": "thinking"}]},
        {"content": [{"type": "text", "text": "a", "citations": [1, {}, {"url": 1}]}]},
    ],
)
def test_what_it_does_not_say_is_no_error(message: dict[str, Any]) -> None:
    assert chat_completion(message, 7)["choices"][0]["finish_reason"] == "stop"


def test_no_counts_are_no_usage() -> None:
    assert chat_usage({}) is None
    assert chat_usage({"input_tokens": True, "output_tokens": "5"}) is None
