"""Who takes part, by name, in the order of the turns."""

from typing import Final

from bench.contenders.base import Contender
from bench.contenders.litellm import LiteLLM
from bench.contenders.nginx import Nginx
from bench.contenders.ours import Ours
from bench.contenders.plain import Plain
from bench.contenders.portkey import Portkey
from bench.contenders.raw import Raw

_ALL: Final[tuple[Contender, ...]] = (
    Raw(),
    Plain("floor", "floor: bare WSGI, parser in C, no checks, no metering", "bench.servers.floor"),
    Ours(),
    Plain("naive", "naive: Flask, `Session.request`, `iter_content`", "bench.servers.naive"),
    Nginx(),
    Portkey(),
    LiteLLM(),
)
CONTENDERS: Final = {contender.name: contender for contender in _ALL}
