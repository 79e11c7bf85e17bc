"""The id of the request that the current greenlet serves, for each log line written meanwhile.

Note: a connection's greenlet serves one request after the other, and keeps the last request's id
until the next begins.
"""

from contextvars import ContextVar
from typing import Final

request_id_var: Final[ContextVar[str]] = ContextVar("request_id", default="")
