"""The raw relay: what two sockets of gevent cost, with nothing between them."""

import sys
from dataclasses import dataclass

from bench.contenders.base import Running, Site
from bench.contenders.plain import ROOT
from bench.processes import Started, free_port


@dataclass(frozen=True)
class Raw:
    name: str = "raw"
    title: str = "raw: two gevent sockets, no parser, no checks"
    any_path: bool = False

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return ""

    def start(self, site: Site) -> Running:
        port = free_port()
        process = Started(
            [sys.executable, "-m", "bench.servers.raw"],
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
