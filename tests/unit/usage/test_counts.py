from __future__ import annotations

import pytest

from proxy.usage.counts import Usage


def test_metadata_has_the_contracts_names_and_leaves_out_unknown_values() -> None:
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
        (Usage(details={"seconds": 0.5}), True),
        (Usage(details={"characters": 3}), True),
        (Usage(details={"service_tier": "flex", "cache_write_tokens": 3}), False),
    ],
)
def test_zero_is_a_count(usage: Usage, counted: bool) -> None:
    assert usage.has_counts is counted


def test_named_by_fills_only_what_is_missing() -> None:
    first = Usage("m", "r", 1, 100, 100, 200)
    assert Usage(prompt_tokens=2).named_by(first) == Usage("m", "r", 1, 2)
    assert Usage("own", "own", 2).named_by(first) == Usage("own", "own", 2)
    assert Usage(prompt_tokens=2).named_by(None) == Usage(prompt_tokens=2)


def test_the_details_stand_beside_the_counts() -> None:
    usage = Usage("m", prompt_tokens=1, details={"service_tier": "flex", "seconds": 0.5})
    assert usage.as_metadata() == {
        "model": "m",
        "prompt_tokens": 1,
        "service_tier": "flex",
        "seconds": 0.5,
    }


def test_the_tier_belongs_to_the_name() -> None:
    first = Usage("m", prompt_tokens=1, details={"service_tier": "flex", "seconds": 3})
    assert Usage("m").named_by(first).details == {"service_tier": "flex"}
    own = Usage(details={"service_tier": "priority", "seconds": 1})
    assert own.named_by(first).details == {"service_tier": "priority", "seconds": 1}


def test_a_sum_of_two_has_the_later_name() -> None:
    first = Usage("m", "r1", 1, 10, 20, 30, 4, None, {"service_tier": "flex", "seconds": 1.5})
    second = Usage(None, "r2", None, 1, None, 2, None, 5, {"seconds": 2, "characters": 3})
    details = {"service_tier": "flex", "seconds": 3.5, "characters": 3}
    assert first.plus(second) == Usage("m", "r2", 1, 11, 20, 32, 4, 5, details)
    assert Usage(prompt_tokens=0).plus(Usage()) == Usage(prompt_tokens=0)
