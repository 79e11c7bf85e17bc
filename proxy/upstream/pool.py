"""Connections to one origin: geventhttpclient makes them, this pool keeps the idle ones.

geventhttpclient resolves, connects, speaks TLS and CONNECT. Its own pool is not used: its size
bounds used and idle connections together, and its ``select()`` refuses descriptors from 1024 up.
This pool counts idle connections only; requests in flight are bounded at the front of the proxy.

Note: the upstream may have closed an idle connection at any time, or sent bytes without a request.
Both show as "readable", and such a connection must not be used again.
"""

import socket
import ssl
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import gevent
import gevent.resolver.thread  # or the first connection loads it, in a worker that serves already
import gevent.socket
import gevent.ssl
from geventhttpclient.connectionpool import ConnectionPool as PlainConnector
from geventhttpclient.connectionpool import SSLConnectionPool as TLSConnector

from proxy.providers.addresses import is_public
from proxy.providers.base import PUBLIC_ONLY
from proxy.upstream.read_timeouts import ReadTimeouts

#: Idle connections older than this are closed: NAT gateways forget flows after 350 s, and most
#: servers close theirs after one to five minutes.
MAX_IDLE_SECONDS: Final = 55.0
_KEEPALIVE: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
)

#: A plain number: to combine the flags on each call costs more than the peek itself.
_PEEK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)

Socket = gevent.socket.socket


class AddressRefused(OSError):
    """All addresses of a name are private, local or of metadata, where only public ones may be."""


class ConnectTimedOut(OSError):
    """No connection within the connect timeout, name lookup and TLS included."""


def tls_context() -> ssl.SSLContext:
    """One context for all connections: parsing the CA bundle costs 15 ms of CPU each time.

    Trusts the system's CA store, or what ``SSL_CERT_FILE`` names; certifi's where there is none.
    """
    context: ssl.SSLContext = gevent.ssl.create_default_context()
    if not context.get_ca_certs() and not _has_ca_directory():
        import certifi

        context.load_verify_locations(cafile=certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


def _has_ca_directory() -> bool:
    from pathlib import Path

    paths = ssl.get_default_verify_paths()
    return paths.capath is not None and any(Path(paths.capath).glob("*.0"))


class ConnectionPool:
    """The idle connections to one origin, newest first. Opens new ones."""

    def __init__(
        self,
        origin: str,
        *,
        connect_timeout: float,
        max_idle: int,
        context: Callable[[], ssl.SSLContext],
        proxy_url: str = "",
    ) -> None:
        """``origin`` is a target's, with its mark; ``proxy_url`` an HTTP forward proxy or empty."""
        self._connect_timeout = connect_timeout
        self._max_idle = max_idle
        self._connector = _connector(origin, connect_timeout, context, proxy_url)
        self.read_timeouts = ReadTimeouts()
        # (socket, monotonic time when it became idle); the newest is at the right end.
        self._idle: deque[tuple[Socket, float]] = deque()
        #: Since the start: connections made, and idle connections used again.
        self.made = 0
        self.reused = 0

    @property
    def idle_count(self) -> int:
        return len(self._idle)

    def acquire(self) -> Socket | None:
        """Return an idle connection that looks usable, or None: the caller then uses `connect`."""
        oldest_good = time.monotonic() - MAX_IDLE_SECONDS
        while self._idle and self._idle[0][1] < oldest_good:
            self._idle.popleft()[0].close()
        while self._idle:
            sock, _ = self._idle.pop()
            if _is_quiet(sock):
                self.reused += 1
                return sock
            sock.close()
        return None

    def make_room(self) -> None:
        """Close the oldest idle connection, since a new one is about to take its place."""
        if self._idle:
            self._idle.popleft()[0].close()

    def connect(self) -> Socket:
        """Open a new connection. Raises OSError (:class:`ConnectTimedOut`, ssl.SSLError, …)."""
        with gevent.Timeout(self._connect_timeout, ConnectTimedOut("connect timed out")):
            try:
                sock: Socket = self._connector._create_socket()  # noqa: SLF001  (its one entry)
            except RuntimeError as error:  # how the library reports a refusal by a forward proxy
                raise OSError(str(error)) from error
        self.made += 1
        return sock

    def release(self, sock: Socket) -> None:
        """Take back a connection whose response was read to its end."""
        if not self._max_idle:
            sock.close()
            return
        if len(self._idle) >= self._max_idle:
            self._idle.popleft()[0].close()
        self._idle.append((sock, time.monotonic()))

    def close(self) -> None:
        """Close all idle connections, and keep none from now on."""
        self._max_idle = 0
        while self._idle:
            self._idle.pop()[0].close()


def _is_quiet(sock: Socket) -> bool:
    """Whether nothing waits to be read: neither an end of connection nor stray bytes."""
    try:
        # The plain socket underneath: gevent's would wait, and TLS takes no flags.
        sock._sock.recv(1, _PEEK)  # type: ignore[attr-defined]  # noqa: SLF001
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _connector(
    origin: str, connect_timeout: float, context: Callable[[], ssl.SSLContext], proxy_url: str
) -> PlainConnector:
    parts = urlsplit(origin.removeprefix(PUBLIC_ONLY))
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    proxy = urlsplit(proxy_url)
    options: dict[str, Any] = {
        "connection_host": proxy.hostname or host,
        "connection_port": (proxy.port or 80) if proxy_url else port,
        "request_host": f"[{host}]" if ":" in host else host,  # as CONNECT names it
        "request_port": port,
        "connection_timeout": connect_timeout,
        "use_proxy": bool(proxy_url),
    }
    if proxy.username is not None:
        options["proxy_user"] = unquote(proxy.username)
        options["proxy_password"] = unquote(proxy.password or "")
    connector: _Tuned
    if parts.scheme == "https":
        options["ssl_options"] = {"server_hostname": host}
        connector = _TunedTLS(ssl_context_factory=lambda cafile: context(), **options)
    else:
        connector = _Tuned(**options)
    # A forward proxy resolves the names, so only that can check the addresses.
    connector.public_only = origin.startswith(PUBLIC_ONLY) and not proxy_url
    return connector


def proxy_authorization(proxy_url: str) -> list[tuple[str, str]]:
    """Return the header line of plain requests. With TLS the credentials go into the CONNECT."""
    proxy = urlsplit(proxy_url)
    if proxy.username is None:
        return []
    credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return [("Proxy-Authorization", f"Basic {b64encode(credentials.encode()).decode()}")]


class _Tuned(PlainConnector):
    #: Whether connections go to public addresses only.
    public_only = False

    def _create_socket(self) -> Socket:
        """Try each address of the name.

        Each but the last may take half of the time that is left. So an address that swallows
        packets (often the IPv6 one) leaves time to the others; the base class gives all of it to
        each.
        """
        deadline = time.monotonic() + self.connection_timeout
        addresses = self._resolve()
        if self.public_only:
            # These very addresses are connected to: a second lookup could return others.
            allowed = [each for each in addresses if is_public(str(each[4][0]))]
            if addresses and not allowed:
                raise AddressRefused("its name leads to a private, local or metadata address")
            addresses = allowed
        failure: OSError | None = None
        for number, (family, kind, protocol, _, address) in enumerate(addresses, 1):
            sock: Socket = self._create_tcp_socket(family, kind, protocol)
            try:
                if number < len(addresses):
                    sock.settimeout(max(0.01, (deadline - time.monotonic()) / 2))
                connected: Socket = self._connect_socket(sock, address)
                return connected
            except BaseException as error:
                sock.close()
                if isinstance(error, ConnectTimedOut) or not isinstance(error, OSError):
                    raise  # not a failure of this address: the timeout is over, or the client left
                # Of several failures, a TLS error is the most specific one.
                if failure is None or isinstance(error, ssl.SSLError):
                    failure = error
        raise failure or OSError("its name has no address")

    def _create_tcp_socket(self, family: int, socktype: int, protocol: int) -> Socket:
        sock = super()._create_tcp_socket(family, socktype, protocol)
        for level, option, value in _KEEPALIVE:
            sock.setsockopt(level, option, value)
        return sock


class _TunedTLS(_Tuned, TLSConnector):
    def _connect_socket(self, sock: Socket, address: Any) -> Socket:
        """As the base class, except that an interrupted handshake leaves no descriptor open."""
        sock.connect(address)
        if self._use_proxy:
            self._setup_proxy(sock)
        secure: Socket = self.ssl_context.wrap_socket(
            sock,
            server_hostname=self.ssl_options["server_hostname"],
            do_handshake_on_connect=False,
        )
        try:
            secure.do_handshake()  # type: ignore[attr-defined]
        except BaseException:
            secure.close()
            raise
        return secure
