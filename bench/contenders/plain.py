"""The two that are a few lines of Python on gunicorn: the floor and the naive version."""

import sys
from dataclasses import dataclass
from pathlib import Path

from bench.contenders.base import Running, Site
from bench.processes import Started, free_port

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "bench" / "servers" / "plain.py"


@dataclass(frozen=True)
class Plain:
    """``module`` is one of bench.servers with a WSGI ``app``."""

    name: str
    title: str
    module: str
    any_path: bool = True

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return ""

    def start(self, site: Site) -> Running:
        port = free_port()
        process = Started(
            [sys.executable, "-m", "gunicorn", "-c", str(CONFIG), f"{self.module}:app"],
            folder=site.folder,
            cores=site.cores,
            environ={
                "PORT": str(port),
                "WEB_CONCURRENCY": str(site.workers),
                "UPSTREAM": site.upstream,
                "PYTHONPATH": str(ROOT),
            },
        )
        process.wait_ok(port, "/ready")
        return Running(port, "sk-0123456789abcdefghijkl", process)
