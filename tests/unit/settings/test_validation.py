"""Settings together, and with the disk."""

from pathlib import Path
from typing import Any

import pytest

from proxy.settings.validation import conflicting_settings, misspelled_limits, wrong_paths

DEFAULTS: dict[str, Any] = {
    "MAX_CONCURRENT_REQUESTS": 10,
    "WORKER_CONNECTIONS": 20,
    "MAX_REQUEST_BYTES": 100,
    "MAX_JSON_BYTES": 80,
    "EVENT_STREAM": "",
    "REDIS_URL": "",
    "RATE_LIMIT_ON_ERROR": "open",
    "LOGGING_TOKEN": "",
    "LOGGING_URL": "",
    "AUTH_MODE": "tokens",
    "RATE_LIMIT_PER_TOKEN_RPM": 0,
    "RATE_LIMIT_PER_PROJECT_RPM": 0,
    "CACHE": False,
    "CACHE_TTL": 0.0,
    "CACHE_STALE_IF_ERROR": 0.0,
    "CACHE_MAX_ENTRY": 4,
    "MAX_CACHE_SIZE": 10,
}

NAMES = {
    *["RATE_LIMIT", "RATE_LIMIT_GLOBAL_RPM", "RATE_LIMIT_PER_IP_RPM", "RATE_LIMIT_ON_ERROR"],
    *["RATE_LIMIT_PER_TOKEN_RPM", "RATE_LIMIT_PER_KEY_RPM", "RATE_LIMIT_PER_PROJECT_RPM", "PORT"],
}


def test_what_was_set_is_held_against_the_defaults_of_the_rest() -> None:
    assert conflicting_settings({}, DEFAULTS, set()) == []
    (problem,) = conflicting_settings({"WORKER_CONNECTIONS": 10}, DEFAULTS, set())
    assert problem.startswith("MAX_CONCURRENT_REQUESTS: ")


def test_one_json_body_must_fit_into_what_may_be_held() -> None:
    assert conflicting_settings({"HELD_BODIES_MAX_BYTES": 80}, DEFAULTS, set()) == []
    (problem,) = conflicting_settings({"HELD_BODIES_MAX_BYTES": 79}, DEFAULTS, set())
    assert problem.startswith("HELD_BODIES_MAX_BYTES: ")
    # Left at its default it is no problem that somebody could have meant.
    assert conflicting_settings({"MAX_JSON_BYTES": 100}, DEFAULTS, set()) == []


def test_a_limit_that_cannot_hold_is_refused() -> None:
    passing = {"AUTH_MODE": "passthrough"}
    assert conflicting_settings(passing, DEFAULTS, set()) == []
    for name in ("RATE_LIMIT_PER_TOKEN_RPM", "RATE_LIMIT_PER_PROJECT_RPM"):
        assert conflicting_settings({name: 5}, DEFAULTS, set()) == []
        (problem,) = conflicting_settings({**passing, name: 5}, DEFAULTS, set())
        assert problem.startswith("AUTH_MODE: ")


def test_nothing_more_is_said_of_a_setting_that_is_a_problem_already() -> None:
    wrong = {"WORKER_CONNECTIONS": 1, "EVENT_STREAM": "events"}
    assert len(conflicting_settings(wrong, DEFAULTS, set())) == 2
    assert len(conflicting_settings(wrong, DEFAULTS, {"MAX_CONCURRENT_REQUESTS", "REDIS_URL"})) == 0


def names(chosen: dict[str, Any]) -> list[str]:
    found = conflicting_settings(chosen, DEFAULTS, set())
    return [problem.partition(":")[0] for problem in found]


def test_one_response_must_fit_into_the_cache() -> None:
    assert names({"CACHE_MAX_ENTRY": 10}) == []
    assert names({"CACHE_MAX_ENTRY": 11}) == ["CACHE_MAX_ENTRY"]
    assert names({"MAX_CACHE_SIZE": 3}) == ["CACHE_MAX_ENTRY"]


def test_what_needs_a_cache_is_refused_without_one() -> None:
    assert names({"CACHE_STALE_IF_ERROR": 5.0}) == ["CACHE_STALE_IF_ERROR"]
    assert names({"CACHE_STALE_IF_ERROR": 5.0, "CACHE_TTL": 1.0}) == []
    passing = {"AUTH_MODE": "passthrough", "CACHE": True}
    assert names(passing) == ["CACHE"]
    assert names({**passing, "CACHE_TTL": 1.0}) == []


def test_where_there_are_projects_they_say_what_is_cached() -> None:
    assert names({"CACHE": True, "CACHE_TTL": 1.0}) == ["CACHE"]
    assert names({"CACHE": True}) == ["CACHE", "CACHE"]
    assert names({"CACHE_TTL": 1.0}) == []


def test_a_limiter_that_cannot_be_away() -> None:
    (problem,) = conflicting_settings({"RATE_LIMIT_ON_ERROR": "closed"}, DEFAULTS, set())
    assert problem.startswith("RATE_LIMIT_ON_ERROR: ")
    chosen = {"RATE_LIMIT_ON_ERROR": "closed", "REDIS_URL": "redis://h"}
    assert conflicting_settings(chosen, DEFAULTS, set()) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RATE_LIMIT_PER_PROJET_RPM", "RATE_LIMIT_PER_PROJECT_RPM"),
        ("RATE_LIMIT_PER_IP", "RATE_LIMIT_PER_IP_RPM"),
        ("RATE_LIMIT_ONERROR", "RATE_LIMIT_ON_ERROR"),
        ("RATE_LIMIT_GLOBAL", "RATE_LIMIT_GLOBAL_RPM"),
    ],
)
def test_a_limit_with_a_wrong_name_would_not_hold(name: str, meant: str) -> None:
    assert misspelled_limits([name], NAMES) == [f"{name}: no such setting; did you mean {meant}?"]


def test_what_is_nobody_s_misspelling_is_left_alone() -> None:
    others = ["RATE_LIMIT_PORT", "RATE_LIMIT_SERVICE_HOST", "RATE_LIMIT_PORT_8080_TCP_PROTO"]
    assert misspelled_limits([*NAMES, *others, "PORT", "RATELIMIT_X"], NAMES) == []


def test_a_folder_where_a_file_is_expected_and_the_other_way_round(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert wrong_paths({"EVENT_LOG": str(file), "PROFILE_DIR": str(tmp_path)}) == []
    problems = wrong_paths({"EVENT_LOG": str(tmp_path), "PROFILE_DIR": str(file)})
    assert [problem.partition(":")[0] for problem in problems] == ["EVENT_LOG", "PROFILE_DIR"]
