"""One request on ``/v1`` from acceptance to its usage event.

The context holds what is known of the request so far, and all that is reserved for it. However the
request ends, it publishes exactly one event and releases everything.
"""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from proxy.auth.principal import Principal
from proxy.cache.flight import FlightReader
from proxy.core.errors import CUT_CODES, ProxyError, UpstreamError
from proxy.core.usage_event import Intent, RoutingFacts, UsageEvent
from proxy.gateway.body_transform import EventStream
from proxy.gateway.cached_request import CachedRequest
from proxy.gateway.inflight import Cancelled, ClientDisconnected, DisconnectWatcher
from proxy.gateway.limited_request import LimitedRequest
from proxy.gateway.request import ClientRequest
from proxy.gateway.response_stream import Outcome, ResponseStream
from proxy.gateway.responses import Headers, error_body
from proxy.gateway.routed_request import RoutedRequest
from proxy.logs.sanitizer import PATHS
from proxy.providers.base import OutboundRequest
from proxy.ratelimit.request_limiter import Reservation
from proxy.upstream.headers import is_sized
from proxy.upstream.timing import Timing
from proxy.upstream.websocket import Tunnel, UpgradeResponse, close_frame
from proxy.usage.meter import UsageMeter
from proxy.usage.reading import Reading
from proxy.usage.websocket import WebSocketMeter

#: Longer texts are cut in the event, whose line must stay small enough to be written in one piece.
_MAX_ENDPOINT_CHARS: Final = 1024
_MAX_METHOD_CHARS: Final = 64
#: An SSE comment: it keeps idle connections open and means nothing (WHATWG HTML §9.2.7).
KEEPALIVE: Final = b": ping\n\n"
#: SO_LINGER on, zero seconds: closing the socket sends a reset.
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Events(Protocol):
    """The part of the event queue that a request uses. Neither method waits or raises."""

    def record_intent(self, intent: Intent) -> int: ...

    def publish(self, event: UsageEvent) -> None: ...


class Settlement(Protocol):
    """Charges the cost of a request, once. It does not wait."""

    def settle(self, principal: Principal, tokens: int, held: int = 0) -> None: ...


class InFlight(Protocol):
    """The part of the requests in flight that a request uses."""

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
    #: Where the request is registered as in flight, while an exception may be thrown in from there.
    in_flight: InFlight | None = None
    greenlet: Any = None
    #: None until the token is recognised. The declared type is for the steps behind `authenticate`.
    principal: Principal = None  # type: ignore[assignment]
    #: What is reserved of the limits of the request, if it has any.
    reservation: Reservation | None = None
    #: The request as it goes upstream; the original, never changed. None for a WebSocket.
    outbound: OutboundRequest | None = None
    #: The estimated cost, where LLM tokens are limited.
    limited: LimitedRequest | None = None
    #: Set as soon as the request is admitted.
    settlement: Settlement | None = None
    #: The LLM tokens that the request cost; final when the releases run.
    tokens = 0
    #: The route of the request. None: the project's own key and the default upstream alone.
    routed: RoutedRequest | None = None
    #: What the response cache has to do with the request. None: the project keeps no responses.
    cached: CachedRequest | None = None
    #: Status of the upstream's response, once its head is here.
    status = 0
    #: None until the response's head is here. The declared type is for what comes after that.
    meter: UsageMeter = None  # type: ignore[assignment]
    #: Closes the upstream's response, once its head is here.
    close_upstream: Callable[[], object]
    #: The position in the event stream that the client has been sent so far.
    sent: EventStream
    #: Whether the response is read to its end after the client has left.
    drain_on_disconnect = False
    response_headers: Headers = []  # noqa: RUF012  (never changed)
    #: Reads the response from a flight. The event waits for what the flight cost.
    reader: FlightReader | None = None
    #: Whether the proxy itself has cut the request, so that nothing goes on for it.
    was_cut = False
    # The slot of the intent, which outlives a killed worker; -1 while there is none.
    _event_slot = -1
    _watcher: DisconnectWatcher | None = None
    _shielded = False
    _finished = False

    def __init__(self, inbound: ClientRequest, environ: dict[str, Any], events: Events) -> None:
        self.inbound = inbound
        self.timing = Timing()
        self._events = events
        self._event_id = os.urandom(16).hex()
        # Only the project's own server passes the client's socket; tests of the WSGI callable have
        # none.
        self._socket = environ.get("gunicorn.socket")
        self._http_1_0 = environ.get("SERVER_PROTOCOL") == "HTTP/1.0"
        self._releases: list[Callable[[], object]] = []
        #: Register a release. It is the list's own method, since every request calls it.
        self.on_finish: Callable[[Callable[[], object]], None] = self._releases.append

    def record_intent(self) -> None:
        """Record that the request goes upstream: now it has an event even if the worker dies."""
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
        """End this greenlet's wait when the client leaves, from the end of the request's body on.

        Where responses are read to their end, the client is not watched: there, a failing write
        shows that it has left.
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
            # Until then the reader of the body notices it.
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
        """Relay the upstream's 101, then bytes both ways until both have ended, and finish."""
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
        """Return an SSE error event, or ``b""`` where none can stand alone.

        A response of a known length has no room for it: the event would count towards the length,
        and a cut response would look complete.
        """
        if is_sized(self.response_headers) or not self.sent.at_event_boundary:
            return b""
        error, inbound = ProxyError(code=cut.code), self.inbound
        body = error_body(error, inbound.path, inbound.request_id)
        return b"event: error\ndata: " + body + b"\n\n"

    def keepalive(self) -> bytes:
        """Return an SSE comment, or ``b""`` where none can stand alone."""
        return KEEPALIVE if self.sent.at_event_boundary else b""

    def finish_stream(self, stream: ResponseStream) -> None:
        """Finish a request whose response has ended, in any way."""
        self.shield()
        if stream.outcome is Outcome.ABORTED and self.routed is not None and self.reader is None:
            self.routed.broke_off(stream.error_code)
        if self._http_1_0 and stream.outcome is not Outcome.COMPLETED and self._socket is not None:
            # Without chunks or a length, a closed connection is the normal end. Only a reset shows
            # that the response was cut.
            with contextlib.suppress(OSError):  # the socket is closed already
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.finish(
            self.status,
            stream.outcome,
            stream.error_code,
            bytes_out=stream.bytes_out,
            stream=self.meter.is_event_stream,
            reading=self.meter.reading,
        )

    def failure(self, error: BaseException) -> ProxyError:
        """Return the error to respond with after `error` has ended the request.

        Where no response can be sent any more, finishes the request and raises `error` again: the
        client has left, or the worker is being killed.
        """
        if isinstance(error, ProxyError):
            return error
        if isinstance(error, ClientDisconnected):
            self.finish(499, Outcome.CLIENT_GONE)
            raise error
        if isinstance(error, Cancelled):
            return error.refusal()
        if isinstance(error, Exception):  # a defect of the proxy, reported as a 500
            failure = ProxyError()
            failure.__cause__ = error
            return failure
        self.finish(503, Outcome.ABORTED, "draining")
        raise error

    def refuse(self, error: ProxyError, bytes_out: int) -> None:
        """Finish a request that the proxy itself responds to, with an error."""
        # A request that has been sent upstream is cut; one that has not is refused.
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

        Without an `outcome` there is no event. The event comes first, since a release may wait, and
        at a stop the greenlet may be killed in that moment.
        """
        if self._finished:
            return
        self._finished = True
        reader = self.reader
        if reader is not None:
            self.shield()
            self.was_cut = error_code in CUT_CODES
            # First of all: what waits for the end of the flight must not keep it from ending.
            reader.close()
            if self._waits_for_flight(outcome):
                end = partial(self._end_with_flight, status, outcome, error_code, bytes_out)
                if reader.flight.when_settled(end):
                    return
        self._end(status, outcome, error_code, bytes_out, stream, reading)

    def _waits_for_flight(self, outcome: Outcome | None) -> bool:
        """Return whether the event shows what the flight cost: the request that began it pays, and
        one that got all of the response has saved that."""
        follows = self.cached is not None and self.cached.facts is not None
        return outcome is Outcome.COMPLETED or not follows

    def _end_with_flight(
        self, status: int, outcome: Outcome | None, error_code: str | None, bytes_out: int
    ) -> None:
        """End a request that finished before the flight that it read: now the cost is known."""
        meter: UsageMeter | None = self.meter
        reading = None if meter is None else meter.reading
        stream = meter is not None and meter.is_event_stream
        self._end(status, outcome, error_code, bytes_out, stream, reading)

    def _end(
        self,
        status: int,
        outcome: Outcome | None,
        error_code: str | None,
        bytes_out: int,
        stream: bool,
        reading: Reading | None,
    ) -> None:
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
                if self.cached is not None and self.cached.facts is not None:
                    self.cached.describe(event, self.cached.facts)
                elif reading is not None:
                    event.stream = stream
                    self._count(event, reading)
                if self.routed is not None:
                    event.routing = self.routed.facts()
                    self.tokens += self.routed.superseded_tokens
                self._events.publish(event)
        finally:
            releases = self._releases
            try:
                while releases:
                    releases.pop()()
            finally:
                if releases:
                    self._release()

    def publish_superseded(
        self, facts: RoutingFacts, status: int | None, duration_ms: float, reading: Reading | None
    ) -> int:
        """Publish the event of an attempt whose response no client got, although it may be billed.

        Returns the LLM tokens that it cost.
        """
        inbound, principal = self.inbound, self.principal
        event = UsageEvent(
            started=time.time() - duration_ms / 1e3,
            request_id=inbound.request_id,
            endpoint=PATHS[inbound.path][:_MAX_ENDPOINT_CHARS],
            method=inbound.method[:_MAX_METHOD_CHARS],
            client_ip=inbound.client_ip,
            status_code=status,
            outcome=Outcome.SUPERSEDED,
            duration_ms=duration_ms,
            project_id=principal.project_id,
            token_id=principal.token_id,
            token=principal.token_mask,
            upstream_ms=duration_ms,
            routing=facts,
        )
        total = 0
        if reading is not None:
            event.usage_source = reading.source
            if reading.usage is not None:
                event.metadata = reading.usage.as_metadata()
                total = reading.usage.total
        if event.is_read:  # the ledger charges it, unless it is counted already
            total = 0
            event.token_buckets = self.reservation.token_buckets if self.reservation else ()
        self._events.publish(event)
        return total

    def _count(self, event: UsageEvent, reading: Reading) -> None:
        """Set the usage of `event`, and :attr:`tokens`, which is what is charged."""
        event.usage_source = reading.source
        if reading.usage is not None:
            event.metadata = reading.usage.as_metadata()
        total = 0 if reading.usage is None else reading.usage.total
        if self.limited is not None and reading.source != "reported":
            total = self.limited.charge(event, total, self.status)
        if event.method == "GET" and event.is_read:
            # The ledger charges it, unless it is counted already.
            total = 0
            event.token_buckets = self.reservation.token_buckets if self.reservation else ()
        self.tokens = total

    def _release(self) -> None:
        """Run the rest of the releases after one was killed while it waited."""
        try:
            self._releases.pop()()
        finally:
            if self._releases:
                self._release()

    def settle(self) -> None:
        """A release: charge the budgets, and return what was held of them."""
        if self.settlement is not None:
            held = 0 if self.limited is None else self.limited.held
            self.settlement.settle(self.principal, self.tokens, held)

    def spend(self) -> None:
        """A release: charge the rate limits."""
        if self.reservation is not None:
            self.reservation.spend(self.tokens)


def _nothing() -> None:
    pass
