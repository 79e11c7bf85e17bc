"""The requests adapter under every upstream call: one round trip over the proxy's own pool.

It is mounted on a ``requests.Session`` and called with a hand-made ``PreparedRequest``. Unlike the
stock adapter:

- the target goes out byte for byte, and header lines keep their order;
- interim responses are swallowed;
- what has arrived is returned at once;
- a body of any size is sent while the response may already arrive.

An upstream may respond before it has read the whole upload. So a greenlet of its own sends a large
or streamed body, and the caller's greenlet reads from the start.

The upstream may close an idle connection at any moment. A request is sent again only where
:mod:`proxy.upstream.stale` finds that the upstream cannot have executed it, or may do so twice.
"""

import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

import gevent.socket
import requests
from requests.adapters import BaseAdapter
from urllib3.util.retry import Retry

from proxy.providers.base import PUBLIC_ONLY
from proxy.upstream.http1_codec import InvalidResponse, request_head
from proxy.upstream.pool import (
    ConnectionPool,
    ConnectTimedOut,
    Socket,
    proxy_authorization,
    tls_context,
)
from proxy.upstream.raw_response import BrokenResponse, RawResponse, Upload
from proxy.upstream.stale import IDEMPOTENT, ONE_WRITE, StaleConnection, is_stale
from proxy.upstream.websocket import UpgradeResponse, read_upgrade

_SLICE_BYTES: Final = 256 * 1024


class UpstreamAdapter(BaseAdapter):
    """Sends requests whose body is bytes, None, or an iterable of bytes.

    An error of that iterable is the client's, and propagates. Raises requests' ``ConnectTimeout``,
    ``SSLError`` or ``ConnectionError`` without a connection, ``ReadTimeout`` when the upstream is
    silent, and :class:`BrokenResponse` for any other failure.
    """

    #: Mocks of this adapter read a retry policy. `send` has its own and ignores this one.
    max_retries = Retry(0, read=False)

    def __init__(self, *, pool_size: int, connect_timeout: float, proxy_url: str = "") -> None:
        super().__init__()
        self._pool_size = pool_size
        self._connect_timeout = connect_timeout
        self._proxy_url = proxy_url
        self._proxy_lines = proxy_authorization(proxy_url)
        #: Origin → its connection pool.
        self.pools: dict[str, ConnectionPool] = {}
        self._context: ssl.SSLContext | None = None

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = True,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Make one round trip. ``timeout`` is (connect, read) in seconds.

        The parameters after it are requests' and are ignored.
        """
        pool, head = self._prepare(request)
        read_timeout = timeout[1] if timeout else None
        body, sock = request.body, None
        small = body is None or (isinstance(body, bytes) and len(body) <= ONE_WRITE)
        if small or (isinstance(body, bytes) and request.method in IDEMPOTENT):
            sock = pool.acquire()
        else:
            pool.make_room()  # a new connection cannot be stale, and this body cannot be sent again
        if sock is not None:
            try:
                raw = _round_trip(pool, sock, request, head, read_timeout, small, reused=True)
            except StaleConnection:
                sock = None
        if sock is None:
            fresh = _connect(pool)
            raw = _round_trip(pool, fresh, request, head, read_timeout, small, reused=False)
        return self.build_response(request, raw)

    def upgrade(
        self, request: requests.PreparedRequest, timeout: Any
    ) -> UpgradeResponse | requests.Response:
        """Request a protocol switch on a new connection.

        Returns an :class:`UpgradeResponse` for a 101; its connection belongs to the caller. Any
        other status is an ordinary response. Raises as :meth:`send`.
        """
        pool, head = self._prepare(request)
        sock = _connect(pool)
        sock.settimeout(timeout[1])
        response = RawResponse(pool, sock, request.method or "")
        try:
            _write(sock, head)
            opening = read_upgrade(sock)
            if opening.switched:
                return opening
            response.begin(opening.raw)
        except (InvalidResponse, OSError) as error:
            response.close()
            if isinstance(error, requests.RequestException):
                raise
            if isinstance(error, TimeoutError):
                raise requests.ReadTimeout("it was silent for too long") from error
            raise BrokenResponse(str(error)) from error
        except BaseException:
            response.close()
            raise
        return self.build_response(request, response)

    def build_response(self, request: requests.PreparedRequest, raw: Any) -> requests.Response:
        """Return ``raw`` as a ``requests.Response``, without cookies and with an unread body."""
        response = _Response()
        response.status_code = raw.status
        response.reason = raw.reason
        response.headers = raw.headers
        response.raw = raw
        response.request = request
        response.url = request.url or ""
        return response

    def close(self) -> None:
        for pool in self.pools.values():
            pool.close()

    def _prepare(self, request: requests.PreparedRequest) -> tuple[ConnectionPool, bytes]:
        """Return the pool of the origin, and the head to send."""
        url = request.url or ""
        scheme, _, rest = url.partition("://")
        authority, _, path = rest.partition("/")
        target = "/" + path
        lines: Iterable[tuple[str, str]] = request.headers.items()
        if self._proxy_url and scheme.removeprefix(PUBLIC_ONLY) == "http":
            # RFC 9112 §3.2.2: a plain request to a proxy names the whole URL.
            target, lines = url.removeprefix(PUBLIC_ONLY), [*lines, *self._proxy_lines]
        head = request_head(request.method or "", target.encode("latin-1"), lines)
        return self._pool(f"{scheme}://{authority}"), head

    def _pool(self, origin: str) -> ConnectionPool:
        pool = self.pools.get(origin)
        if pool is None:
            pool = self.pools[origin] = ConnectionPool(
                origin,
                connect_timeout=self._connect_timeout,
                max_idle=self._pool_size,
                context=self._tls_context,
                proxy_url=self._proxy_url,
            )
        return pool

    def _tls_context(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = tls_context()
        return self._context


class _Response(requests.Response):
    """A response without the cookie jar and two dictionaries that requests' constructor makes."""

    def __init__(self) -> None:
        self._content = False  # type: ignore[assignment]  # requests: "not read yet"
        self._content_consumed = False
        self._next = None
        self.encoding = None
        self.history = []


def _connect(pool: ConnectionPool) -> Socket:
    try:
        return pool.connect()
    except (gevent.socket.gaierror, UnicodeError) as error:
        raise requests.ConnectionError("its name could not be resolved") from error
    except ssl.SSLCertVerificationError as error:
        raise requests.exceptions.SSLError(f"TLS: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise requests.exceptions.SSLError(f"TLS: {error.reason or 'handshake failed'}") from error
    except (ConnectTimedOut, TimeoutError) as error:
        raise requests.ConnectTimeout("no connection within the time allowed") from error
    except ConnectionRefusedError as error:
        raise requests.ConnectionError("it refused the connection") from error
    except OSError as error:
        raise requests.ConnectionError(error.strerror or str(error)) from error


def _round_trip(
    pool: ConnectionPool,
    sock: Socket,
    request: requests.PreparedRequest,
    head: bytes,
    read_timeout: float | None,
    small: bool,
    *,
    reused: bool,
) -> RawResponse:
    """Write the request, and read the head of the response.

    A ``small`` request is one write; any other is an :class:`Upload`. Any failure closes the
    connection.
    """
    sock.settimeout(read_timeout)
    body: Any = request.body
    response = RawResponse(pool, sock, request.method or "")
    cut = False
    try:
        response.write_started = time.perf_counter()
        response.write_started_ns = time.time_ns()
        if small:
            cut = not _write(sock, head + body if body else head)
        else:
            chunked = request.headers.get("Transfer-Encoding") == "chunked"
            pieces: Iterable[bytes] = _slices(body) if isinstance(body, bytes) else body
            response.upload = Upload(sock, head, pieces, chunked=chunked)
        response.read_head()
    except BrokenResponse as error:
        seconds = time.perf_counter() - response.write_started
        silent = reused and not response.bytes_came
        stale = silent and is_stale(request.method, sock, seconds, cut=cut)
        response.close()
        if stale:
            raise StaleConnection(str(error)) from error
        raise
    except BaseException:
        response.close()
        raise
    return response


def _write(sock: Socket, data: bytes) -> bool:
    """Write ``data``. Returns False when the connection broke after a part of it, else True."""
    sent = 0
    try:
        sent = sock.send(data)
        if sent < len(data):  # `sendall` at once would ask the kernel for its buffer's size first
            sock.sendall(memoryview(data)[sent:])
    except TimeoutError as error:
        raise requests.ReadTimeout("it did not take the request in time") from error
    except OSError:
        # A response may be readable: a server that refuses a request early sends one and closes.
        return not sent
    return True


def _slices(body: bytes) -> Iterator[bytes]:
    """Yield ``body`` in pieces, so that the write timeout applies to one piece."""
    view = memoryview(body)
    for start in range(0, len(view), _SLICE_BYTES):
        yield view[start : start + _SLICE_BYTES]  # type: ignore[misc]
