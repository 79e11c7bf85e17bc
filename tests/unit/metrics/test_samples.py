"""Counting, writing, reading, adding up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metrics.families import CATALOGUE
from proxy.metrics.samples import Samples, bounded, merge

REQUESTS = "proxy_requests_total"
STREAMS = "proxy_requests_in_flight"
DURATION = "proxy_overhead_seconds"
GET = ("chat", "GET", "200", "completed")
POST = ("chat", "POST", "200", "completed")


def sample() -> Samples:
    samples = Samples()
    samples.count(REQUESTS, GET)
    samples.count(REQUESTS, GET, 2)
    samples.set(STREAMS, 4)
    samples.observe(DURATION, 0.0005, ("chat",))
    samples.observe(DURATION, 99.0, ("chat",))
    return samples


def test_counting() -> None:
    values = sample().values
    assert values[REQUESTS] == {GET: 3}
    assert values[STREAMS] == {(): 4}
    cells = values[DURATION][("chat",)]
    # A value equal to a bound belongs to it, as `le` says; the last bucket has no bound.
    assert (cells[0], cells[1], cells[-2], cells[-1]) == (0, 1, 1, 99.0005)
    assert len(cells) == len(CATALOGUE[DURATION].buckets) + 2


def test_samples_survive_dump_and_load() -> None:
    assert Samples.load(sample().dump()).values == sample().values


def test_samples_of_another_version_are_left_out() -> None:
    read = Samples.load(
        b'{"format": 1, "families": {"proxy_unheard_of": [[[], 1]], "proxy_requests_in_flight":'
        b' [[[], 3], [["more"], 4], [[], null]], "proxy_overhead_seconds": [[["chat"], [1, 2]]]}}'
    )
    assert read.values == {STREAMS: {(): 3}, DURATION: {}}
    assert Samples.load(b'{"format": 99, "families": 3}').values == {}
    with pytest.raises(ValueError, match=r"expected|unexpected"):
        Samples.load(b"not json")


def test_ended_processes_have_counters_and_no_gauges() -> None:
    merged = merge([sample(), sample()], [sample()])
    assert merged.values[REQUESTS] == {GET: 9}
    assert merged.values[STREAMS] == {(): 8}
    assert merged.values[DURATION][("chat",)][-2:] == [3, 3 * 99.0005]


def test_each_gauge_is_merged_in_its_own_way() -> None:
    made = []
    for value in (1.0, 5.0):
        samples = Samples()
        for name in (STREAMS, "proxy_revocation_lag_seconds", "proxy_database_up"):
            samples.set(name, value)
        made.append(samples)
    merged = merge(made).values
    assert merged[STREAMS] == {(): 6.0}
    assert merged["proxy_revocation_lag_seconds"] == {(): 5.0}
    assert merged["proxy_database_up"] == {(): 1.0}


def test_merging_does_not_change_its_inputs() -> None:
    one = sample()
    merge([one, sample()], [sample()])
    assert one.values == sample().values


@given(st.lists(st.lists(st.integers(0, 9)), max_size=4), st.integers(0, 4))
def test_the_sum_does_not_depend_on_the_split(parts: list[list[int]], ended: int) -> None:
    made = []
    for part in parts:
        samples = Samples()
        for number in part:
            samples.count(REQUESTS, (f"r{number}", "GET", "200", "completed"))
        made.append(samples)
    merged = merge(made[ended:], made[:ended])
    assert sum(merged.values.get(REQUESTS, {}).values()) == sum(map(len, parts))


def test_bounded_limits_the_series_of_a_family() -> None:
    samples = Samples()
    for number in range(10):
        samples.count("proxy_tokens_total", ("prompt", f"p{number}", "m"), 1 + number)
    kept = bounded(samples, 3).values["proxy_tokens_total"]
    assert kept == {
        ("prompt", "p0", "m"): 1,
        ("prompt", "p1", "m"): 2,
        ("prompt", "p2", "m"): 3,
        ("prompt", "other", "other"): sum(range(4, 11)),
    }
    assert bounded(samples, 10).values == samples.values
