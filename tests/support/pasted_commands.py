"""The commands of a page of the documentation, run as a reader runs them who pastes them."""

import re
import subprocess
import sys

from tests.support.mock_provider import MockProvider
from tests.support.paths import ROOT
from tests.support.server import ProxyServer


def run_pasted(
    script: str, proxy: ProxyServer, upstreams: dict[str, MockProvider], environ: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Run a block in a shell, in the folder of `proxy`, which has the address of the page.

    A provider that `provider create` makes gets the address of the stand-in of its name.
    """

    def stand_in(found: re.Match[str]) -> str:
        return f"{found[1]} --url {upstreams[found[2]].base_url} --allow-private"

    script = re.sub(r"(--name (\w+) --type \w+) --url \S+(?: --allow-private)?", stand_in, script)
    script = script.replace("python manage.py", f"{sys.executable} {ROOT / 'manage.py'}")
    script = script.replace("http://127.0.0.1:8080", proxy.url)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=proxy.folder,
        env={**proxy.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
