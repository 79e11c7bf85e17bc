from __future__ import annotations

import pytest

from proxy.usage.details import cached_tokens, details_of, whole


@pytest.mark.parametrize(
    ("usage", "of_prompt", "cached"),
    [
        ({"prompt_cache_hit_tokens": 70, "prompt_cache_miss_tokens": 30}, {}, 70),
        ({"num_cached_tokens": 70}, {}, 70),
        ({"cached_tokens": 70}, {}, 70),
        ({"cache_read_input_tokens": 70}, {}, 70),
        ({}, {"cached_tokens": 70}, 70),
        ({"prompt_cache_hit_tokens": 70}, {"cached_tokens": 0}, 70),
        ({"prompt_cache_hit_tokens": 0}, {}, 0),
        ({"prompt_cache_hit_tokens": True}, {}, None),
        ({"prompt_cache_miss_tokens": 30}, {}, None),
        ({}, {"cached_tokens": 0}, 0),
    ],
)
def test_cached_tokens_under_the_names_of_vendors(
    usage: dict[str, object], of_prompt: dict[str, object], cached: int | None
) -> None:
    assert cached_tokens(usage, of_prompt) == cached


def test_values_that_are_zero_or_odd_are_left_out() -> None:
    odd = {"audio_tokens": 0, "cached_tokens_details": [], "cache_write_tokens": -1}
    usage = {"seconds": "9", "characters": None, "service_tier": 5}
    assert details_of({"service_tier": ""}, usage, odd, {"audio_tokens": True}) is None
    assert details_of({"service_tier": "x" * 100}, {}, {}, {}) is None
    assert details_of({}, {"characters": 1.5}, {}, {}) is None


def test_what_was_written_into_the_cache() -> None:
    assert details_of({}, {}, {"cache_creation_tokens": 4}, {}) == {"cache_write_tokens": 4}
    both = {"cache_creation_input_tokens": 4}
    assert details_of({}, both, {"cache_write_tokens": 4}, {}) == {"cache_write_tokens": 4}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7),
        (7.0, 7),
        (-0.0, 0),
        (7.5, None),
        (-1, None),
        (True, None),
        (1e300, None),
        ("7", None),
    ],
)
def test_whole(value: object, expected: int | None) -> None:
    found = whole(value)
    assert found == expected
    assert type(found) is type(expected)
