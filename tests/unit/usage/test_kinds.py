from __future__ import annotations

import pytest

from proxy.usage.kinds import is_final, is_generation, merge_anthropic_event
from tests.support.usage_samples import DECODED


@pytest.mark.parametrize(
    ("response", "final"),
    [
        ({"choices": [], "usage": {}}, True),
        ({"choices": [{"finish_reason": "stop"}]}, True),
        ({"choices": [{"finish_reason": None}]}, False),
        ({"choices": [{"finish_reason": "stop"}, {"finish_reason": None}]}, False),
        ({"choices": ["x"]}, False),
        ({"type": "response.completed", "response": {}}, True),
        ({"type": "response.in_progress", "response": {"status": "in_progress"}}, False),
        ({"response": {"object": "response", "status": "incomplete"}}, True),
        ({"object": "thread.run", "status": "expired"}, True),
        ({"object": "thread.run", "status": "requires_action"}, False),
        ({"type": "transcript.text.done"}, True),
        ({"type": "message_start", "message": {}}, False),
        ({"type": "message_delta", "delta": {"stop_reason": None}}, False),
        ({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, True),
        ({"type": [], "status": {}, "choices": {}}, False),
        ([], False),
        (None, False),
    ],
    ids=repr,
)
def test_is_final(response: object, final: bool) -> None:
    assert is_final(response) is final


@pytest.mark.parametrize("name", DECODED)
def test_what_is_generated_has_two_sides(name: str) -> None:
    generated = {"chat", "completion", "run", "message", "spoken", "usage in a choice"}
    generated |= {"response", "response in the background"}
    assert is_generation(DECODED[name][0]) is (name in generated)


def test_what_is_no_object_is_not_generated() -> None:
    assert not is_generation([])
    assert not is_generation({"object": [], "type": {}})


def test_counts_of_a_message_are_replaced_one_by_one() -> None:
    start = {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 1, "x": 2}}}
    found = merge_anthropic_event(start, None)
    assert found is not None
    assert found[0] == {"input_tokens": 1, "x": 2}
    assert found[1]["id"] == "m"
    delta = {"type": "message_delta", "usage": {"input_tokens": None, "output_tokens": 3}}
    found = merge_anthropic_event(delta, found[0])
    assert found is not None
    assert found[1]["usage"] == found[0] == {"input_tokens": 1, "x": 2, "output_tokens": 3}
    assert merge_anthropic_event({"type": "message_delta", "usage": 5}, None) is not None
    assert merge_anthropic_event({"type": "message_stop"}, None) is None
