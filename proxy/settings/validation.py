"""Settings that are valid alone but contradict each other, or what is on the disk.

`chosen` has the parsed value of each setting that was given, by the name of its variable.

Note: a setting that is a problem already is not in `chosen`, and must not become a second problem.
"""

import math
from collections.abc import Iterable, Mapping, Set
from difflib import get_close_matches
from os.path import isdir, isfile
from typing import Any


def conflicting_settings(
    chosen: Mapping[str, Any], defaults: Mapping[str, Any], invalid: Set[str]
) -> list[str]:
    """Problems of settings that are valid alone, but not together.

    `invalid` has the names that are a problem already; nothing more is reported about them.
    """

    def value(name: str) -> Any:
        return chosen.get(name, defaults[name])

    found = [
        (
            {"MAX_CONCURRENT_REQUESTS", "WORKER_CONNECTIONS"},
            value("MAX_CONCURRENT_REQUESTS") >= value("WORKER_CONNECTIONS"),
            "MAX_CONCURRENT_REQUESTS: must be smaller than WORKER_CONNECTIONS, so that a full node"
            " can still respond",
        ),
        (
            {"MAX_JSON_BYTES", "MAX_REQUEST_BYTES"},
            # Left at its default, the smaller of the two applies.
            chosen.get("MAX_JSON_BYTES", 0) > value("MAX_REQUEST_BYTES"),
            "MAX_JSON_BYTES: must not be larger than MAX_REQUEST_BYTES",
        ),
        (
            {"HELD_BODIES_MAX_BYTES", "MAX_JSON_BYTES"},
            # Left at its default, a larger body is held alone.
            chosen.get("HELD_BODIES_MAX_BYTES", math.inf) < value("MAX_JSON_BYTES"),
            "HELD_BODIES_MAX_BYTES: must not be smaller than MAX_JSON_BYTES",
        ),
        (
            {"REDIS_URL"},
            value("EVENT_STREAM") and not value("REDIS_URL"),
            "EVENT_STREAM: needs REDIS_URL, where the stream lies",
        ),
        (
            {"AUTH_MODE", "RATE_LIMIT_PER_TOKEN_RPM", "RATE_LIMIT_PER_PROJECT_RPM"},
            value("AUTH_MODE") == "passthrough"
            and (value("RATE_LIMIT_PER_TOKEN_RPM") or value("RATE_LIMIT_PER_PROJECT_RPM")),
            "AUTH_MODE: passthrough knows no tokens and projects, so RATE_LIMIT_PER_TOKEN_RPM and"
            " RATE_LIMIT_PER_PROJECT_RPM cannot hold",
        ),
        (
            {"AUTH_MODE", "API_CONFIG_PATH"},
            value("AUTH_MODE") == "passthrough" and "API_CONFIG_PATH" in chosen,
            "AUTH_MODE: passthrough knows no projects, so the providers of API_CONFIG_PATH cannot"
            " be used",
        ),
        (
            {"REDIS_URL", "RATE_LIMIT_ON_ERROR"},
            value("RATE_LIMIT_ON_ERROR") == "closed" and not value("REDIS_URL"),
            "RATE_LIMIT_ON_ERROR: closed needs REDIS_URL; without it there is nothing that could be"
            " away",
        ),
        (
            {"CACHE_MAX_ENTRY", "MAX_CACHE_SIZE"},
            value("CACHE_MAX_ENTRY") > value("MAX_CACHE_SIZE"),
            "CACHE_MAX_ENTRY: must not be larger than MAX_CACHE_SIZE",
        ),
        (
            {"CACHE_STALE_IF_ERROR", "CACHE_TTL"},
            value("CACHE_STALE_IF_ERROR") and not value("CACHE_TTL"),
            "CACHE_STALE_IF_ERROR: needs CACHE_TTL; without it no response is stored",
        ),
        (
            {"CACHE", "CACHE_TTL"},
            value("CACHE") and not value("CACHE_TTL"),
            "CACHE: on needs CACHE_TTL, the time for which responses are stored",
        ),
        (
            {"CACHE", "AUTH_MODE"},
            value("CACHE") and value("AUTH_MODE") != "passthrough",
            "CACHE: on is for AUTH_MODE=passthrough; elsewhere the field `cache` of a project"
            " turns its cache on",
        ),
        (
            {"LOGGING_URL"},
            value("LOGGING_TOKEN") and not value("LOGGING_URL"),
            "LOGGING_TOKEN: needs LOGGING_URL, where it is sent",
        ),
    ]
    return [problem for names, wrong, problem in found if wrong and names.isdisjoint(invalid)]


def misspelled_limits(given: Iterable[str], known: Set[str]) -> list[str]:
    """Problems of the variables `given` whose names are nearly that of a rate limit.

    Such a limit would not apply. Other names with the same prefix are left alone: Kubernetes gives
    every pod a `RATE_LIMIT_PORT` when there is a service of that name.
    """
    prefix = "RATE_LIMIT_"
    limits = sorted(name for name in known if name.startswith(prefix))
    return [
        f"{name}: no such setting; did you mean {close[0]}?"
        for name in sorted(given)
        if name.startswith(prefix)
        and name not in known
        and (close := get_close_matches(name, limits, n=1, cutoff=0.8))
    ]


def wrong_paths(chosen: Mapping[str, Any]) -> list[str]:
    """Problems of a folder where a file is expected, or a file where a folder is."""
    problems = []
    log = chosen.get("EVENT_LOG", "off")
    if log not in ("stdout", "off") and isdir(log):  # noqa: PTH112  (Path's may raise)
        problems.append(f"EVENT_LOG: {log} is a folder, expected a file")
    if isfile(folder := chosen.get("PROFILE_DIR", "")):  # noqa: PTH113
        problems.append(f"PROFILE_DIR: {folder} is a file, expected a folder")
    return problems
