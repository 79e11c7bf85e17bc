"""A chat completion as a message: golden files, and what Anthropic's SDK makes of each."""

import copy
import json
import logging
from typing import Any

import pytest
from anthropic.types import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.errors import ResponseBroken
from proxy.providers.anthropic.from_messages import chat_request
from proxy.providers.anthropic.to_messages import message_of
from tests.unit.providers.anthropic.golden import cases

CASES = cases("to_messages")


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    completion, wanted = CASES[name]["completion"], CASES[name]["message"]
    before = copy.deepcopy(completion)
    if wanted is None:
        with pytest.raises(ResponseBroken):
            message_of(completion, "asked", "spare")
    else:
        found = message_of(completion, "asked", "spare")
        assert found == wanted
        read = Message.model_validate(found, strict=True)
        assert read.stop_reason == wanted["stop_reason"]
        assert [block.type for block in read.content] == [
            block["type"] for block in wanted["content"]
        ]
    assert completion == before


def test_a_finish_reason_that_is_not_known_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    choice = {"message": {"content": "a"}, "finish_reason": "new\n" + "x" * 100}
    with caplog.at_level(logging.WARNING):
        message_of({"choices": [choice]}, "m", "s")
    (record,) = caplog.records
    assert "unknown finish_reason 'new\\n" in record.getMessage()
    assert len(record.getMessage()) < 120


@pytest.mark.parametrize(
    "completion",
    [
        {"choices": [{"message": {}}]},
        {"choices": [{"message": {"content": 1, "tool_calls": "x", "refusal": 1}}], "usage": []},
        {
            "choices": [{"message": {"content": [1, {}], "tool_calls": [1]}, "finish_reason": 1}],
            "usage": {"prompt_tokens": True, "prompt_tokens_details": 1},
        },
    ],
)
def test_what_it_does_not_say_is_no_error(completion: dict[str, Any]) -> None:
    found = message_of(completion, "m", "s")
    assert (found["content"], found["stop_reason"]) == ([], "end_turn")
    Message.model_validate(found, strict=True)


@pytest.mark.parametrize(
    "completion", [{}, {"choices": None}, {"choices": [1]}, {"choices": [{"message": 1}]}]
)
def test_no_message_breaks_the_response(completion: dict[str, Any]) -> None:
    with pytest.raises(ResponseBroken):
        message_of(completion, "m", "s")


_TEXT = st.text(min_size=1, max_size=8)
_INPUT = st.dictionaries(_TEXT, st.integers(-3, 3) | _TEXT | st.none(), max_size=3)
_CALLS = st.lists(st.tuples(_TEXT, _TEXT, _INPUT), max_size=3, unique_by=lambda call: call[0])


@settings(deadline=None)
@given(_TEXT | st.none(), _CALLS)
def test_there_and_back_keeps_text_calls_and_ids(text: str | None, calls: Any) -> None:
    content: list[dict[str, Any]] = [] if text is None else [{"type": "text", "text": text}]
    content += [
        {"type": "tool_use", "id": call_id, "name": name, "input": given}
        for call_id, name, given in calls
    ]
    request = {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": content},
        ]
    }
    (_, *turns) = chat_request(request, "m")[0]["messages"]
    if not content:
        assert turns == []
        return
    (turn,) = turns
    json.dumps(turn)
    back = message_of({"choices": [{"message": turn, "finish_reason": "stop"}]}, "m", "s")
    kept = [
        {name: value for name, value in block.items() if name != "citations"}
        for block in back["content"]
    ]
    assert kept == content
    assert back["stop_reason"] == ("tool_use" if calls else "end_turn")
