"""Which request is being served here, for the log: every line written meanwhile carries its id.

Each greenlet has its own value. The thing to get wrong: a connection's greenlet serves one request
after the other and keeps the last one's id until the next comes.
"""

from contextvars import ContextVar
from typing import Final

request_id_var: Final[ContextVar[str]] = ContextVar("request_id", default="")
