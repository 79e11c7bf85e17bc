"""docs/guides/claude.md: its commands and its Python programs run, against a stand-in."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import canaries
from tests.support.fake_upstream import Upstream
from tests.support.mock_anthropic import MockAnthropic
from tests.support.pasted_commands import run_pasted
from tests.support.paths import ROOT
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

TEXT = (ROOT / "docs" / "guides" / "claude.md").read_text()
KEY = "sk-ant-of-the-guide-0123456789"
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def environ(
    tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream
) -> Iterator[dict[str, str]]:
    """What the guide sets for its clients."""
    canaries.register(KEY)
    with MockAnthropic({KEY}) as claude:
        folder = tmp_path_factory.mktemp("guide")
        proxy = ProxyServer(folder, session_upstream.url, REVOCATION_INTERVAL="0.2").start()
        (setup,) = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
        script = setup + 'printf %s "$PROXY_TOKEN" > token\n'
        done = run_pasted(script, proxy, {"claude": claude}, {"ANTHROPIC_KEY": KEY})
        assert done.returncode == 0, done.stdout + done.stderr
        assert KEY not in done.stdout + done.stderr
        token = (folder / "token").read_text()
        canaries.register(token)
        made = {
            "ANTHROPIC_BASE_URL": proxy.url,
            "ANTHROPIC_AUTH_TOKEN": token,
            "PROXY_TOKEN": token,
            "HOME": str(folder),
            "PATH": proxy.environ["PATH"],
        }
        wait_until(lambda: all(_run(PROGRAMS[0], made, folder).returncode == 0 for _ in "123"))
        yield made
        assert {received.values("x-api-key")[0] for received in claude.received} == {KEY}
        assert proxy.stop() == 0
        assert KEY not in proxy.log_text()


def _run(program: str, environ: dict[str, str], folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("index", range(len(PROGRAMS)))
def test_a_program_says_hello(environ: dict[str, str], tmp_path: Path, index: int) -> None:
    done = _run(PROGRAMS[index], environ, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "One two three."


def test_a_key_in_place_of_the_token(environ: dict[str, str], tmp_path: Path) -> None:
    given = {**environ, "ANTHROPIC_API_KEY": environ["PROXY_TOKEN"]}
    del given["ANTHROPIC_AUTH_TOKEN"]
    done = _run(PROGRAMS[0], given, tmp_path)
    assert done.stdout.strip() == "One two three.", done.stderr
