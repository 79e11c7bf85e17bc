from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.usage.counts import Usage
from proxy.usage.extract import read_response
from proxy.usage.kinds import is_final, is_generation
from tests.support.usage_samples import DECODED

COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


@pytest.mark.parametrize("name", DECODED)
def test_reads_the_response_of_each_api(name: str) -> None:
    response, expected = DECODED[name]
    assert read_response(response) == expected


@pytest.mark.parametrize(
    "look_alike",
    [
        {"tool_usage": {"input_tokens": 5}, "usage": None},
        {"usage_breakdown": {"prompt_tokens": 5}},
        {"choices": [{"message": {"content": '"usage":{"prompt_tokens":5}'}}]},
        {"choices": [{"message": {"usage": {"prompt_tokens": 5}}}]},
        {"choices": [{"delta": {"usage": {"prompt_tokens": 5}}}]},
        {"message": {"usage": {"input_tokens": 5}}},  # no event of Anthropic's
        {"output": [{"usage": {"input_tokens": 5}}]},
        {"response": {"usage": {"input_tokens": 5}}},  # neither side says that it is a response
        {"x_groq": {"id": "req_1"}},
        {"object": "thread.run.step", "usage": {"prompt_tokens": 5}},
    ],
)
def test_look_alikes_do_not_count(look_alike: object) -> None:
    assert read_response(look_alike) == Usage()


@pytest.mark.parametrize(
    "value",
    [True, False, -1, 1.5, "5", None, [5], {"a": 5}, 2**31, 2**70, float("nan")],
    ids=repr,
)
def test_values_of_a_wrong_type_are_not_reported(value: object) -> None:
    response = {
        "model": value if not isinstance(value, str) else 5,
        "id": [value],
        "created": value if not isinstance(value, int) else -1,
        "usage": {
            **dict.fromkeys((*COUNTS, "input_tokens", "output_tokens", "cached_tokens"), value),
            "prompt_tokens_details": value,
            "completion_tokens_details": {"reasoning_tokens": value},
        },
    }
    assert read_response(response) == Usage()


@pytest.mark.parametrize("usage", [None, [], "x", 5, True, {}, [{"prompt_tokens": 1}]], ids=repr)
def test_a_usage_that_is_no_object_is_none(usage: object) -> None:
    assert read_response({"model": "m", "usage": usage, "x_groq": usage}) == Usage("m")


def test_names_that_are_empty_or_absurd_are_not_reported() -> None:
    assert read_response({"model": "", "id": "", "created": 0}) == Usage()
    assert read_response({"model": "m" * 10_000, "id": "i" * 10_000, "created": 2**60}) == Usage()


def test_a_total_is_derived_only_where_the_api_defines_it_as_the_sum() -> None:
    assert read_response({"usage": {"input_tokens": 1, "output_tokens": 2}}).total_tokens == 3
    assert read_response({"usage": {"input_tokens": 1}}).total_tokens is None
    told = read_response({"usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 9}})
    assert told.total_tokens == 9
    odd = read_response({"usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    assert odd.total_tokens is None


def test_flat_details_of_other_vendors() -> None:
    usage = {"prompt_tokens": 5, "cached_tokens": 3, "reasoning_tokens": 2}
    read = read_response({"usage": usage})
    assert (read.cached_tokens, read.reasoning_tokens) == (3, 2)


@pytest.mark.parametrize("value", [5, 5.0])
def test_a_whole_number_counts_however_it_is_spelled(value: object) -> None:
    assert read_response({"usage": {"prompt_tokens": value}}).prompt_tokens == 5


@pytest.mark.parametrize(
    ("usage", "prompt"),
    [
        ({"input_tokens": 1, "cache_read_input_tokens": 10}, 11),
        ({"input_tokens": 1, "cache_creation_input_tokens": None, "output_tokens": 1}, 1),
        # A total says that the service counts as OpenAI does: the cached ones are among the input.
        ({"input_tokens": 11, "cache_read_input_tokens": 10, "total_tokens": 12}, 11),
        ({"prompt_tokens": 11, "cache_read_input_tokens": 10}, 11),
    ],
)
def test_where_cached_tokens_are_counted_apart(usage: dict[str, object], prompt: int) -> None:
    assert read_response({"usage": usage}).prompt_tokens == prompt


KEYS = st.sampled_from(
    [
        "usage", "x_groq", "response", "type", "object", "status", "choices", "model", "id",
        "created", "created_at", "prompt_tokens", "input_tokens", "output_tokens", "total_tokens",
        "prompt_tokens_details", "cached_tokens", "finish_reason", "message", "delta", "seconds",
        "cached_tokens_details", "audio_tokens", "service_tier", "cache_read_input_tokens",
    ]
)  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(string.printable, max_size=5)
    | st.sampled_from(["response", "response.completed", "thread.run.step", "message_start"])
)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner), max_leaves=30
)


@given(JSON)
def test_hostile_objects_never_raise(response: object) -> None:
    read = read_response(response)
    is_final(response)
    is_generation(response)
    for name in COUNTS:
        value = getattr(read, name)
        assert value is None or (type(value) is int and 0 <= value < 2**32)
