"""Who takes part, by name, in the order of the turns."""

from typing import Final

from bench.contenders.base import Contender
from bench.contenders.litellm import LiteLLM
from bench.contenders.nginx import Nginx
from bench.contenders.ours import Ours
from bench.contenders.plain import GUNICORN, Plain
from bench.contenders.portkey import Portkey

_ALL: Final[tuple[Contender, ...]] = (
    Plain(
        "raw",
        "raw: two gevent sockets, no parser, no checks",
        ("-m", "bench.servers.raw"),
        any_path=False,
    ),
    Plain(
        "floor",
        "floor: bare WSGI, parser in C, no checks, no metering",
        (*GUNICORN, "bench.servers.floor:app"),
    ),
    Ours(),
    Plain(
        "naive",
        "naive: Flask, `Session.request`, `iter_content`",
        (*GUNICORN, "bench.servers.naive:app"),
    ),
    Nginx(),
    Portkey(),
    LiteLLM(),
)
CONTENDERS: Final = {contender.name: contender for contender in _ALL}
