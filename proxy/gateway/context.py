"""One request on ``/v1`` from acceptance to its usage event.

Holds what is known of it so far and turns that into exactly one event, whichever way it ends.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

from proxy.auth.principal import Principal
from proxy.core.errors import CUT_CODES, ProxyError, UpstreamError
from proxy.core.usage_event import Intent, UsageEvent
from proxy.gateway.body_transform import EventStream
from proxy.gateway.inflight import Cancelled, DisconnectWatcher
from proxy.gateway.limited_request import LimitedRequest
from proxy.gateway.request import ClientRequest
from proxy.gateway.response_stream import Outcome, ResponseStream
from proxy.gateway.responses import Headers, error_body
from proxy.logs.sanitizer import PATHS
from proxy.ratelimit.request_limiter import Reservation
from proxy.upstream.timing import Timing
from proxy.upstream.websocket import Tunnel, UpgradeResponse, close_frame
from proxy.usage.meter import UsageMeter
from proxy.usage.reading import Reading
from proxy.usage.websocket import WebSocketMeter

#: Longer ones are cut in the event: a line must stay small enough to be written in one piece.
_ENDPOINT_LENGTH: Final = 1024
_METHOD_LENGTH: Final = 64
#: SO_LINGER on, zero seconds: closing the socket sends a reset.
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Events(Protocol):
    """The event queue, as seen from here. Neither method waits or raises."""

    def begin(self, intent: Intent) -> int: ...

    def publish(self, event: UsageEvent) -> None: ...


class Settlement(Protocol):
    """Who admitted a request and is told once what it cost; does not wait."""

    def settle(self, principal: Principal, tokens: int, held: int = 0) -> None: ...


class RequestContext:
    """State of one request. :meth:`end` and its kin are called once, at its end."""

    __slots__ = (
        "_event_id",
        "_events",
        "_http_1_0",
        "_slot",
        "_socket",
        "_watcher",
        "inbound",
        "limited",
        "passage",
        "principal",
        "settlement",
        "timing",
    )

    def __init__(self, inbound: ClientRequest, environ: dict[str, Any], events: Events) -> None:
        self.inbound = inbound
        self.timing = Timing()
        #: Set as soon as the token has been recognised.
        self.principal: Principal | None = None
        #: Set as soon as it has been admitted.
        self.settlement: Settlement | None = None
        #: What it was granted of its limits, if it has any.
        self.passage: Reservation | None = None
        #: What it may cost, where that is limited.
        self.limited: LimitedRequest | None = None
        self._events = events
        self._event_id = os.urandom(16).hex()
        # Where a note of this request outlives a killed worker, once it has one.
        self._slot = -1
        # Only our server gives the client's socket; tests of the WSGI callable have none.
        self._socket = environ.get("gunicorn.socket")
        self._http_1_0 = environ.get("SERVER_PROTOCOL") == "HTTP/1.0"
        self._watcher: DisconnectWatcher | None = None

    @property
    def drains(self) -> bool:
        """Whether answers are read to their end after the client has left."""
        return self.principal is not None and self.principal.policy.drain_on_disconnect

    def record_intent(self, principal: Principal) -> None:
        """The request goes upstream now: from here on there is an event of it, whatever happens."""
        inbound = self.inbound
        self._slot = self._events.begin(
            Intent(
                self._event_id,
                self.timing.started_unix,
                inbound.request_id,
                principal.project_id,
                principal.token_id,
                principal.token_mask,
                PATHS[inbound.path][:_ENDPOINT_LENGTH],
                inbound.method[:_METHOD_LENGTH],
                inbound.client_ip,
            )
        )

    def watch_client(self) -> None:
        """From the end of the request's body on, a client that leaves ends this greenlet's wait.

        Not for a project that wants answers read to their end: there, a failing write tells.
        """
        if self._socket is None or self.drains:
            return
        self._watcher = DisconnectWatcher(self._socket)
        if self.inbound.body.finished:
            self._watcher.start()
        else:
            # Until then the body's reader is the one who notices.
            self.inbound.body.on_finished = self._watcher.start

    def stop_watching(self) -> None:
        """Idempotent."""
        if self._watcher is not None:
            self._watcher.stop()
            self.inbound.body.on_finished = _nothing

    def tunnel(self, opened: UpgradeResponse, headers: Headers, leave: Callable[[], None]) -> None:
        """Hand on the upstream's 101, then bytes both ways until both have ended. Then ``leave``
        is called: nothing may be thrown in any more, while the event is made."""
        self.stop_watching()
        meter = WebSocketMeter()
        tunnel = Tunnel(self._socket, opened.sock, meter.feed)
        outcome, code = Outcome.COMPLETED, None
        try:
            tunnel.open(opened, headers, self.inbound.take_buffered())
            tunnel.run()
        except Cancelled as interruption:
            outcome, code = Outcome.ABORTED, interruption.code
            if code is not None and meter.at_frame_boundary:
                tunnel.send_last(close_frame(interruption.close_code, code))
        except OSError:
            outcome = Outcome.CLIENT_GONE
        finally:
            leave()
            opened.sock.close()
            self.timing.mark_upstream_done()
            self.inbound.body.received = tunnel.bytes_in
            event = self.end(101, outcome, code, bytes_out=tunnel.bytes_out, publish=False)
            self._tell(event, meter.result())

    def closing_event(self, cut: Cancelled, sent: EventStream) -> bytes:
        """An SSE error event, where one can stand alone."""
        if not sent.at_event_boundary:
            return b""
        error = ProxyError(code=cut.code)
        return b"event: error\ndata: " + error_body(error) + b"\n\n"

    def end_stream(self, stream: ResponseStream, status: int, meter: UsageMeter) -> None:
        """The answer has ended, one way or another."""
        completed = stream.outcome is Outcome.COMPLETED
        if self._http_1_0 and not completed and self._socket is not None:
            # Without chunks or a length a closed connection is the normal end: only a reset says
            # that this one is not.
            with contextlib.suppress(OSError):  # it is closed already
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        event = self.end(
            status,
            stream.outcome,
            stream.error_code,
            bytes_out=stream.bytes_out,
            publish=False,
        )
        event.stream = meter.is_event_stream
        self._tell(event, meter.result(complete=stream.read_to_end))

    def _tell(self, event: UsageEvent, reading: Reading) -> None:
        event.usage_source = reading.source
        if reading.usage is not None:
            event.metadata = reading.usage.as_metadata()
        total = 0 if reading.usage is None else reading.usage.total
        if self.limited is not None and reading.source != "reported":
            total = self.limited.charge(event, total)
        if event.method == "GET" and event.is_read:  # the ledger charges what nothing has counted
            total, event.spending = 0, self.passage.token_buckets if self.passage else ()
        self._settle(total)
        self._events.publish(event)
        if self.passage is not None and self.passage.token_buckets:  # last, for it may have to wait
            self.passage.spend(total)

    def refused(self, error: ProxyError, bytes_out: int) -> None:
        """We answered in the upstream's stead."""
        # What has asked the upstream already is cut, and what has not is refused.
        aborted = (
            isinstance(error, UpstreamError)
            or error.code == "internal_error"
            or (error.code in CUT_CODES and self.timing.upstream_asked > 0)
        )
        outcome = Outcome.ABORTED if aborted else Outcome.REJECTED
        self.end(error.status, outcome, error.code, bytes_out=bytes_out)

    def end(
        self,
        status: int,
        outcome: Outcome,
        error_code: str | None = None,
        *,
        bytes_out: int = 0,
        publish: bool = True,
    ) -> UsageEvent:
        """Stop watching, and tell what happened."""
        self.stop_watching()
        principal, timing = self.principal, self.timing
        event = UsageEvent(
            started=timing.started_unix,
            request_id=self.inbound.request_id,
            endpoint=PATHS[self.inbound.path][:_ENDPOINT_LENGTH],
            method=self.inbound.method[:_METHOD_LENGTH],
            client_ip=self.inbound.client_ip,
            status_code=status,
            outcome=outcome,
            duration_ms=timing.duration_ms(),
            project_id=principal.project_id if principal else None,
            token_id=principal.token_id if principal else None,
            token=principal.token_mask if principal else None,
            error_code=error_code,
            queue_ms=timing.queue_ms(),
            upstream_ms=timing.upstream_ms(),
            ttfb_ms=timing.ttfb_ms(),
            bytes_in=self.inbound.body.received,
            bytes_out=bytes_out,
            event_id=self._event_id,
            slot=self._slot,
        )
        if publish:
            self._settle(0)
            self._events.publish(event)
            if self.passage is not None and self.passage.token_buckets:
                self.passage.spend(0)
        return event

    def _settle(self, tokens: int) -> None:
        if self.settlement is not None and self.principal is not None:
            held = 0 if self.limited is None else self.limited.held
            self.settlement.settle(self.principal, tokens, held)


def _nothing() -> None:
    pass
