"""nginx `proxy_pass`: does none of the work, and shows what the machine can do."""

import shutil
from dataclasses import dataclass

from bench.contenders.base import ANY_TOKEN, Running, Site
from bench.processes import Started, free_port
from bench.servers.nginx import proxy


@dataclass(frozen=True)
class Nginx:
    name: str = "nginx"
    title: str = "nginx `proxy_pass` (does none of the work)"
    any_path: bool = True

    def missing(self) -> str:
        return "" if shutil.which("nginx") else "nginx is not on the PATH"

    def version(self) -> str:
        return ""

    def start(self, site: Site) -> Running:
        port = free_port()
        config = proxy(site.folder / "nginx", port, site.upstream_port, workers=site.workers)
        process = Started(
            ["nginx", "-p", str(config.parent), "-c", str(config), "-e", "stderr"],
            folder=site.folder,
            cores=site.cores,
        )
        process.wait_port(port)
        return Running(port, ANY_TOKEN, process)
