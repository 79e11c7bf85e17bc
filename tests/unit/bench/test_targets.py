"""Targets are judged on medians, and never silently left out."""

import math

from bench.scenarios import SCENARIOS
from bench.tables import verdicts
from bench.targets import TARGETS
from tests.support.bench_results import buffered, result


def words(*rounds: object) -> dict[str, str]:
    return {v.target.text: v.word for v in verdicts(result(*rounds), "buffered")}  # type: ignore[arg-type]


def test_met_and_not_met_against_the_floor_of_the_same_run() -> None:
    assert words(buffered("floor", 1, 200, 20), buffered("ours", 1, 320, 31)) == {
        "CPU per request": "met",
        "CPU per request, against raw": "not measured",
        "usage events lost": "met",
        "longest request": "not met",
    }


def test_the_raw_relay_is_a_measure_too_and_no_event_may_be_lost() -> None:
    assert words(buffered("raw", 1, 30), buffered("ours", 1, 300, lost=1)) == {
        "CPU per request": "not measured",
        "CPU per request, against raw": "not met",
        "usage events lost": "not met",
        "longest request": "not measured",
    }


def test_the_median_of_the_rounds_counts() -> None:
    rounds = [buffered("floor", n, 200) for n in (1, 2, 3)]
    rounds += [buffered("ours", n, cpu) for n, cpu in ((1, 300), (2, 310), (3, 9000))]
    assert words(*rounds)["CPU per request"] == "met"


def test_without_the_floor_it_is_said() -> None:
    found = words(buffered("ours", 1, 300))
    assert found.pop("usage events lost") == "met"
    assert set(found.values()) == {"not measured"}


def test_no_number_does_not_meet_a_target() -> None:
    assert words(buffered("floor", 1, 200), buffered("ours", 1, math.nan)) == {
        "CPU per request": "not met",
        "CPU per request, against raw": "not measured",
        "usage events lost": "met",
        "longest request": "met",
    }


def test_targets_belong_to_scenarios() -> None:
    assert {target.scenario for target in TARGETS} <= set(SCENARIOS)
