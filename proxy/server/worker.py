"""gunicorn's gevent worker, and what of it must be ours.

Six things, each verified against gunicorn 27.0.1: the error shape for what the HTTP parser itself
refuses; a keep-alive loop that tells an idle connection (closed silently, and at once at a stop)
from a slow one (408); request bodies that come as they arrive and whose failures are ours; and a
stop that ends within the time gunicorn gives it, since after ``graceful_timeout`` the arbiter kills
the worker and nothing is flushed; and no hooks for each request, no ``max_requests``, no PROXY
protocol; and a log whose reader may stall.

The thing to get wrong: gunicorn's own messages quote what the client sent, header lines included.
They are logged nowhere and sent to nobody.
"""

import errno
import signal
import time
from typing import Any, Final

import gevent
import gevent.socket
from gevent.event import Event
from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.http import errors as http_errors
from gunicorn.http.wsgi import create
from gunicorn.workers.ggevent import GeventWorker

from proxy.core.errors import ClientError, ProxyError
from proxy.logs import async_handler
from proxy.runtime.yielding import turn
from proxy.server import profiling
from proxy.server.connections import Connections, linger
from proxy.server.request_parser import ConnectionParser, RequestHead, head_class
from proxy.server.response_writer import ResponseWriter, http_date, relay_environ, run

_SWEEP_SECONDS: Final = 0.5
#: Running answers are cut this long before the arbiter kills: gunicorn looks once a second whether
#: they have ended, and the events must still be flushed.
CUT_BEFORE_KILL: Final = 2.5
_FLUSH_SECONDS: Final = 1.2
#: How long a client that still sends may take to read that its request was cut.
_LAST_WORDS_SECONDS: Final = 0.1

_STATUS_OF: Final = (
    (http_errors.LimitRequestLine, 414, "URI Too Long", "The request line is too long."),
    (
        http_errors.LimitRequestHeaders,
        431,
        "Request Header Fields Too Large",
        "The request's header is too large.",
    ),
    (http_errors.UnsupportedTransferCoding, 501, "Not Implemented", "Unknown transfer coding."),
    (http_errors.ExpectationFailed, 417, "Expectation Failed", "Unknown expectation."),
    (http_errors.ForbiddenProxyRequest, 403, "Forbidden", "Not allowed from this address."),
)
_QUIET: Final = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF)


class ProxyLogger(Logger):  # type: ignore[misc]
    """gunicorn's logger without its access log, which it would prepare for nobody to read."""

    def access(self, *args: Any) -> None:
        """The usage event tells more, and off the path."""


class ProxyWorker(GeventWorker):  # type: ignore[misc]
    """Expects of the application: ``start()``, ``begin_stop()``, ``cut()``, ``close(deadline)``,
    ``client_timeout``, ``keepalive_timeout``, ``min_body_rate``, ``connection_share``,
    ``profile_dir``, ``error_response(error, status_line)``; and ``relayed``, how the targets begin
    for which it reads no more of an environ than :func:`relay_environ` gives."""

    def init_process(self) -> None:
        async_handler.install()
        self._head_class = head_class(self.cfg)
        self._stopping = Event()
        super().init_process()

    def init_signals(self) -> None:
        super().init_signals()
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # the default kills; run() does better

    def run(self) -> None:
        self._connections = Connections(self.worker_connections, self.wsgi.connection_share)
        self.wsgi.start()
        profiling.listen(self.wsgi.profile_dir)
        greenlets = [gevent.spawn(self._stop_in_time), gevent.spawn(self._sweep)]
        try:
            super().run()
        finally:
            gevent.killall(greenlets)
            self.wsgi.close(_FLUSH_SECONDS)

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        self._stopping.set()

    def _stop_in_time(self) -> None:
        """The steps of a graceful stop that gunicorn does not know."""
        self._stopping.wait()
        asked = time.monotonic()
        self.wsgi.begin_stop()
        # One that has just connected may still send a request, and one that was refused the rest
        # of it.
        self._connections.close_idle(lambda served, since: served)
        gevent.sleep(1.1)  # until gunicorn has closed the listener
        self._connections.close_idle(lambda served, since: True)
        rest = asked + self.cfg.graceful_timeout - CUT_BEFORE_KILL - time.monotonic()
        gevent.sleep(max(0.0, rest))
        self.wsgi.cut()
        gevent.sleep(_LAST_WORDS_SECONDS)
        self._connections.shutdown_reads()

    def _sweep(self) -> None:
        """Close connections that have been idle for too long, and silent ones of a full worker."""
        longest = self.wsgi.keepalive_timeout
        due = 0.0
        while True:
            gevent.sleep(_SWEEP_SECONDS)
            self._connections.relieve()
            now = time.monotonic()
            if now >= due:
                due = now + longest / 20
                before = now - longest
                self._connections.close_idle(
                    lambda served, since: since < before  # noqa: B023  (called at once)
                )

    # One connection.

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        self._connections.enter(client, addr)
        client.settimeout(self.wsgi.client_timeout)
        heads = ConnectionParser(self._head_class, client, addr, self.wsgi.min_body_rate)
        request = None
        served = False
        try:
            while self._wait_for_request(client, heads, served):
                request = heads.take(self.wsgi.client_timeout)
                if not served:
                    self._connections.silent.pop(client, None)
                self._serve(listener, request, client, addr)
                served = True
                if not self._ready_for_next(heads, request, client):
                    linger(client)
                    break
                # Up to 128 KB of head: not for as long as the connection is idle.
                request = None
                heads.forget()
        except StopIteration:
            self._settle(client, request)
        except http_errors.NoMoreData:
            pass  # the client left in the middle of a head
        except OSError as error:
            if error.errno not in _QUIET and not isinstance(error, TimeoutError):
                self.log.exception("socket error")
        except Exception as error:  # noqa: BLE001  (the last one to answer it)
            self.handle_error(request, client, addr, error)
        finally:
            self._connections.leave(client)
            util.close(client)

    def _serve(self, listener: Any, request: RequestHead, client: Any, addr: Any) -> None:
        """Raises StopIteration when the connection can carry no other request."""
        answer = ResponseWriter(request, client, close=not self.alive)
        if request.uri.startswith(self.wsgi.relayed):
            environ = relay_environ(request, client, addr)
        else:
            # In a WSGI environ, `_` and `-` are one.
            request.headers = [line for line in request.headers if "_" not in line[0]]
            _, environ = create(request, client, addr, listener.getsockname(), self.cfg)
        try:
            run(self.wsgi, environ, answer)
        except OSError:
            raise
        except Exception:
            if not answer.begun:
                raise
            # An answer of ours on the same connection would corrupt what has been sent.
            self.log.exception("an answer broke off")
            raise StopIteration from None
        if answer.should_close():
            raise StopIteration

    def _wait_for_request(self, client: Any, heads: ConnectionParser, served: bool) -> bool:
        """Wait for the first byte of a request; False when the connection is to be closed."""
        if heads.pipelined:
            turn()  # one request at a time: its client may have sent thousands
            return True
        if self._stopping.is_set() and served:
            return False
        # No timer of its own: `close_idle` looks after all of them.
        idle = self._connections.idle
        idle[client] = served, time.monotonic()
        try:
            gevent.socket.wait(client._read_event)  # noqa: SLF001  (`wait_read` makes another)
        finally:
            del idle[client]
        return True

    def _ready_for_next(self, heads: ConnectionParser, request: RequestHead, client: Any) -> bool:
        """Skip what little may be left of the body; False when the connection must be closed."""
        body = request.body
        if body.unreadable:
            return False
        if body.ended:
            return True
        if self._stopping.is_set():
            return False
        now = time.monotonic()
        self._connections.idle[client] = False, now
        try:
            return bool(heads.finish_body(now + self.wsgi.client_timeout))
        except ClientError:
            return False
        finally:
            del self._connections.idle[client]

    def _settle(self, client: Any, request: RequestHead | None) -> None:
        """The connection ends after an answer: let the client read it, whatever it still sends."""
        body = getattr(request, "body", None)
        if body is not None and getattr(body, "unread", False):
            linger(client)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """ResponseWriter in our shape what never became a request, or what the application let
        escape."""
        error, line = _as_ours(exc)
        if error.code == "internal_error":
            self.log.error("request failed", exc_info=exc)
        status, headers, body = self.wsgi.error_response(error, line)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        date = http_date(int(time.time()))  # RFC 9110 §6.6.1
        head = f"HTTP/1.1 {status}\r\nDate: {date}\r\nConnection: close\r\n{lines}\r\n"
        try:
            client.sendall(head.encode("latin-1") + body)
            linger(client)
        except OSError:
            pass  # it did not wait for an answer


def _as_ours(exc: BaseException) -> tuple[ProxyError, str | None]:
    """What the client is told, and the status line where the parser has one of its own."""
    if isinstance(exc, ProxyError):
        return exc, None
    for kind, status, reason, message in _STATUS_OF:
        if isinstance(exc, kind):
            return ClientError(message), f"{status} {reason}"
    unsendable = (http_errors.InvalidResponseHeader, http_errors.InvalidResponseHeaderName)
    if isinstance(exc, http_errors.ParseException) and not isinstance(exc, unsendable):
        return ClientError("The request is not valid HTTP/1.1."), None
    return ProxyError(), None
