from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.usage.counts import Usage, is_final, read_answer
from tests.usage.samples import DECODED

COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


@pytest.mark.parametrize("name", DECODED)
def test_reads_what_each_api_answers(name: str) -> None:
    answer, expected = DECODED[name]
    assert read_answer(answer) == expected


def test_metadata_has_the_contracts_names_and_leaves_out_what_was_not_told() -> None:
    assert Usage("m", "r", 1, 9, 12, 21, 0, 0).as_metadata() == {
        "model": "m",
        "response_id": "r",
        "created": 1,
        "prompt_tokens": 9,
        "completion_tokens": 12,
        "total_tokens": 21,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
    }
    assert Usage("m", completion_tokens=0).as_metadata() == {"model": "m", "completion_tokens": 0}


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        (Usage("m", "r", 1), False),
        (Usage(cached_tokens=1, reasoning_tokens=1), False),
        (Usage(prompt_tokens=0), True),
        (Usage(completion_tokens=0), True),
        (Usage(total_tokens=0), True),
    ],
)
def test_zero_is_a_count(usage: Usage, counted: bool) -> None:
    assert usage.has_counts is counted


def test_named_by_fills_only_what_is_missing() -> None:
    first = Usage("m", "r", 1, 100, 100, 200)
    assert Usage(prompt_tokens=2).named_by(first) == Usage("m", "r", 1, 2)
    assert Usage("own", "own", 2).named_by(first) == Usage("own", "own", 2)
    assert Usage(prompt_tokens=2).named_by(None) == Usage(prompt_tokens=2)


@pytest.mark.parametrize(
    "look_alike",
    [
        {"tool_usage": {"input_tokens": 5}, "usage": None},
        {"usage_breakdown": {"prompt_tokens": 5}},
        {"choices": [{"message": {"content": '"usage":{"prompt_tokens":5}'}}]},
        {"choices": [{"message": {"usage": {"prompt_tokens": 5}}}]},
        {"output": [{"usage": {"input_tokens": 5}}]},
        {"response": {"usage": {"input_tokens": 5}}},  # neither side says that it is a response
        {"x_groq": {"id": "req_1"}},
        {"object": "thread.run.step", "usage": {"prompt_tokens": 5}},
    ],
)
def test_look_alikes_do_not_count(look_alike: object) -> None:
    assert read_answer(look_alike) == Usage()


@pytest.mark.parametrize(
    "value",
    [True, False, -1, 1.0, "5", None, [5], {"a": 5}, 2**31, 2**70, float("nan")],
    ids=repr,
)
def test_values_of_a_wrong_type_are_not_told(value: object) -> None:
    answer = {
        "model": value if not isinstance(value, str) else 5,
        "id": [value],
        "created": value if not isinstance(value, int) else -1,
        "usage": {
            **dict.fromkeys((*COUNTS, "input_tokens", "output_tokens", "cached_tokens"), value),
            "prompt_tokens_details": value,
            "completion_tokens_details": {"reasoning_tokens": value},
        },
    }
    assert read_answer(answer) == Usage()


@pytest.mark.parametrize("usage", [None, [], "x", 5, True, {}, [{"prompt_tokens": 1}]], ids=repr)
def test_a_usage_that_is_no_object_is_none(usage: object) -> None:
    assert read_answer({"model": "m", "usage": usage, "x_groq": usage}) == Usage("m")


def test_names_that_are_empty_or_absurd_are_not_told() -> None:
    assert read_answer({"model": "", "id": "", "created": 0}) == Usage()
    assert read_answer({"model": "m" * 10_000, "id": "i" * 10_000, "created": 2**60}) == Usage()


def test_a_total_is_derived_only_where_the_api_defines_it_as_the_sum() -> None:
    assert read_answer({"usage": {"input_tokens": 1, "output_tokens": 2}}).total_tokens == 3
    assert read_answer({"usage": {"input_tokens": 1}}).total_tokens is None
    told = read_answer({"usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 9}})
    assert told.total_tokens == 9
    odd = read_answer({"usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    assert odd.total_tokens is None


def test_flat_details_of_other_vendors() -> None:
    usage = {"prompt_tokens": 5, "cached_tokens": 3, "reasoning_tokens": 2}
    read = read_answer({"usage": usage})
    assert (read.cached_tokens, read.reasoning_tokens) == (3, 2)


@pytest.mark.parametrize(
    ("answer", "final"),
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
        ({"type": [], "status": {}, "choices": {}}, False),
        ([], False),
        (None, False),
    ],
    ids=repr,
)
def test_is_final(answer: object, final: bool) -> None:
    assert is_final(answer) is final


KEYS = st.sampled_from(
    [
        "usage", "x_groq", "response", "type", "object", "status", "choices", "model", "id",
        "created", "created_at", "prompt_tokens", "input_tokens", "output_tokens", "total_tokens",
        "prompt_tokens_details", "cached_tokens", "finish_reason",
    ]
)  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(string.printable, max_size=5)
    | st.sampled_from(["response", "response.completed", "thread.run.step"])
)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner), max_leaves=30
)


@given(JSON)
def test_hostile_objects_never_raise(answer: object) -> None:
    read = read_answer(answer)
    is_final(answer)
    for name in COUNTS:
        value = getattr(read, name)
        assert value is None or (type(value) is int and 0 <= value < 2**32)
