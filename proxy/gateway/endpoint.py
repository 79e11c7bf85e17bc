"""``/v1/*``: one WSGI callable from the bearer to the last byte.

It stands behind two doors: in front of Flask, for speed and for what Flask cannot route, and as the
view of the blueprint ``v1``, so that the URL map and the guards' table see it. The steps of one
request are called in order, on this page, and nothing else happens on the path.

The thing to get wrong: everything before the response head may still become an answer in the error
shape; everything after it can only break the connection.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.core.errors import ProxyError
from proxy.core.request_id import request_id_var
from proxy.gateway import methods
from proxy.gateway.admission import Admission
from proxy.gateway.body_transform import EventStream, TransformedBody
from proxy.gateway.context import Events, RequestContext
from proxy.gateway.cors import Cors
from proxy.gateway.held_bodies import HeldBodies
from proxy.gateway.inflight import Cancelled, ClientDisconnected, InFlightRequests
from proxy.gateway.outbound import asking_for_usage, outbound_request, outbound_upgrade
from proxy.gateway.request import ClientRequest
from proxy.gateway.response_stream import BodyObserver, Outcome, ResponseStream, Source
from proxy.gateway.responses import Headers, error_reply
from proxy.routing.dispatcher import Dispatcher
from proxy.upstream.headers import (
    content_of,
    downstream_headers,
    is_plain,
    is_sized,
    unbuffered,
    without_length,
)
from proxy.upstream.transport import UpstreamResponse
from proxy.upstream.websocket import UpgradeResponse
from proxy.usage.meter import UsageMeter
from proxy.usage.sniffed_stripper import unasked_filter


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOptions:
    """Bytes of any body, and of a buffered JSON body."""

    request_bytes: int
    json_bytes: int
    #: Of all bodies that are held whole.
    held: HeldBodies = field(default_factory=lambda: HeldBodies(512 * 1024 * 1024))
    trusted_proxies: int
    #: Seconds of an upstream's silence between two comments of ours in an event stream; 0: none.
    sse_keepalive: float = 0.0


_log = logging.getLogger(__name__)

#: An SSE comment: it keeps idle connections open and means nothing (WHATWG HTML §9.2.7).
PING: Final = b": ping\n\n"

StartResponse = Callable[[str, Headers], Any]


class RelayEndpoint:
    """The WSGI callable."""

    def __init__(
        self,
        admission: Admission,
        relay: Dispatcher,
        events: Events,
        live: InFlightRequests,
        cors: Cors,
        bounds: RelayOptions,
    ) -> None:
        self._admission = admission
        self._relay = relay
        self._events = events
        self._live = live
        self._cors = cors
        self._bounds = bounds

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        inbound = ClientRequest(environ, self._bounds.trusted_proxies)
        request_id_var.set(inbound.request_id)
        exchange = RequestContext(inbound, environ, self._events)
        slot = None
        try:
            if inbound.method in methods.REFUSED:
                raise methods.refused()
            if inbound.method == "OPTIONS":
                preflight = self._cors.preflight(inbound.header)
                if preflight is not None:
                    return self._preflight(exchange, preflight, start_response)
            address = inbound.client_ip
            if self._bounds.trusted_proxies and address == inbound.peer:
                address = ""  # the proxy's own: it names no client, and has no share
            slot = self._live.enter(address)
            return self._serve(exchange, slot, start_response)
        except ProxyError as error:
            failure = error
        except ClientDisconnected:
            self._leave(exchange, slot)
            exchange.end(499, Outcome.CLIENT_GONE)
            raise
        except Cancelled as interruption:
            failure = interruption.refusal()
        except StopIteration:
            raise  # a tunnel has ended
        except Exception as error:  # noqa: BLE001  (a defect of ours: told as a 500)
            failure = ProxyError()
            failure.__cause__ = error
        except BaseException:
            # The worker is being killed: nobody is left to answer to.
            self._leave(exchange, slot)
            exchange.end(503, Outcome.ABORTED, "draining")
            raise
        self._leave(exchange, slot)
        return self._refuse(exchange, failure, start_response)

    def _serve(
        self, exchange: RequestContext, slot: object, start_response: StartResponse
    ) -> Iterable[bytes]:
        inbound, timing = exchange.inbound, exchange.timing
        principal = self._admission.enter(exchange)
        self._live.claim(slot, principal)
        upstream_key = principal.upstream_key
        if inbound.method == "OPTIONS" and methods.hops_left(inbound.headers) == 0:
            return self._options(exchange, slot, start_response)
        if inbound.upgrades:
            self._admission.admit(exchange, principal)
            request = outbound_upgrade(inbound, principal.policy, with_key=upstream_key is None)
            opened = self._relay.upgrade(request, upstream_key, timing)
            if isinstance(opened, UpgradeResponse):
                return self._tunnel(exchange, slot, opened)
            return self._answer(exchange, slot, opened, start_response)
        outbound = outbound_request(
            inbound,
            principal.policy,
            request_bytes=self._bounds.request_bytes,
            json_bytes=self._bounds.json_bytes,
            bodies=self._bounds.held,
            with_key=upstream_key is None,
            usage_limited=principal.usage_limited,
        )
        self._admission.check_body(exchange, principal, outbound)
        self._admission.admit(exchange, principal)
        if exchange.limited is not None:
            asking = exchange.limited.asking
        else:
            asking = asking_for_usage(outbound) if principal.policy.inject_usage else None
        upstream = self._relay.handle(asking or outbound, upstream_key, timing)
        return self._answer(exchange, slot, upstream, start_response, asking is not None)

    def _tunnel(
        self, exchange: RequestContext, slot: object, opened: UpgradeResponse
    ) -> Iterable[bytes]:
        headers = self._our_headers(exchange)
        exchange.tunnel(opened, headers, lambda: self._leave(exchange, slot))
        # How gunicorn is told that there is nothing more to write or read on this connection.
        raise StopIteration

    def _answer(
        self,
        exchange: RequestContext,
        slot: object,
        upstream: UpstreamResponse,
        start_response: StartResponse,
        we_asked: bool = False,
    ) -> Iterable[bytes]:
        """``we_asked``: for the usage, so what answers that is not for the client."""
        inbound, timing = exchange.inbound, exchange.timing
        try:
            inbound.discard_body()  # the answer came before the upload's end, if it has not ended
            content_type, content_encoding = content_of(upstream.headers)
            meter = UsageMeter(content_type, content_encoding)
            source: Source = upstream
            watcher: BodyObserver = meter
            more: tuple[BodyObserver, ...] = ()
            if exchange.limited is not None:
                more = (exchange.limited.follow(content_type, content_encoding),)
            sent: EventStream = meter
            headers = downstream_headers(upstream.headers)
            if meter.is_event_stream:
                headers = unbuffered(headers)
            if we_asked and upstream.status < 300 and is_plain(content_encoding):
                unasked = unasked_filter(content_type, sized=is_sized(headers))
                if unasked is not None:
                    sent = unasked
                    source = watcher = TransformedBody(upstream, unasked, meter)
                    headers = without_length(headers)

            def on_close(stream: ResponseStream) -> None:
                self._leave(exchange, slot)
                exchange.end_stream(stream, upstream.status, meter)

            stream = ResponseStream(
                source,
                timing,
                (watcher, *more),
                # A response of a known length has no room for bytes of ours: last words would fill
                # it up, and a cut response would look complete.
                farewell=lambda cut: (
                    b"" if is_sized(headers) else exchange.closing_event(cut, sent)
                ),
                keepalive_words=lambda: PING if sent.at_event_boundary else b"",
                idle_after=self._idle_after(meter.is_event_stream, headers),
                drain=exchange.drains,
                inflated=bool(content_encoding),
                on_close=on_close,
            )
            start_response(
                f"{upstream.status} {upstream.reason}",
                [
                    *self._cors.replaced(headers),
                    *self._our_headers(exchange),
                ],
            )
        except BaseException:
            upstream.close()
            raise
        return stream

    def _idle_after(self, streamed: bool, headers: Headers) -> float:
        """Seconds after which a silent event stream is kept alive, 0 for never."""
        if not streamed or is_sized(headers):
            return 0.0
        return self._bounds.sse_keepalive

    def _refuse(
        self, exchange: RequestContext, error: ProxyError, start_response: StartResponse
    ) -> Iterable[bytes]:
        inbound = exchange.inbound
        inbound.discard_body()
        status, headers, body = error_reply(error, self._our_headers(exchange))
        if inbound.method == "HEAD":
            body = b""
        exchange.refused(error, len(body))
        if error.code == "internal_error":
            # Only now, when nothing can be thrown into this greenlet any more: logging may wait.
            said = f"request failed: {error}" if str(error) else "request failed"
            _log.error("%s", said, exc_info=error, extra={"request_id": inbound.request_id})
        start_response(status, headers)
        return [body] if body else []

    def _preflight(
        self, exchange: RequestContext, headers: Headers, start_response: StartResponse
    ) -> Iterable[bytes]:
        inbound = exchange.inbound
        self._admission.meet(exchange)
        self._leave(exchange, None)
        inbound.discard_body()
        start_response("204 No Content", [("X-Proxy-Request-ID", inbound.request_id), *headers])
        return []

    def _options(
        self, exchange: RequestContext, slot: object, start_response: StartResponse
    ) -> Iterable[bytes]:
        """The answer of the last hop that the client allowed (RFC 9110 §7.6.2)."""
        principal = exchange.principal
        rules = principal.policy.methods if principal is not None else ()
        self._leave(exchange, slot)
        exchange.inbound.discard_body()
        exchange.end(204, Outcome.COMPLETED)
        allow = ("Allow", methods.allowed(rules))
        start_response("204 No Content", [allow, *self._our_headers(exchange)])
        return []

    def _our_headers(self, exchange: RequestContext) -> Headers:
        inbound, passage = exchange.inbound, exchange.passage
        return [
            ("X-Proxy-Request-ID", inbound.request_id),
            *exchange.timing.headers(),
            *(() if passage is None else passage.headers()),
            *self._cors.answer_headers(inbound.header("ORIGIN")),
        ]

    def _leave(self, exchange: RequestContext, slot: object) -> None:
        """Idempotent, whichever way the request ended."""
        if slot is not None:
            self._live.leave(slot)
        body = exchange.inbound.body
        self._bounds.held.free += body.held
        body.held = 0
        passage = exchange.passage
        if passage is not None and (passage.concurrency or passage.unsettled):
            passage.end()
