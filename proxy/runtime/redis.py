"""Options of all Redis clients. Imported only by modules that are loaded where there is a Redis.

The library's own ten retries would hide an outage for minutes. So a failure is reported at once,
and the caller decides about another try. A connection outlives a failover: the old primary keeps
it and refuses every write from then on. :class:`ReadOnlyServer` closes such a connection; the next
one connects to the address again, which leads to the new primary.
"""

from typing import Any, Final

from redis import ConnectionError as RedisConnectionError
from redis import ResponseError
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import MasterDownError, ReadOnlyError
from redis.retry import Retry

#: Replies of a server that is no primary (any more): a refused write, and a replica that has lost
#: its primary.
_NO_PRIMARY: Final = (ReadOnlyError, MasterDownError)
#: Words in replies that mean the same and have no class in the library: a write in a script (before
#: Redis 7), and a call that was waiting when the server was demoted.
_NO_PRIMARY_WORDS: Final = ("READONLY", "UNBLOCKED")


class ReadOnlyServer(RedisConnectionError):
    """The connection led to a server that accepts no writes, and has been closed."""


class _FollowsFailover:
    """A connection that is closed when its server proves to be no primary."""

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)  # type: ignore[misc]
        except ResponseError as error:
            reply = str(error)
            no_primary = any(word in reply for word in _NO_PRIMARY_WORDS)
            if not (isinstance(error, _NO_PRIMARY) or no_primary):
                raise
            self.disconnect()  # type: ignore[attr-defined]
            raise ReadOnlyServer(f"it is no primary: {error}") from error


class _Tcp(_FollowsFailover, Connection):
    pass


class _Tls(_FollowsFailover, SSLConnection):
    pass


class _Unix(_FollowsFailover, UnixDomainSocketConnection):
    pass


_CLASSES: Final = {"redis": _Tcp, "rediss": _Tls, "unix": _Unix}


def connection_options(
    connect: float, read: float, *, retries: int = 0, url: str = ""
) -> dict[str, Any]:
    """Return the options for `from_url(url)` of a client or a pool.

    `connect` and `read` are timeouts in seconds. With `url`, connections follow a failover: see
    :class:`ReadOnlyServer`.
    """
    options: dict[str, Any] = {
        "protocol": 2,  # its replies have the same shape in every version
        "socket_connect_timeout": connect,
        "socket_timeout": read,
        "retry": Retry(NoBackoff(), retries),
        # No PING before a call: the pool itself notices that an idle connection was closed.
        "health_check_interval": 0,
    }
    if url:
        options["connection_class"] = _CLASSES[url.partition("://")[0].lower()]
    return options
