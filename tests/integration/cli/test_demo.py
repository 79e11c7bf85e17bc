"""`manage.py demo`, for real: the whole product without a key or a network."""

import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from proxy.cli import server

#: Starts servers.


DEMO = [sys.executable, str(server.ROOT / "manage.py"), "demo"]


def test_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Nothing of the caller's settings reaches it, however wrong.
    Path(".env").write_text("PORT=99999\nREDIS_URL=redis://nowhere\n")
    monkeypatch.setenv("OPENAI_API_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("EVENT_LOG", "off")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = subprocess.run(DEMO, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert done.stdout.count("This response was made up by a stand-in") == 2
    assert "exit code 0." in done.stdout
    buffered, streamed = map(orjson.loads, re.findall(r"^\{.*?^\}", done.stdout, re.M | re.S))
    assert (buffered["stream"], streamed["stream"]) == (False, True)
    for event in (buffered, streamed):
        assert event["outcome"] == "completed"
        assert event["usage_source"] == "reported"
        assert event["metadata"]["total_tokens"] == 23
    # Neither the access token nor the upstream key is shown whole.
    assert not re.search(r"sk-[A-Za-z0-9_-]{20}", done.stdout)
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


def test_when_the_server_cannot_start_its_log_is_shown(tmp_path: Path) -> None:
    """Run from a copy whose configuration is broken."""
    (tmp_path / "proxy").symlink_to(server.ROOT / "proxy")
    code = (
        "import sys, pathlib; from proxy.cli import server, root;"
        "server.CONF = pathlib.Path('gunicorn.conf.py').absolute();"
        "root(['demo'])"
    )
    Path("gunicorn.conf.py").write_text("raise SystemExit('broken on purpose')\n")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "broken on purpose" in done.stderr
    assert "the server did not start" in done.stderr
