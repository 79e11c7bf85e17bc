"""docs/guides/response-cache.md: its commands run, one after the other."""

import re
from pathlib import Path

from tests.support import canaries
from tests.support.fake_upstream import Upstream
from tests.support.pasted_commands import run_pasted
from tests.support.paths import ROOT
from tests.support.server import ProxyServer

TEXT = (ROOT / "docs" / "guides" / "response-cache.md").read_text()
KEY = "sk-of-the-cache-guide-0123456789"


def test_its_commands_run(tmp_path: Path, upstream: Upstream) -> None:
    canaries.register(KEY)
    proxy = ProxyServer(tmp_path, upstream.url, CACHE_TTL="5m").start()
    try:
        script = "".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL))
        script += 'printf %s "$PROJECT" > project\n'
        done = run_pasted(script, proxy, {}, {"OPENAI_KEY": KEY})
        assert done.returncode == 0, done.stdout + done.stderr
        for line in ("X-Cache: MISS", "Cache-Status: openai-proxy; fwd=uri-miss", "item_count"):
            assert line in done.stdout
        project = proxy.manage("GET", f"/projects/{(tmp_path / 'project').read_text()}").json()
        assert (project["cache"], project["coalesce"]) == ("off", "off")
        assert upstream.received[0].values("Authorization") == [f"Bearer {KEY}"]
    finally:
        assert proxy.stop() == 0, proxy.log_text()
