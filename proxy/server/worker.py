"""gunicorn's gevent worker, and the parts of it that the proxy replaces.

There are six of them, each verified against gunicorn 27.0.1:

1. The error shape, also for what the HTTP parser itself refuses.
2. A keep-alive loop that distinguishes an idle connection (closed silently, and at once at a stop)
   from a slow one (408).
3. Request bodies that are read as they arrive, with the proxy's own errors.
4. A stop that ends within the time that gunicorn allows: after `graceful_timeout` the arbiter kills
   the worker, and nothing is flushed.
5. No hooks per request, no `max_requests`, no PROXY protocol.
6. A log whose reader may stall.

Note: gunicorn's own messages quote the client's bytes, header lines included. They are never logged
and never sent.
"""

import errno
import logging
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
from proxy.runtime.periodic import PeriodicTask
from proxy.runtime.yielding import turn
from proxy.server import profiling
from proxy.server.connections import Connections, linger
from proxy.server.request_parser import ConnectionParser, RequestHead, head_class
from proxy.server.response_writer import ResponseWriter, http_date, relay_environ, run

_log = logging.getLogger(__name__)

#: Seconds between two sweeps of the connections.
_SWEEP_SECONDS: Final = 0.5
#: Responses in flight are cut this long before the arbiter kills the worker: gunicorn checks once a
#: second whether they have ended, and the events must still be flushed.
CUT_BEFORE_KILL_SECONDS: Final = 2.5
_FLUSH_SECONDS: Final = 1.2
#: How long a client that is still sending has to read that its request was cut.
_CUT_NOTICE_SECONDS: Final = 0.1

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
    """gunicorn's logger without its access log, whose records would never be read."""

    def access(self, *args: Any) -> None:
        """Do nothing: the usage event has more details, and is written off the request's path."""


class ProxyWorker(GeventWorker):  # type: ignore[misc]
    """Expects of the application: `start()`, `begin_stop()`, `cut()`, `is_busy`, `close(deadline)`,
    `client_timeout`, `keepalive_timeout`, `min_body_rate`, `connection_share`, `profile_dir`,
    `error_response(error, status_line)`; and `relayed`, the prefix of the targets for which it
    reads no more of an environ than `relay_environ` provides.
    """

    def init_process(self) -> None:
        async_handler.install()
        self._head_class = head_class(self.cfg)
        self._stopping = Event()
        self._was_cut = Event()
        # Monotonic time of the next check for idle connections.
        self._idle_check_due = 0.0
        super().init_process()

    def init_signals(self) -> None:
        super().init_signals()
        signal.signal(
            signal.SIGUSR2, signal.SIG_IGN
        )  # the default kills; run() installs the profiler

    def run(self) -> None:
        self._connections = Connections(self.worker_connections, self.wsgi.connection_share)
        self.wsgi.start()
        profiling.listen(self.wsgi.profile_dir)
        stop = gevent.spawn(self._stop_in_time)
        sweeps = PeriodicTask(
            self._sweep, lambda: _SWEEP_SECONDS, failure="worker: a sweep failed", log=_log
        )
        sweeps.start()
        try:
            super().run()
            self._finish_shared()
        finally:
            sweeps.kill()
            stop.kill()
            self.wsgi.close(_FLUSH_SECONDS)

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        self._stopping.set()

    def _stop_in_time(self) -> None:
        """The steps of a graceful stop that gunicorn does not take."""
        self._stopping.wait()
        stop_requested = time.monotonic()
        self.wsgi.begin_stop()
        # A client that has just connected may still send a request, and one whose request was
        # refused may still send the rest of it.
        self._connections.close_idle(lambda served, since: served)
        gevent.sleep(1.1)  # until gunicorn has closed the listener
        self._connections.close_idle(lambda served, since: True)
        rest = (
            stop_requested + self.cfg.graceful_timeout - CUT_BEFORE_KILL_SECONDS - time.monotonic()
        )
        gevent.sleep(max(0.0, rest))
        self.wsgi.cut()
        gevent.sleep(_CUT_NOTICE_SECONDS)
        self._connections.shutdown_reads()
        self._was_cut.set()

    def _finish_shared(self) -> None:
        """Wait for responses that other workers relay, or that are read for their usage alone.

        gunicorn waits for this worker's own clients. What is left is cut when they would be.
        """
        while self.wsgi.is_busy and self._stopping.is_set() and not self._was_cut.wait(0.1):
            self.notify()

    def _sweep(self) -> None:
        """Close connections that have been idle for too long, and silent ones of a full worker."""
        self._connections.relieve()
        now = time.monotonic()
        if now >= self._idle_check_due:
            max_idle = self.wsgi.keepalive_timeout
            self._idle_check_due = now + max_idle / 20
            self._connections.close_idle(lambda served, since: since < now - max_idle)

    # One connection.

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        self._connections.add(client, addr)
        client.settimeout(self.wsgi.client_timeout)
        parser = ConnectionParser(self._head_class, client, addr, self.wsgi.min_body_rate)
        request = None
        served = False
        try:
            while self._wait_for_request(client, parser, served):
                request = parser.parse_next(self.wsgi.client_timeout)
                if not served:
                    self._connections.silent.pop(client, None)
                self._serve(listener, request, client, addr)
                served = True
                if not self._ready_for_next(parser, request, client):
                    linger(client)
                    break
                # A head takes up to 128 KB: not kept for as long as the connection is idle.
                request = None
                parser.reset()
        except StopIteration:
            self._linger_close(client, request)
        except http_errors.NoMoreData:
            pass  # the client left in the middle of a head
        except OSError as error:
            if error.errno not in _QUIET and not isinstance(error, TimeoutError):
                self.log.exception("socket error")
        except Exception as error:  # noqa: BLE001  (the last place to respond)
            self.handle_error(request, client, addr, error)
        finally:
            self._connections.remove(client)
            util.close(client)

    def _serve(self, listener: Any, request: RequestHead, client: Any, addr: Any) -> None:
        """Raises StopIteration when the connection cannot carry another request."""
        response = ResponseWriter(request, client, close=not self.alive)
        if request.uri.startswith(self.wsgi.relayed):
            environ = relay_environ(request, client, addr)
        else:
            # In a WSGI environ, `_` and `-` are the same.
            request.headers = [line for line in request.headers if "_" not in line[0]]
            _, environ = create(request, client, addr, listener.getsockname(), self.cfg)
        try:
            run(self.wsgi, environ, response)
        except OSError:
            raise
        except Exception:
            if not response.begun:
                raise
            # An error response on the same connection would corrupt what has been sent.
            self.log.exception("response broken off by an error of the application")
            raise StopIteration from None
        if response.should_close():
            raise StopIteration

    def _wait_for_request(self, client: Any, parser: ConnectionParser, served: bool) -> bool:
        """Wait for the first byte of a request. Returns False when the connection is to close."""
        if parser.pipelined:
            turn()  # one request at a time: its client may have sent thousands
            return True
        if self._stopping.is_set() and served:
            return False
        # Without a timer of its own: `close_idle` checks all idle connections.
        idle = self._connections.idle
        idle[client] = served, time.monotonic()
        try:
            gevent.socket.wait(client._read_event)  # noqa: SLF001  (`wait_read` makes another event)
        finally:
            del idle[client]
        return True

    def _ready_for_next(self, parser: ConnectionParser, request: RequestHead, client: Any) -> bool:
        """Skip what may be left of the body. Returns False when the connection must be closed."""
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
            return bool(parser.finish_body(now + self.wsgi.client_timeout))
        except ClientError:
            return False
        finally:
            del self._connections.idle[client]

    def _linger_close(self, client: Any, request: RequestHead | None) -> None:
        """The connection ends after a response: let the client read it while it still sends."""
        body = getattr(request, "body", None)
        if body is not None and getattr(body, "unread", False):
            linger(client)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Send the error shape for bytes that never became a request, and for an exception that
        escaped from the application.
        """
        error, line = _as_proxy_error(exc)
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
            pass  # it did not wait for the response


def _as_proxy_error(exc: BaseException) -> tuple[ProxyError, str | None]:
    """The error for the client, and the status line where the parser defines one."""
    if isinstance(exc, ProxyError):
        return exc, None
    for kind, status, reason, message in _STATUS_OF:
        if isinstance(exc, kind):
            return ClientError(message), f"{status} {reason}"
    unsendable = (http_errors.InvalidResponseHeader, http_errors.InvalidResponseHeaderName)
    if isinstance(exc, http_errors.ParseException) and not isinstance(exc, unsendable):
        return ClientError("The request is not valid HTTP/1.1."), None
    return ProxyError(), None
