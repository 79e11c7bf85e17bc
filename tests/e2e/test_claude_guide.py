"""docs/guides/claude.md: its commands and its Python programs run, against a stand-in."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support import canaries
from tests.support.all_workers import all_workers
from tests.support.fake_upstream import Upstream
from tests.support.mock_anthropic import MockAnthropic
from tests.support.mock_provider import MockProvider, key_of
from tests.support.pasted_commands import run_pasted
from tests.support.paths import ROOT
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

TEXT = (ROOT / "docs" / "guides" / "claude.md").read_text()
KEY = "sk-ant-of-the-guide-0123456789"
OPENAI_KEY = "sk-of-the-guide-0123456789"
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def environ(
    tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream
) -> Iterator[dict[str, str]]:
    """What the guide sets for its clients."""
    canaries.register(KEY)
    canaries.register(OPENAI_KEY)
    with MockAnthropic({KEY}) as claude, MockProvider("openai", {OPENAI_KEY}) as gpt:
        folder = tmp_path_factory.mktemp("guide")
        proxy = ProxyServer(folder, session_upstream.url, REVOCATION_INTERVAL="0.2").start()
        setup = "".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL))
        script = setup + 'printf %s "$PROXY_TOKEN" > token\n'
        keys = {"ANTHROPIC_KEY": KEY, "OPENAI_KEY": OPENAI_KEY}
        done = run_pasted(script, proxy, {"claude": claude, "gpt": gpt}, keys)
        assert done.returncode == 0, done.stdout + done.stderr
        assert KEY not in done.stdout + done.stderr
        assert OPENAI_KEY not in done.stdout + done.stderr
        token = (folder / "token").read_text()
        canaries.register(token)
        made = {
            "ANTHROPIC_BASE_URL": proxy.url,
            "ANTHROPIC_AUTH_TOKEN": token,
            "PROXY_TOKEN": token,
            "HOME": str(folder),
            "PATH": proxy.environ["PATH"],
        }
        wait_until(lambda: all_workers(lambda: _serves(proxy.url, token)))
        yield made
        assert {received.values("x-api-key")[0] for received in claude.received} == {KEY}
        assert {key_of(received) for received in gpt.received} == {OPENAI_KEY}
        assert proxy.stop() == 0
        assert KEY not in proxy.log_text()
        assert OPENAI_KEY not in proxy.log_text()


def _serves(url: str, token: str) -> bool:
    """Whether the worker that responds knows both providers."""
    turns = [{"role": "user", "content": "Hi"}]
    bodies = [
        {"model": model, "max_tokens": 9, "messages": turns}
        for model in ("claude-sonnet-5", "big", "small")
    ]
    headers = {"x-api-key": token}
    return all(
        requests.post(f"{url}/v1/messages", json=body, headers=headers, timeout=30).ok
        for body in bodies
    )


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
