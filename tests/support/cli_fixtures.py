"""Fixtures of the command line: an empty directory, an environment without the proxy's settings."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import responses
from click.testing import CliRunner, Result

from proxy.cli import root
from proxy.settings.settings import variable_names
from tests.support.cli_runner import TOKEN, Run


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory is new, and nobody's settings are in the environment."""
    monkeypatch.chdir(tmp_path)
    names = {"PROXY_BASE_URL", "PROXY_TOKEN", "OPENAI_API_KEY"}
    names |= variable_names()
    for name in names & os.environ.keys():
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def run() -> Run:
    """``run("token", "list", input="…")`` as from the shell."""

    def invoke(*arguments: str, input: str | None = None) -> Result:  # noqa: A002
        return CliRunner().invoke(root, arguments, input=input, prog_name="manage.py")

    return invoke


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[responses.RequestsMock]:
    """A management API made of canned answers; every one of them must be asked for."""
    monkeypatch.setenv("MANAGEMENT_TOKEN", TOKEN)
    with responses.RequestsMock() as mock:
        yield mock
