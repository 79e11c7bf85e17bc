"""How Redis is spoken to, whatever for. Imported only by what is loaded where there is one.

The library's own ten retries would hide an outage for minutes, so a failure is reported at once and
the caller decides about another try. And a connection outlives a failover: the old primary keeps it
and refuses every write from then on. :class:`ReadOnlyServer` ends such a connection; the next one
is made by the address again, which leads to the new primary.
"""

from typing import Any, Final

from redis import ConnectionError as RedisConnectionError
from redis import ResponseError
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import MasterDownError, ReadOnlyError
from redis.retry import Retry

#: Replies of a server that is no primary (any more): a refused write, and a replica that has lost
#: its primary. Of the others the library makes no class: a write in a script (before Redis 7), and
#: a call that was waiting when the server was demoted.
_NO_PRIMARY: Final = (ReadOnlyError, MasterDownError)
_SAID: Final = ("READONLY", "UNBLOCKED")


class ReadOnlyServer(RedisConnectionError):
    """The connection led to a server that takes no writes, and has been closed."""


class _Following:
    """A connection that is closed when its server turns out to be no primary."""

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)  # type: ignore[misc]
        except ResponseError as error:
            said = str(error)
            if not (isinstance(error, _NO_PRIMARY) or any(word in said for word in _SAID)):
                raise
            self.disconnect()  # type: ignore[attr-defined]
            raise ReadOnlyServer(f"it is no primary: {error}") from error


class _Tcp(_Following, Connection):
    pass


class _Tls(_Following, SSLConnection):
    pass


class _Unix(_Following, UnixDomainSocketConnection):
    pass


_CLASSES: Final = {"redis": _Tcp, "rediss": _Tls, "unix": _Unix}


def connection_options(
    connect: float, read: float, *, retries: int = 0, url: str = ""
) -> dict[str, Any]:
    """For ``from_url(url)`` of a client or pool; ``connect`` and ``read`` are timeouts in seconds.

    With ``url``, connections follow a failover: see :class:`ReadOnlyServer`.
    """
    options: dict[str, Any] = {
        "protocol": 2,  # whose answers have the same shape in every version
        "socket_connect_timeout": connect,
        "socket_timeout": read,
        "retry": Retry(NoBackoff(), retries),
        # No PING before a call: the pool sees by itself that an idle connection was closed.
        "health_check_interval": 0,
    }
    if url:
        options["connection_class"] = _CLASSES[url.partition("://")[0].lower()]
    return options
