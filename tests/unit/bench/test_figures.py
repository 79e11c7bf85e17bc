"""Statistics and how figures are shown."""

import math

import pytest

from bench.columns import shown
from bench.figures import medians, percentile


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)]
)
def test_a_percentile_is_a_value_that_was_measured(share: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), share) == expected


def test_a_percentile_of_nothing_is_no_number() -> None:
    assert math.isnan(percentile([], 0.5))


def test_medians_are_per_figure_over_the_rounds_that_have_it() -> None:
    rounds = [{"a": 1.0}, {"a": 9.0, "b": 4.0}, {"a": 2.0, "b": 6.0}]
    assert medians(rounds) == {"a": 2.0, "b": 5.0}
    assert medians([]) == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (92514.6, "92,515"),
        (186.2, "186"),
        (99.96, "100"),
        (29.44, "29.4"),
        (9.996, "10.0"),
        (0.351, "0.35"),
        (0.0042, "0.004"),
        (-1.5, "-1.50"),
        (0.0, "0"),
        (70.0, "70"),
        (math.nan, "–"),
    ],
)
def test_three_digits(value: float, text: str) -> None:
    assert shown(value) == text
