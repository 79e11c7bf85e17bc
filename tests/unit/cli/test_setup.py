"""proxy/cli/setup.py: a usable .env, and never another value for one that is set."""

from pathlib import Path

import pytest

from proxy.cli import local_settings
from proxy.settings.settings import Settings
from tests.support.cli_runner import Run


def test_writes_what_the_server_needs(run: Run) -> None:
    result = run("setup")
    assert result.exit_code == 0
    assert "manage.py db migrate" in result.output
    settings = Settings.load({}, Path(".env"))
    assert len(settings.encryption.key) == 32
    # The secrets themselves are not shown.
    assert settings.auth.management_token[0] not in result.output
    assert Path(".env").stat().st_mode & 0o777 == 0o600


def test_make_run_goes_on_by_itself(run: Run) -> None:
    assert "manage.py serve" in run("setup").output
    assert "manage.py serve" not in run("setup", "--part-of-run").output


def test_a_second_time_changes_nothing(run: Run) -> None:
    run("setup")
    before = Path(".env").read_text()
    assert "Nothing to do" in run("setup").output
    assert Path(".env").read_text() == before


def test_a_value_in_the_environment_is_not_made_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANAGEMENT_TOKEN", "from-the-environment")
    run("setup")
    assert list(local_settings.read(Path(".env"))) == ["ENCRYPTION_KEY"]


def test_interactive_prompts_until_the_value_is_valid(run: Run) -> None:
    answers = "\nnot-a-port\n9000\noracle://x\nsqlite:///my.db\n\n"
    result = run("setup", "--interactive", input=answers)
    assert result.exit_code == 0
    assert "PORT: expected a whole number" in result.output
    assert "DATABASE_URL: expected" in result.output
    found = local_settings.read(Path(".env"))
    assert found["PORT"] == "9000"
    assert found["DATABASE_URL"] == "sqlite:///my.db"
    # A default is not written down: it may be better in a later version.
    assert "HOST" not in found
    assert "UPSTREAM_BASE_URL" not in found


def test_interactive_does_not_ask_for_what_is_set(run: Run) -> None:
    Path(".env").write_text("HOST=::1\nPORT=1\nDATABASE_URL=sqlite:///x\n")
    result = run("setup", "--interactive", input="http://upstream\n")
    assert result.exit_code == 0
    assert local_settings.read(Path(".env"))["UPSTREAM_BASE_URL"] == "http://upstream"


def test_a_file_that_cannot_be_written_is_said_plainly(run: Run) -> None:
    Path(".env").mkdir()
    result = run("setup")
    assert result.exit_code == 1
    assert ".env:" in result.output
