"""Portkey's open gateway (Node), when it is installed.

`BENCH_PORTKEY` is the path of its `build/start-server.js`. It has no access tokens: it passes the
client's key on.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from bench.contenders.base import Running, Site
from bench.processes import Started, free_port


@dataclass(frozen=True)
class Portkey:
    name: str = "portkey"
    title: str = "Portkey gateway (Node)"
    any_path: bool = False

    def missing(self) -> str:
        if os.environ.get("BENCH_PORTKEY") and shutil.which("node"):
            return ""
        return (
            "npm install @portkey-ai/gateway elsewhere, and "
            "BENCH_PORTKEY=…/node_modules/@portkey-ai/gateway/build/start-server.js"
        )

    def version(self) -> str:
        package = Path(os.environ["BENCH_PORTKEY"]).resolve().parents[1] / "package.json"
        return str(json.loads(package.read_text())["version"]) if package.exists() else ""

    def start(self, site: Site) -> Running:
        port = free_port()
        process = Started(
            ["node", os.environ["BENCH_PORTKEY"], f"--port={port}", "--headless"],
            folder=site.folder,
            cores=site.cores,
            environ={"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost", "NODE_ENV": "production"},
        )
        process.wait_port(port)
        headers = {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"{site.upstream}/v1",
        }
        return Running(port, "sk-upstream", process, headers)
