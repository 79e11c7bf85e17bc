"""proxy/settings/settings.py: two sources, one pass over all problems, no secret shown."""

import base64
import contextlib
import dataclasses
import errno
import os
import tempfile
from pathlib import Path

import pytest

from proxy.core.errors import SettingsError
from proxy.settings.settings import Settings
from proxy.store.sqlite import path_from_url

KEY = base64.b64encode(bytes(32)).decode()
TOKEN = "management-token-1"
NEEDED = {"MANAGEMENT_TOKEN": TOKEN, "ENCRYPTION_KEY": KEY}


def problems(environ: dict[str, str], dotenv: Path | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ, dotenv)
    return caught.value.problems


def test_defaults() -> None:
    settings = Settings.load(NEEDED)
    assert (settings.server.host, settings.server.port, settings.server.web_concurrency) == (
        "127.0.0.1",
        8080,
        None,
    )
    assert settings.auth.management_token == (TOKEN,)
    assert settings.encryption.key == bytes(32)
    assert settings.upstream.base_url == "https://api.openai.com"
    assert (settings.upstream.connect_timeout, settings.upstream.read_timeout) == (5.0, 600.0)
    assert (settings.server.worker_connections, settings.server.max_concurrent_requests) == (
        4096,
        3000,
    )
    assert (settings.gateway.max_request_bytes, settings.gateway.max_json_bytes) == (
        512 * 2**20,
        64 * 2**20,
    )
    assert (settings.events.log, settings.logs.level, settings.logs.format) == (
        "stdout",
        "info",
        "json",
    )
    assert path_from_url(settings.database.url) == Path("data/proxy.db").absolute()


def test_nothing_is_cached_unless_it_is_asked_for() -> None:
    cache = Settings.load({**NEEDED, "REDIS_URL": "redis://h"}).cache
    assert (cache.ttl, cache.stale_if_error, cache.passthrough, cache.url) == (0.0, 0.0, False, "")
    assert (cache.max_bytes, cache.max_entry_bytes) == (100 * 2**20, 4 * 2**20)
    assert cache.idempotency_ttl == 86_400.0
    for value in ("", " ", "0", "0s"):
        assert Settings.load({**NEEDED, "CACHE_TTL": value}).cache.ttl == 0.0


def test_the_response_cache() -> None:
    cache = Settings.load(
        {
            **NEEDED,
            "CACHE_TTL": "5m",
            "MAX_CACHE_SIZE": "512MiB",
            "CACHE_MAX_ENTRY": "1MiB",
            "CACHE_URL": "rediss://h/1",
            "CACHE_STALE_IF_ERROR": "60",
            "IDEMPOTENCY_TTL": "0",
        }
    ).cache
    assert (cache.ttl, cache.stale_if_error, cache.idempotency_ttl) == (300.0, 60.0, 0.0)
    assert (cache.max_bytes, cache.max_entry_bytes) == (512 * 2**20, 2**20)
    assert cache.url == "rediss://h/1"


def test_the_default_database_survives_a_folder_with_signs_of_a_url() -> None:
    settings = Settings.load({**NEEDED, "DATA_DIR": "/srv/100%20 ?#/x"})
    assert path_from_url(settings.database.url) == Path("/srv/100%20 ?#/x/proxy.db")


def test_nothing_at_all_names_what_is_required() -> None:
    found = problems({})
    assert [problem.partition(":")[0] for problem in found] == [
        "MANAGEMENT_TOKEN",
        "ENCRYPTION_KEY",
    ]
    assert "manage.py setup" in found[0]


def test_every_problem_at_once() -> None:
    found = problems(
        {
            "PORT": "0",
            "HOST": "a b",
            "MANAGEMENT_TOKEN": "short",
            "ENCRYPTION_KEY": "short",
            "DATABASE_URL": "oracle://x",
            "UPSTREAM_BASE_URL": "ftp://x",
            "MAX_JSON_BYTES": "1GiB",
            "WORKER_CONNECTIONS": "10",
            "REDIS_URL": "redis:/x",
            "LOG_LEVEL": "loud",
        }
    )
    assert sorted(problem.partition(":")[0] for problem in found) == [
        "DATABASE_URL",
        "ENCRYPTION_KEY",
        "HOST",
        "LOG_LEVEL",
        "MANAGEMENT_TOKEN",
        "MAX_CONCURRENT_REQUESTS",
        "MAX_JSON_BYTES",
        "PORT",
        "REDIS_URL",
        "UPSTREAM_BASE_URL",
    ]


def test_a_price_list_is_checked_with_everything_else(tmp_path: Path) -> None:
    file = tmp_path / "secret-folder.json"
    file.write_text('{"currency": "x", "models": {"m": 1}}')
    found = problems({**NEEDED, "PORT": "0", "PRICES_FILE": str(file)})
    assert [problem.partition(":")[0] for problem in found] == ["PORT", "PRICES_FILE"]
    assert "currency: expected" in found[1]
    assert "models['m']: expected" in found[1]
    (problem,) = problems({**NEEDED, "PRICES_FILE": str(tmp_path / "absent")})
    assert problem.startswith("PRICES_FILE: expected a JSON file that can be read: No such file")
    file.write_text('{"currency": "USD", "models": {}}')
    settings = Settings.load({**NEEDED, "PRICES_FILE": str(file)})
    assert settings.prices_file is not None
    assert Settings.load(NEEDED).prices_file is None


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        f"# a comment\nexport PORT=9000\nHOST='localhost'\nENCRYPTION_KEY={KEY}\n"
        f'MANAGEMENT_TOKEN="{TOKEN}"\nDATA_DIR=$HOME\nEMPTY\nGRACEFUL_TIMEOUT=\n'
    )
    settings = Settings.load({"PORT": "9001", "HOST": "  "}, dotenv)
    assert (settings.server.port, settings.server.host, settings.auth.management_token) == (
        9001,
        "localhost",
        (TOKEN,),
    )
    # Nothing is expanded: a secret may contain a dollar sign.
    assert settings.data_dir == Path("$HOME")
    assert settings.server.graceful_timeout == 60


def test_no_file_is_no_problem_and_an_unreadable_one_is(tmp_path: Path) -> None:
    assert Settings.load(NEEDED, tmp_path / "missing").server.port == 8080
    broken = tmp_path / ".env"
    broken.write_bytes(b"PORT=\xff\xfe\n")
    assert problems(NEEDED, broken)[0].startswith(f"{broken}: cannot be read")


@pytest.mark.parametrize(
    ("name", "alias", "field"),
    [
        ("UPSTREAM_BASE_URL", "OPENAI_API_URL", "base_url"),
        ("UPSTREAM_PROXY_URL", "PROXY_URL", "proxy_url"),
    ],
)
def test_two_names_of_one_setting(name: str, alias: str, field: str) -> None:
    one, other = "http://one:1", "http://other:1"
    assert getattr(Settings.load({**NEEDED, alias: one}).upstream, field) == one
    assert getattr(Settings.load({**NEEDED, alias: one, name: one}).upstream, field) == one
    (problem,) = problems({**NEEDED, alias: one, name: other})
    assert name in problem
    assert alias in problem


def test_values_that_do_not_go_together() -> None:
    assert problems({**NEEDED, "MAX_CONCURRENT_REQUESTS": "4096"})
    assert problems({**NEEDED, "MAX_REQUEST_BYTES": "1MiB", "MAX_JSON_BYTES": "2MiB"})
    assert Settings.load({**NEEDED, "MAX_REQUEST_BYTES": "1MiB"})
    assert Settings.load({**NEEDED, "MAX_REQUEST_BYTES": "1MiB", "MAX_JSON_BYTES": "1MiB"})


def test_secrets_are_in_no_repr_and_no_problem() -> None:
    settings = Settings.load(
        {
            **NEEDED,
            "DATABASE_URL": "mysql://u:hidden-1@h/n",
            "UPSTREAM_PROXY_URL": "http://u:hidden-2@h:1",
            "ENCRYPTION_KEYS_PREVIOUS": KEY,
        }
    )
    for secret in (TOKEN, "hidden-1", "hidden-2", repr(bytes(32))):
        assert secret not in repr(settings)
    found = problems(dict.fromkeys(("PORT", *NEEDED, "DATABASE_URL"), "hidden-3 " * 3))
    assert "hidden-3" not in str(found)


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings.load(NEEDED).server.port = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings.load(NEEDED).data_dir = Path()  # type: ignore[misc]


def test_seeing() -> None:
    settings = Settings.load(NEEDED)
    assert (settings.auth.metrics_token, settings.logs.access_log) == ((), False)
    token = "metrics-token-0123"
    settings = Settings.load({**NEEDED, "METRICS_TOKEN": token, "ACCESS_LOG": "on"})
    assert (settings.auth.metrics_token, settings.logs.access_log) == ((token,), True)
    assert token in settings.known_secrets()
    assert token not in repr(settings)
    found = problems({**NEEDED, "METRICS_TOKEN": "short", "ACCESS_LOG": "loud"})
    assert [problem.partition(":")[0] for problem in found] == ["METRICS_TOKEN", "ACCESS_LOG"]


def test_with_cloudwatch_the_lines_go_there_alone_unless_said_otherwise() -> None:
    group = {**NEEDED, "CLOUDWATCH_LOG_GROUP": "proxy"}
    assert Settings.load(group).events.log == "off"
    assert Settings.load({**group, "EVENT_LOG": "stdout"}).events.log == "stdout"
    assert Settings.load(group).sinks.cloudwatch_log_stream == "{hostname}-{pid}"


def test_a_misspelled_limit_is_a_problem_in_either_source(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("RATE_LIMIT_TOKEN_RPM=5\nRATE_LIMIT_GLOBAL=\n")
    with pytest.raises(SettingsError) as caught:
        Settings.load({**NEEDED, "RATE_LIMIT_PER_IP": "5", "RATE_LIMIT_PORT": "tcp://x"}, dotenv)
    assert caught.value.problems == [
        "RATE_LIMIT_PER_IP: no such setting; did you mean RATE_LIMIT_PER_IP_RPM?",
        "RATE_LIMIT_TOKEN_RPM: no such setting; did you mean RATE_LIMIT_PER_TOKEN_RPM?",
    ]


def test_sinks_need_a_place_to_go_to() -> None:
    found = problems({**NEEDED, "EVENT_STREAM": "events", "LOGGING_TOKEN": "secret"})
    assert [problem.partition(":")[0] for problem in found] == ["EVENT_STREAM", "LOGGING_TOKEN"]


def test_what_needs_a_setting_that_is_wrong_is_no_second_problem() -> None:
    given = {"REDIS_URL": "foo", "EVENT_STREAM": "x", "LOGGING_URL": "foo", "LOGGING_TOKEN": "x"}
    given |= {"WORKER_CONNECTIONS": "foo", "MAX_CONCURRENT_REQUESTS": "5000"}
    found = problems({**NEEDED, **given})
    names = {"REDIS_URL", "LOGGING_URL", "WORKER_CONNECTIONS"}
    assert {problem.partition(":")[0] for problem in found} == names


def test_a_spool_that_can_hold_nothing_is_refused() -> None:
    assert problems({**NEEDED, "SPOOL_MAX_BYTES": "64KiB"}) == [
        "SPOOL_MAX_BYTES: expected at least 1MiB"
    ]
    assert Settings.load({**NEEDED, "SPOOL_MAX_BYTES": "1MiB"}).events.spool_max_bytes == 2**20


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert problems({**NEEDED, "EVENT_LOG": str(tmp_path), "PROFILE_DIR": str(file)}) == [
        f"EVENT_LOG: {tmp_path} is a folder, expected a file",
        f"PROFILE_DIR: {file} is a file, expected a folder",
    ]
    Settings.load({**NEEDED, "EVENT_LOG": str(file), "PROFILE_DIR": str(tmp_path)})
    Settings.load({**NEEDED, "PROFILE_DIR": str(tmp_path / "not" / "yet")})


def test_the_data_folder_is_made(tmp_path: Path) -> None:
    settings = Settings.load({**NEEDED, "DATA_DIR": str(tmp_path / "a" / "b")})
    settings.make_data_dir()
    settings.make_data_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_data_folder_that_cannot_be_made_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path, reason in ((file / "data", "Not a directory"), (file, "File exists")):
        with pytest.raises(SettingsError) as caught:
            Settings.load({**NEEDED, "DATA_DIR": str(path)}).make_data_dir()
        assert caught.value.problems == [f"DATA_DIR: {path} cannot be made or written: {reason}"]


@pytest.mark.parametrize(("number", "wrong"), [(errno.EROFS, True), (errno.ENOSPC, False)])
def test_a_data_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, wrong: bool
) -> None:
    """A full disk stops no server: it may have room later."""

    def refuse(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    settings = Settings.load({**NEEDED, "DATA_DIR": str(tmp_path)})
    with pytest.raises(SettingsError) if wrong else contextlib.nullcontext() as caught:
        settings.make_data_dir()
    if caught:
        assert caught.value.problems[0].endswith("written: Read-only file system")


def test_secrets_of_sinks_are_told_to_the_log() -> None:
    settings = Settings.load(
        {
            **NEEDED,
            "LOGGING_URL": "https://h/in?key=canary-1",
            "LOGGING_TOKEN": "canary-2",
            "REDIS_URL": "redis://:canary-3@h",
            "CACHE_URL": "redis://:canary-4@h",
        }
    )
    assert {"key=canary-1", "canary-2", "canary-3", "canary-4"} <= set(settings.known_secrets())
    assert "canary" not in repr(settings)


def test_the_configuration_file_is_read_and_its_keys_are_secrets(tmp_path: Path) -> None:
    file = tmp_path / "providers.yaml"
    file.write_text(
        "providers:\n- {name: a, provider_type: openai, base_url: 'https://a.example',"
        " keys: [{name: k, value: 'env:A_KEY'}, {name: l, value: 'env:B_KEY'}]}\n"
    )
    environ = {**NEEDED, "API_CONFIG_PATH": str(file)}
    assert problems(environ) == [
        f"API_CONFIG_PATH: providers[0].keys[{number}].value: expected {name} in the environment,"
        " but it is not set"
        for number, name in enumerate(("A_KEY", "B_KEY"))
    ]
    dotenv = tmp_path / ".env"
    dotenv.write_text("A_KEY=canary-a\nB_KEY=canary-b\n")
    settings = Settings.load(environ, dotenv)
    assert {"canary-a", "canary-b"} <= set(settings.known_secrets())
    assert "canary" not in repr(settings)
    # Commands that serve nothing need neither the file nor what it refers to.
    assert Settings.load(environ, serving=False).routing.config_file is None
    (problem,) = problems({**environ, "A_KEY": "a", "B_KEY": "b", "AUTH_MODE": "passthrough"})
    assert problem.startswith("AUTH_MODE: passthrough knows no projects")
