"""gunicorn's gevent worker, and what of it must be ours.

Four things, each verified against gunicorn 27.0.1: the error shape for what the HTTP parser itself
refuses; a keep-alive loop that tells an idle connection (closed silently, and at once at a stop)
from a slow one (408); request bodies that come as they arrive and whose failures are ours; and a
stop that ends within the time gunicorn gives it, since after ``graceful_timeout`` the arbiter kills
the worker and nothing is flushed.

The thing to get wrong: gunicorn's own messages quote what the client sent, header lines included.
They are logged nowhere and sent to nobody.
"""

import contextlib
import errno
import time
from typing import Any, Final

import gevent
import gevent.socket
from gevent.event import Event
from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.http import errors as http_errors
from gunicorn.http import get_parser
from gunicorn.workers.ggevent import GeventWorker

from proxy.arriving import ArrivingBody
from proxy.errors import ClientError, ProxyError

#: Kept open longer than ``CLIENT_TIMEOUT``, so that a load balancer with the same idle timeout
#: closes first and never sends into a closing connection.
_IDLE_GRACE: Final = 15.0
#: Running answers are cut this long before the arbiter kills: gunicorn looks once a second whether
#: they have ended, and the events must still be flushed.
CUT_BEFORE_KILL: Final = 2.5
_FLUSH_SECONDS: Final = 1.2

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
    ``client_timeout`` and ``error_answer(error, status_line)``."""

    def init_process(self) -> None:
        # Connections that wait for a request → whether they have served one before.
        self._idle: dict[Any, bool] = {}
        self._stopping = Event()
        super().init_process()

    def run(self) -> None:
        self.wsgi.start()
        stopper = gevent.spawn(self._stop_in_time)
        try:
            super().run()
        finally:
            stopper.kill()
            self.wsgi.close(_FLUSH_SECONDS)

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        self._stopping.set()

    def _stop_in_time(self) -> None:
        """The steps of a graceful stop that gunicorn does not know."""
        self._stopping.wait()
        asked = time.monotonic()
        self.wsgi.begin_stop()
        self._close_idle(fresh_too=False)
        gevent.sleep(1.1)  # until gunicorn has closed the listener
        self._close_idle(fresh_too=True)
        rest = asked + self.cfg.graceful_timeout - CUT_BEFORE_KILL - time.monotonic()
        gevent.sleep(max(0.0, rest))
        self.wsgi.cut()

    def _close_idle(self, *, fresh_too: bool) -> None:
        """Close connections without a request; one that has just connected may still send one."""
        for client, served in list(self._idle.items()):
            if served or fresh_too:
                _shut_if_quiet(client)

    # One connection.

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        client.settimeout(self.wsgi.client_timeout)
        request = None
        try:
            parser = get_parser(self.cfg, client, addr)
            address = listener.getsockname()
            served = False
            while True:
                if not self._wait_for_request(client, parser, served):
                    break
                request = None
                request = self._next_request(parser)
                if request is None:
                    break
                request.proxy_protocol_info = request.proxy_protocol_info or {}
                self._serve(address, request, client, addr)
                served = True
                if not self._ready_for_next(parser):
                    util.close_graceful(client, timeout=2.0, max_drain=16 * 1024 * 1024)
                    break
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
            util.close(client)

    def _serve(self, address: Any, request: Any, client: Any, addr: Any) -> None:
        request.body = ArrivingBody(request, client)
        # Not the gevent worker's own: it swallows GreenletExit, and the connection of a request
        # that was interrupted half-way would be used again.
        super(GeventWorker, self).handle_request(address, request, client, addr)

    def _wait_for_request(self, client: Any, parser: Any, served: bool) -> bool:
        """Wait for the first byte of a request; False when the connection is to be closed."""
        if parser.unreader.buf.tell():
            return True  # pipelined
        if self._stopping.is_set() and served:
            return False
        self._idle[client] = served
        try:
            gevent.socket.wait_read(client.fileno(), timeout=self.wsgi.client_timeout + _IDLE_GRACE)
        except TimeoutError:
            return False
        finally:
            del self._idle[client]
        return True

    def _next_request(self, parser: Any) -> Any:
        """The next request's head; raises ClientError 408 when it takes too long."""
        slow = ClientError(code="request_timeout")
        with gevent.Timeout(self.wsgi.client_timeout, slow):
            request = next(parser)
        # gunicorn takes `gzip, chunked` and undoes only the chunks: coded bytes would go on as if
        # they were the body.
        if any(
            name == "TRANSFER-ENCODING" and value.lower() != "chunked"
            for name, value in request.headers
        ):
            raise http_errors.UnsupportedTransferCoding("not chunked alone")
        return request

    def _ready_for_next(self, parser: Any) -> bool:
        """Skip what little may be left of the body; False when the connection must be closed."""
        body = parser.mesg.body
        if body.unreadable:
            return False
        try:
            return bool(parser.finish_body(time.monotonic() + self.wsgi.client_timeout))
        except ClientError:
            return False

    def _settle(self, client: Any, request: Any) -> None:
        """The connection ends after an answer: let the client read it, whatever it still sends."""
        body = getattr(request, "body", None)
        if body is not None and getattr(body, "unread", False):
            util.close_graceful(client, timeout=2.0, max_drain=16 * 1024 * 1024)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer in our shape what never became a request, or what the application let escape."""
        error, line = _as_ours(exc)
        if error.code == "internal_error":
            self.log.error("request failed", exc_info=exc)
        status, headers, body = self.wsgi.error_answer(error, line)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        head = f"HTTP/1.1 {status}\r\nConnection: close\r\n{lines}\r\n"
        try:
            client.sendall(head.encode("latin-1") + body)
            util.close_graceful(client, timeout=2.0)
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


def _shut_if_quiet(client: Any) -> None:
    """End an idle connection, unless a request has just arrived on it."""
    try:
        client._sock.recv(1, gevent.socket.MSG_PEEK | gevent.socket.MSG_DONTWAIT)  # noqa: SLF001
    except BlockingIOError:
        with contextlib.suppress(OSError):
            client.shutdown(gevent.socket.SHUT_RDWR)
    except OSError:
        pass
