"""Those that are a few lines of Python: the raw relay, the floor and the naive version."""

from dataclasses import dataclass
from typing import Final

from bench.contenders.base import ANY_TOKEN, Running, Site
from bench.processes import ROOT, free_port

GUNICORN: Final = ("-m", "gunicorn", "-c", str(ROOT / "bench" / "servers" / "plain.py"))


@dataclass(frozen=True)
class Plain:
    """``arguments`` are those of Python; they name one of bench.servers."""

    name: str
    title: str
    arguments: tuple[str, ...]
    any_path: bool = True

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return ""

    def start(self, site: Site) -> Running:
        port = free_port()
        process = site.start_python(self.arguments, port, {"UPSTREAM": site.upstream})
        return Running(port, ANY_TOKEN, process)
