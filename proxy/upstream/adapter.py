"""The requests adapter on which every upstream call stands: one round trip over our own pool.

Mounted on a ``requests.Session`` and called with a hand-made ``PreparedRequest``. It does what the
stock adapter does not: the target goes out byte for byte, header lines keep their order, interim
answers are swallowed, what has arrived is handed on at once, and a body of any size is sent while
the answer may already be coming.

An upstream may answer before it has read the whole upload. So a large or streamed body is sent by a
greenlet of its own, and the caller's greenlet reads from the start.

A connection that was idle may be closed by the upstream at any moment. A request is sent again only
where :mod:`proxy.upstream.stale` says that this is no repetition.
"""

import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

import gevent.socket
import requests
from requests.adapters import BaseAdapter
from urllib3.util.retry import Retry

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

_SLICE: Final = 256 * 1024


class UpstreamAdapter(BaseAdapter):
    """Bodies are bytes, None, or an iterable of bytes whose errors are the client's, not ours.

    Raises requests' ``ConnectTimeout``, ``SSLError``, ``ConnectionError`` when there is no
    connection, ``ReadTimeout`` when the upstream is silent, :class:`BrokenResponse` for the rest.
    """

    #: For mocks of the seam, which ask an adapter for its retry policy. Ours is in `send`.
    max_retries = Retry(0, read=False)

    def __init__(self, *, pool_size: int, connect_timeout: float, proxy_url: str = "") -> None:
        super().__init__()
        self._pool_size = pool_size
        self._connect_timeout = connect_timeout
        self._proxy_url = proxy_url
        self._proxy_lines = proxy_authorization(proxy_url)
        #: Origin → its connections.
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
        """One round trip. ``timeout`` is (connect, silence) in seconds; the rest is ignored."""
        pool, head = self._prepare(request)
        read_timeout = timeout[1] if timeout else None
        body, sock = request.body, None
        small = body is None or (isinstance(body, bytes) and len(body) <= ONE_WRITE)
        if small or (isinstance(body, bytes) and request.method in IDEMPOTENT):
            sock = pool.acquire()
        else:
            pool.make_room()  # for a new one, which cannot be stale: this cannot be sent again
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
        """Ask on a new connection to switch protocols. An answer other than 101 is an ordinary one.

        Raises as :meth:`send`. The connection of an :class:`UpgradeResponse` is the caller's.
        """
        pool, head = self._prepare(request)
        sock = _connect(pool)
        sock.settimeout(timeout[1])
        answer = RawResponse(pool, sock, request.method or "")
        try:
            _write(sock, head)
            opening = read_upgrade(sock)
            if opening.switched:
                return opening
            answer.begin(opening.raw)
        except (InvalidResponse, OSError) as error:
            answer.close()
            if isinstance(error, requests.RequestException):
                raise
            if isinstance(error, TimeoutError):
                raise requests.ReadTimeout("it was silent for too long") from error
            raise BrokenResponse(str(error)) from error
        except BaseException:
            answer.close()
            raise
        return self.build_response(request, answer)

    def build_response(self, request: requests.PreparedRequest, raw: Any) -> requests.Response:
        """``raw`` as a ``requests.Response``; no cookies are kept and no body is read."""
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
        """Whom to ask, and the head to send."""
        url = request.url or ""
        scheme, _, rest = url.partition("://")
        authority, _, path = rest.partition("/")
        target = "/" + path
        lines: Iterable[tuple[str, str]] = request.headers.items()
        if self._proxy_url and scheme == "http":
            # RFC 9112 §3.2.2: a plain request to a proxy names the whole URL.
            target, lines = url, [*lines, *self._proxy_lines]
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
    """requests' own constructor makes a cookie jar and two dictionaries that nobody asks for."""

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
    """Write the request, a ``small`` one at once, and read the answer's head. Any failure closes
    the connection."""
    sock.settimeout(read_timeout)
    body: Any = request.body
    answer = RawResponse(pool, sock, request.method or "")
    cut = False
    try:
        answer.write_started = time.perf_counter()
        answer.write_started_ns = time.time_ns()
        if small:
            cut = not _write(sock, head + body if body else head)
        else:
            chunked = request.headers.get("Transfer-Encoding") == "chunked"
            pieces: Iterable[bytes] = _slices(body) if isinstance(body, bytes) else body
            answer.upload = Upload(sock, head, pieces, chunked=chunked)
        answer.read_head()
    except BrokenResponse as error:
        seconds = time.perf_counter() - answer.write_started
        silent = reused and not answer.bytes_came
        stale = silent and is_stale(request.method, sock, seconds, cut=cut)
        answer.close()
        if stale:
            raise StaleConnection(str(error)) from error
        raise
    except BaseException:
        answer.close()
        raise
    return answer


def _write(sock: Socket, data: bytes) -> bool:
    """False when the connection broke after a part of ``data``; True for all or nothing of it."""
    sent = 0
    try:
        sent = sock.send(data)
        if sent < len(data):  # `sendall` at once would ask the kernel for its buffer's size first
            sock.sendall(memoryview(data)[sent:])
    except TimeoutError as error:
        raise requests.ReadTimeout("it did not take the request in time") from error
    except OSError:
        # The answer may still be there: a server that refuses a request early says so and closes.
        return not sent
    return True


def _slices(body: bytes) -> Iterator[bytes]:
    """``body`` in pieces, so that the write timeout is per piece and never for the whole."""
    view = memoryview(body)
    for start in range(0, len(view), _SLICE):
        yield view[start : start + _SLICE]  # type: ignore[misc]
