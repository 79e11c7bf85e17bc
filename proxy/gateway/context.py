"""One request on ``/v1`` from acceptance to its usage event.

The context holds what is known of the request so far and what it has taken. Whichever way the
request ends, that becomes exactly one event, and all of it is given back.
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
from proxy.providers.base import OutboundRequest
from proxy.ratelimit.request_limiter import Reservation
from proxy.upstream.headers import is_sized
from proxy.upstream.timing import Timing
from proxy.upstream.websocket import Tunnel, UpgradeResponse, close_frame
from proxy.usage.meter import UsageMeter
from proxy.usage.reading import Reading
from proxy.usage.websocket import WebSocketMeter

#: Longer ones are cut in the event: a line must stay small enough to be written in one piece.
_MAX_ENDPOINT_CHARS: Final = 1024
_MAX_METHOD_CHARS: Final = 64
#: An SSE comment: it keeps idle connections open and means nothing (WHATWG HTML §9.2.7).
KEEPALIVE: Final = b": ping\n\n"
#: SO_LINGER on, zero seconds: closing the socket sends a reset.
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Events(Protocol):
    """The event queue, as seen from here. Neither method waits or raises."""

    def record_intent(self, intent: Intent) -> int: ...

    def publish(self, event: UsageEvent) -> None: ...


class Settlement(Protocol):
    """What admitted a request. It is given the cost of the request once and does not wait."""

    def settle(self, principal: Principal, tokens: int, held: int = 0) -> None: ...


class InFlight(Protocol):
    """The requests in flight, as seen from here."""

    def unregister(self, greenlet: Any) -> None: ...


class RequestContext:
    """Everything that one request holds. :meth:`finish` releases it all, once, in reverse order.

    Each step of an endpoint raises, or sets its own field and registers its release with
    ``on_finish``. A release takes no arguments.

    Note: an exception that is thrown into the greenlet from outside surfaces at its next wait.
    :meth:`shield` stops all sources of such exceptions: the registration in flight and the watcher
    of the client's socket. They are no releases, since a request must be shielded before its event
    is made and before anything is released.
    """

    # Defaults instead of assignments in `__init__`, since one context is made for every request.
    #: The registration in flight, while an exception may be thrown in from there.
    in_flight: InFlight | None = None
    greenlet: Any = None
    #: None until the token is recognised. The type is that of the steps behind that one.
    principal: Principal = None  # type: ignore[assignment]
    #: What the request is granted of its limits, if it has any.
    reservation: Reservation | None = None
    #: The request as it goes upstream; the original, never changed. None for a WebSocket.
    outbound: OutboundRequest | None = None
    #: What the request may cost, where that is limited.
    limited: LimitedRequest | None = None
    #: Set as soon as the request is admitted.
    settlement: Settlement | None = None
    #: The LLM tokens that the request cost; final when the releases run.
    tokens = 0
    #: Of the upstream's response, once its head is in.
    status = 0
    meter: UsageMeter
    #: What the client has been sent so far, as an event stream.
    sent: EventStream
    #: Whether the response is read to its end after the client has left.
    drain_on_disconnect = False
    response_headers: Headers = []  # noqa: RUF012  (never changed)
    # Where a note of this request outlives a killed worker, once it has one.
    _event_slot = -1
    _watcher: DisconnectWatcher | None = None
    _shielded = False
    _finished = False

    def __init__(self, inbound: ClientRequest, environ: dict[str, Any], events: Events) -> None:
        self.inbound = inbound
        self.timing = Timing()
        self._events = events
        self._event_id = os.urandom(16).hex()
        # Only the project's own server gives the client's socket; tests of the WSGI callable have
        # none.
        self._socket = environ.get("gunicorn.socket")
        self._http_1_0 = environ.get("SERVER_PROTOCOL") == "HTTP/1.0"
        self._releases: list[Callable[[], object]] = []
        #: Register a release. It is the list's own method, for it is called on every request.
        self.on_finish: Callable[[Callable[[], object]], None] = self._releases.append

    def record_intent(self) -> None:
        """The request goes upstream now. From here on it has an event even if the worker dies."""
        inbound, principal = self.inbound, self.principal
        self._event_slot = self._events.record_intent(
            Intent(
                self._event_id,
                self.timing.started_unix,
                inbound.request_id,
                principal.project_id,
                principal.token_id,
                principal.token_mask,
                PATHS[inbound.path][:_MAX_ENDPOINT_CHARS],
                inbound.method[:_MAX_METHOD_CHARS],
                inbound.client_ip,
            )
        )

    def watch_client(self) -> None:
        """From the end of the request's body on, a client that leaves ends this greenlet's wait.

        A project that wants responses read to their end is not watched: there, a failing write
        shows that the client has left.
        """
        self.drain_on_disconnect = (
            self.principal is not None and self.principal.policy.drain_on_disconnect
        )
        if self._socket is None or self.drain_on_disconnect:
            return
        self._watcher = DisconnectWatcher(self._socket)
        if self.inbound.body.finished:
            self._watcher.start()
        else:
            # Until then the reader of the body is the one that notices.
            self.inbound.body.on_finished = self._watcher.start

    def stop_watching(self) -> None:
        """Idempotent."""
        if self._watcher is not None:
            self._watcher.stop()
            self.inbound.body.on_finished = _nothing

    def shield(self) -> None:
        """Stop everything that may throw into this greenlet. Idempotent."""
        self._shielded = True
        if self.in_flight is not None:
            self.in_flight.unregister(self.greenlet)
            self.in_flight = None
        if self._watcher is not None:
            self.stop_watching()

    def tunnel(self, opened: UpgradeResponse, headers: Headers) -> None:
        """Hand on the upstream's 101, then bytes both ways until both have ended, and finish."""
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
            self.shield()
            self.timing.mark_upstream_done()
            self.inbound.body.received = tunnel.bytes_in
            self.finish(101, outcome, code, bytes_out=tunnel.bytes_out, reading=meter.result())

    def closing_event(self, cut: Cancelled) -> bytes:
        """An SSE error event, where one can stand alone.

        A response of a known length has no room for it: it would fill the length up, and a cut
        response would look complete.
        """
        if is_sized(self.response_headers) or not self.sent.at_event_boundary:
            return b""
        error = ProxyError(code=cut.code)
        return b"event: error\ndata: " + error_body(error) + b"\n\n"

    def keepalive(self) -> bytes:
        """An SSE comment, where one can stand alone."""
        return KEEPALIVE if self.sent.at_event_boundary else b""

    def finish_stream(self, stream: ResponseStream) -> None:
        """The response has ended, one way or another."""
        self.shield()
        if self._http_1_0 and stream.outcome is not Outcome.COMPLETED and self._socket is not None:
            # Without chunks or a length a closed connection is the normal end: only a reset says
            # that this one is not.
            with contextlib.suppress(OSError):  # it is closed already
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.finish(
            self.status,
            stream.outcome,
            stream.error_code,
            bytes_out=stream.bytes_out,
            stream=self.meter.is_event_stream,
            reading=self.meter.reading,
        )

    def refuse(self, error: ProxyError, bytes_out: int) -> None:
        """Finish a request that the proxy answered itself, with an error."""
        # What has asked the upstream already is cut, and what has not is refused.
        aborted = (
            isinstance(error, UpstreamError)
            or error.code == "internal_error"
            or (error.code in CUT_CODES and self.timing.upstream_asked > 0)
        )
        outcome = Outcome.ABORTED if aborted else Outcome.REJECTED
        self.finish(error.status, outcome, error.code, bytes_out=bytes_out)

    def finish(
        self,
        status: int,
        outcome: Outcome | None,
        error_code: str | None = None,
        *,
        bytes_out: int = 0,
        stream: bool = False,
        reading: Reading | None = None,
    ) -> None:
        """Publish the one event of the request and release everything that it holds. Idempotent.

        Without an `outcome` there is no event. The event comes first, for a release may have to
        wait: at a stop, the greenlet may be killed in that moment.
        """
        if self._finished:
            return
        self._finished = True
        try:
            if not self._shielded:
                self.shield()
            if outcome is not None:
                inbound, principal, timing = self.inbound, self.principal, self.timing
                event = UsageEvent(
                    started=timing.started_unix,
                    request_id=inbound.request_id,
                    endpoint=PATHS[inbound.path][:_MAX_ENDPOINT_CHARS],
                    method=inbound.method[:_MAX_METHOD_CHARS],
                    client_ip=inbound.client_ip,
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
                    bytes_in=inbound.body.received,
                    bytes_out=bytes_out,
                    event_id=self._event_id,
                    slot=self._event_slot,
                )
                if reading is not None:
                    event.stream = stream
                    self._count(event, reading)
                self._events.publish(event)
        finally:
            releases = self._releases
            try:
                while releases:
                    releases.pop()()
            finally:
                if releases:
                    self._release()

    def _count(self, event: UsageEvent, reading: Reading) -> None:
        """Note in `event` what was read of the usage, and in :attr:`tokens` what is charged."""
        event.usage_source = reading.source
        if reading.usage is not None:
            event.metadata = reading.usage.as_metadata()
        total = 0 if reading.usage is None else reading.usage.total
        if self.limited is not None and reading.source != "reported":
            total = self.limited.charge(event, total)
        if event.method == "GET" and event.is_read:  # the ledger charges what nothing has counted
            total, event.spending = 0, self.reservation.token_buckets if self.reservation else ()
        self.tokens = total

    def _release(self) -> None:
        """The rest of the releases, after one was killed while it waited."""
        try:
            self._releases.pop()()
        finally:
            if self._releases:
                self._release()

    def settle(self) -> None:
        """A release: the budgets are charged, and what they held is given back."""
        if self.settlement is not None:
            held = 0 if self.limited is None else self.limited.held
            self.settlement.settle(self.principal, self.tokens, held)

    def spend(self) -> None:
        """A release: the rate limits are charged."""
        if self.reservation is not None:
            self.reservation.spend(self.tokens)


def _nothing() -> None:
    pass
