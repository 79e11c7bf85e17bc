"""LiteLLM's proxy, when it is installed: `BENCH_LITELLM` or `litellm` on the PATH.

Its master key stands for the access token; no database, no logging, its fastest form.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.contenders.base import Running, Site
from bench.load.message import MODEL
from bench.processes import Started, free_port

MASTER_KEY = "sk-master-key-of-the-race"


def _command() -> str:
    return os.environ.get("BENCH_LITELLM") or shutil.which("litellm") or ""


@dataclass(frozen=True)
class LiteLLM:
    name: str = "litellm"
    title: str = "LiteLLM proxy"
    any_path: bool = False

    def missing(self) -> str:
        if _command():
            return ""
        return "pip install 'litellm[proxy]' elsewhere, and BENCH_LITELLM=…/bin/litellm"

    def version(self) -> str:
        """Asked of the Python beside the command: `litellm --version` takes ten seconds."""
        code = "import importlib.metadata as m; print(m.version('litellm'))"
        python = Path(_command()).resolve().with_name("python")
        try:
            done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.strip()

    def start(self, site: Site) -> Running:
        port = free_port()
        params = {
            "model": f"openai/{MODEL}",
            "api_base": f"{site.upstream}/v1",
            "api_key": "sk-upstream",
        }
        config = site.folder / "litellm.yaml"
        # JSON is YAML.
        config.write_text(
            json.dumps(
                {
                    "model_list": [{"model_name": MODEL, "litellm_params": params}],
                    "general_settings": {"master_key": MASTER_KEY},
                }
            )
        )
        process = Started(
            [
                *(_command(), "--config", str(config), "--host", "127.0.0.1"),
                *("--port", str(port), "--num_workers", str(site.workers)),
            ],
            folder=site.folder,
            cores=site.cores,
            environ={"LITELLM_TELEMETRY": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        )
        process.wait_ok(port, "/health/liveliness")
        return Running(port, MASTER_KEY, process)
