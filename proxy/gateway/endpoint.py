"""``/v1/*``: one WSGI callable from the access token to the last byte.

It is reached in two ways: in front of Flask, for speed and for what Flask cannot route, and as the
view of the blueprint ``v1``, so that the URL map and the table of guards include it. This module
calls the steps of a request in order, and nothing else happens on the path.

Note: before the response head is sent, a failure may still become a response in the error shape.
After it, a failure can only break the connection.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from http.client import responses as HTTP_REASONS  # noqa: N812  (a constant)
from typing import Any, Final, cast

from proxy.auth.principal import Principal
from proxy.cache.entry import CachedResponse
from proxy.cache.fetched import Fetched
from proxy.core.errors import ProxyError, UpstreamError
from proxy.core.request_id import request_id_var
from proxy.gateway import methods
from proxy.gateway.admission import Admission
from proxy.gateway.body_transform import EventStream, TransformedBody
from proxy.gateway.caching import CachedRequests
from proxy.gateway.context import Events, RequestContext
from proxy.gateway.cors import Cors
from proxy.gateway.held_bodies import HeldBodies
from proxy.gateway.inflight import InFlightRequests
from proxy.gateway.model_listing import ModelListing
from proxy.gateway.outbound import outbound_request, outbound_upgrade, requesting_usage
from proxy.gateway.request import ClientRequest
from proxy.gateway.response_stream import Outcome, Relayed, ResponseStream
from proxy.gateway.responses import Headers, error_reply
from proxy.gateway.routing import RoutedRequests
from proxy.providers.base import OutboundRequest
from proxy.ratelimit.headers import rate_limit_headers
from proxy.routing.attempt_loop import Routed
from proxy.routing.dispatcher import Dispatcher
from proxy.upstream.body import BodyObserver, Source
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
    """The options of the relay."""

    #: Maximum size of a body, in bytes.
    request_bytes: int
    #: Maximum size of a body that is held whole, in bytes.
    json_bytes: int
    #: The room for all bodies that are held whole.
    held: HeldBodies = field(default_factory=lambda: HeldBodies(512 * 1024 * 1024))
    trusted_proxies: int
    #: Seconds without bytes of the upstream after which an event stream gets a keep-alive comment.
    #: 0 means never.
    sse_keepalive: float = 0.0


_log = logging.getLogger(__name__)

#: A stored response of so many bytes is sent at once, as an error is.
_MAX_WHOLE_BYTES: Final = 64 * 1024
_X_PROXY: Final = ("X-Proxy", "openai-proxy")

StartResponse = Callable[[str, Headers], Any]
#: A check of a request, or a reservation for it.
Step = Callable[[RequestContext], None]


class RelayEndpoint:
    """The WSGI callable.

    `before_body` and `before_upstream` are the checks of a request, in the order in which their
    refusals win. Each is called with the :class:`RequestContext`. It raises, or sets its field of
    the context and registers the release of what it has reserved.
    """

    def __init__(
        self,
        admission: Admission,
        dispatcher: Dispatcher,
        events: Events,
        in_flight: InFlightRequests,
        cors: Cors,
        options: RelayOptions,
        routing: RoutedRequests | None = None,
        caching: CachedRequests | None = None,
    ) -> None:
        self._admission = admission
        self._dispatcher = dispatcher
        self._events = events
        self._in_flight = in_flight
        self._cors = cors
        self._options = options
        self._routing = routing
        self._caching = caching
        self.before_body: tuple[Step, ...] = (
            refuse_method,
            self._register_in_flight,
            admission.wait_for_event_room,
            admission.limit_client,
            admission.authenticate,
            admission.check_head_policy,
            admission.check_path,
            admission.reserve_concurrency,
            self._set_owner,
        )
        self.before_upstream: tuple[Step, ...] = (
            admission.check_body_policy,
            admission.take_rate_limits,
            admission.take_quota,
            RequestContext.record_intent,
            RequestContext.watch_client,
        )
        #: The same, for requests of projects that route.
        self.before_targets: tuple[Step, ...] = self.before_upstream
        if routing is not None:
            first, *others = self.before_upstream
            self.before_targets = (first, routing.find_route, *others)
        #: For projects that keep responses, :attr:`before_upstream` in two parts: a stored response
        #: counts for the rates, and costs nothing of the quota.
        self.before_lookup: tuple[Step, ...] = (
            admission.check_body_policy,
            self._find_route,
            admission.take_rate_limits,
            admission.check_quota,
        )
        self.after_miss: tuple[Step, ...] = (
            admission.take_quota,
            RequestContext.record_intent,
        )

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        inbound = ClientRequest(environ, self._options.trusted_proxies)
        request_id_var.set(inbound.request_id)
        context = RequestContext(inbound, environ, self._events)
        try:
            if inbound.method == "OPTIONS":
                preflight = self._cors.preflight(inbound.header)
                if preflight is not None:
                    return self._preflight(context, preflight, start_response)
            return self._serve(context, start_response)
        except StopIteration:
            raise  # a tunnel has ended
        except BaseException as error:  # noqa: BLE001  (it is raised again where it must be)
            failure = context.failure(error)
        return self._refuse(context, failure, start_response)

    def _serve(self, context: RequestContext, start_response: StartResponse) -> Iterable[bytes]:
        for step in self.before_body:
            step(context)
        inbound, principal = context.inbound, context.principal
        if inbound.method == "OPTIONS" and methods.hops_left(inbound.headers) == 0:
            return self._last_hop(context, principal, start_response)
        if inbound.upgrades:
            return self._upgrade(context, principal, start_response)
        body, options, upstream_key = inbound.body, self._options, principal.upstream_key
        if not body.finished:
            context.on_finish(partial(options.held.release, body))
        if principal.routing is not None:
            return self._serve_routed(context, principal, start_response)
        context.outbound = outbound = outbound_request(
            inbound,
            principal.policy,
            request_bytes=options.request_bytes,
            json_bytes=options.json_bytes,
            bodies=options.held,
            keep_authorization=upstream_key is None,
            usage_limited=principal.usage_limited,
        )
        if principal.caching is not None:
            return self._serve_cached(context, start_response)
        for step in self.before_upstream:
            step(context)
        return self._stream(context, self._send(context, outbound), start_response)

    def _send(self, context: RequestContext, outbound: OutboundRequest) -> Relayed:
        """Send a request with the project's own key. Returns the response as the client gets it."""
        principal = context.principal
        if context.limited is not None:
            usage_request = context.limited.usage_request
        else:
            usage_request = requesting_usage(outbound) if principal.policy.inject_usage else None
        upstream = self._dispatcher.send(
            usage_request or outbound, principal.upstream_key, context.timing
        )
        return self._relayed(context, upstream, usage_request is not None, None)

    def _serve_routed(
        self, context: RequestContext, principal: Principal, start_response: StartResponse
    ) -> Iterable[bytes]:
        """As :meth:`_serve` goes on, for a project that has other ways than its own key alone."""
        routing, options = self._routing, self._options
        if routing is None or principal.routing is None:
            raise TypeError("the project routes, and the endpoint does not")
        if routing.listing is not None and routing.listing.is_asked_for(context):
            return self._list_models(context, routing.listing, start_response)
        context.outbound = outbound_request(
            context.inbound,
            principal.policy,
            request_bytes=options.request_bytes,
            json_bytes=options.json_bytes,
            bodies=options.held,
            usage_limited=principal.usage_limited,
            names_model=routing.reads_model(context),
        )
        if principal.caching is not None:
            return self._serve_cached(context, start_response)
        for step in self.before_targets:
            step(context)
        return self._stream(context, self._send_routed(context, routing), start_response)

    def _send_routed(self, context: RequestContext, routing: RoutedRequests) -> Relayed:
        """Send a request along its route. Returns the response as the client gets it."""
        routed, request = routing.send(context), context.routed
        injected = request is not None and request.usage_injected
        return self._relayed(context, routed.response, injected, routed)

    def _serve_cached(
        self, context: RequestContext, start_response: StartResponse
    ) -> Iterable[bytes]:
        """As :meth:`_serve` goes on, for a project that keeps or shares responses."""
        caching = self._caching
        if caching is None:
            raise TypeError("the project keeps responses, and the endpoint does not")
        idempotency_key = caching.idempotency_key(context)
        for step in self.before_lookup:
            step(context)
        entry = caching.find(context, idempotency_key)
        if entry is not None:
            if len(entry.body) <= _MAX_WHOLE_BYTES and len(entry.chunk_sizes) == 1:
                return self._replay(context, caching, entry, start_response)
            return self._stream(context, caching.serve(context, entry, "hit"), start_response)
        try:
            relayed = self._relayed_or_shared(context, caching)
        except UpstreamError:
            entry = caching.stale(context)
            if entry is None:
                raise
        else:
            entry = caching.stale(context) if context.status >= 500 else None
        if entry is not None:
            relayed = caching.serve(context, entry, "stale")
        return self._stream(context, relayed, start_response)

    def _replay(
        self,
        context: RequestContext,
        caching: CachedRequests,
        entry: CachedResponse,
        start_response: StartResponse,
    ) -> Iterable[bytes]:
        """Send a small stored response of one chunk, in one piece with its head."""
        reason, body = caching.whole(context, entry)
        context.shield()
        context.timing.mark_first_byte()
        context.finish(context.status, Outcome.COMPLETED, bytes_out=len(body))
        start_response(
            f"{context.status} {reason}",
            [*self._cors.replaced(context.response_headers), *self._our_headers(context)],
        )
        return [body] if body else []

    def _relayed_or_shared(self, context: RequestContext, caching: CachedRequests) -> Relayed:
        """Return the response to a request that no stored one serves."""
        context.watch_client()
        if caching.uses_flight(context):

            def fetch() -> Fetched:
                """Send the request, in the pump of its flight."""
                caching.look_again(context)
                with caching.refusing(context):
                    for step in self.after_miss:
                        step(context)
                return caching.fetched(context, self._fetch(context))

            relayed = caching.read_flight(context, fetch)
            if relayed is not None:
                return relayed
        for step in self.after_miss:
            step(context)
        return caching.recorded(context, self._fetch(context))

    def _fetch(self, context: RequestContext) -> Relayed:
        """Send a request to where it goes. Returns the response as the client gets it."""
        if context.routed is not None and self._routing is not None:
            return self._send_routed(context, self._routing)
        return self._send(context, cast(OutboundRequest, context.outbound))

    def _upgrade(
        self, context: RequestContext, principal: Principal, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Relay a WebSocket's opening handshake: a tunnel, or an upstream's ordinary response."""
        key = principal.upstream_key
        request = outbound_upgrade(
            context.inbound, principal.policy, keep_authorization=key is None
        )
        routing = None if principal.routing is None else self._routing
        if routing is not None:
            routing.find_upgrade_route(context, request)
        for step in self.before_upstream:
            step(context)
        routed: Routed | None = None
        opened: UpgradeResponse | UpstreamResponse
        if routing is None:
            opened = self._dispatcher.upgrade(request, key, context.timing)
        else:
            routed = routing.send(context)
            opened = routed.response
        if not isinstance(opened, UpgradeResponse):
            relayed = self._relayed(context, opened, False, routed)
            return self._stream(context, relayed, start_response)
        context.on_finish(opened.sock.close)
        context.tunnel(opened, self._our_headers(context))
        # For gunicorn: there is nothing more to write or read on this connection.
        raise StopIteration

    def _relayed(
        self,
        context: RequestContext,
        upstream: UpstreamResponse,
        usage_injected: bool,
        routed: Routed | None,
    ) -> Relayed:
        """Return the response as the client gets it.

        ``usage_injected`` means that the proxy asked for the usage: the part of the response that
        reports it is not sent to the client. ``routed`` says where the response came from, for a
        project that routes.
        """
        context.on_finish(upstream.close)
        context.close_upstream = upstream.close
        # An upload that has not ended by now is not needed: the response is here.
        context.inbound.discard_body()
        content_type, content_encoding = content_of(upstream.headers)
        context.status = status = upstream.status
        reason = upstream.reason
        context.meter = meter = UsageMeter(content_type, content_encoding)
        source: Source = upstream
        sent: EventStream = meter
        observer: BodyObserver = meter
        headers = downstream_headers(upstream.headers)
        if routed is not None:
            translated = routed.transform
            if translated is not None:
                sent = translated.body
                source = observer = TransformedBody(source, sent, observer)
                headers = without_length(downstream_headers(translated.headers))
                if translated.status is not None:
                    context.status = status = translated.status
                    reason = HTTP_REASONS.get(status, "Error")
            headers = [*headers, *self._routed_headers(context)]
        if meter.is_event_stream:
            headers = unbuffered(headers)
        if usage_injected and upstream.status < 300 and is_plain(content_encoding):
            stripper = unasked_filter(content_type, sized=is_sized(headers))
            if stripper is not None:
                sent = stripper
                source = observer = TransformedBody(source, stripper, observer)
                headers = without_length(headers)
        observers: tuple[BodyObserver, ...] = (observer,)
        if context.limited is not None:
            observers += (context.limited.observe(content_type, content_encoding),)
        context.sent, context.response_headers = sent, headers
        return reason, source, observers, content_encoding

    def _stream(
        self, context: RequestContext, relayed: Relayed, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Send the head of the response, whose status and headers the context has."""
        reason, source, observers, content_encoding = relayed
        headers = context.response_headers
        idle_after = 0.0
        if context.meter.is_event_stream and not is_sized(headers):
            idle_after = self._options.sse_keepalive
        stream = ResponseStream(
            source,
            context.timing,
            observers,
            closing_event=context.closing_event,
            keepalive=context.keepalive,
            idle_after=idle_after,
            drain_on_disconnect=context.drain_on_disconnect,
            inflated=bool(content_encoding),
            on_close=context.finish_stream,
        )
        start_response(
            f"{context.status} {reason}",
            [
                *self._cors.replaced(headers),
                *self._our_headers(context),
            ],
        )
        return stream

    def _refuse(
        self, context: RequestContext, error: ProxyError, start_response: StartResponse
    ) -> Iterable[bytes]:
        context.shield()
        inbound = context.inbound
        inbound.discard_body()
        ours = [*self._routed_headers(context), *self._our_headers(context)]
        status, headers, body = error_reply(
            error, ours, path=inbound.path, request_id=inbound.request_id
        )
        if inbound.method == "HEAD":
            body = b""
        context.refuse(error, len(body))
        if error.code == "internal_error":
            # Logging may wait, so it comes when nothing can be thrown into this greenlet any more.
            text = f"request failed: {error}" if str(error) else "request failed"
            _log.error("%s", text, exc_info=error, extra={"request_id": inbound.request_id})
        start_response(status, headers)
        return [body] if body else []

    def _preflight(
        self, context: RequestContext, headers: Headers, start_response: StartResponse
    ) -> Iterable[bytes]:
        inbound = context.inbound
        self._admission.limit_client(context)
        context.finish(204, None)
        inbound.discard_body()
        start_response("204 No Content", [("X-Proxy-Request-ID", inbound.request_id), *headers])
        return []

    def _last_hop(
        self, context: RequestContext, principal: Principal, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Respond as the last hop that the client allows (RFC 9110 §7.6.2)."""
        context.shield()
        context.inbound.discard_body()
        context.finish(204, Outcome.COMPLETED)
        allow = ("Allow", methods.allowed(principal.policy.methods))
        start_response("204 No Content", [allow, *self._our_headers(context)])
        return []

    def _list_models(
        self, context: RequestContext, listing: ModelListing, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Respond with the models that the project may use, or with one of them."""
        for step in self.before_upstream:
            step(context)
        body = listing.body(context)
        context.shield()
        inbound = context.inbound
        inbound.discard_body()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        if inbound.method == "HEAD":
            body = b""
        context.finish(200, Outcome.COMPLETED, bytes_out=len(body))
        start_response("200 OK", [*headers, *self._our_headers(context)])
        return [body] if body else []

    def _our_headers(self, context: RequestContext) -> Headers:
        inbound, reservation = context.inbound, context.reservation
        return [
            _X_PROXY,
            ("X-Proxy-Request-ID", inbound.request_id),
            *context.timing.headers(),
            *(
                ()
                if reservation is None
                else rate_limit_headers(reservation.requests, reservation.tokens)
            ),
            *self._cors.response_headers(inbound.header("ORIGIN")),
            *(() if context.cached is None else context.cached.all_headers),
        ]

    def _routed_headers(self, context: RequestContext) -> Headers:
        if self._routing is None or context.routed is None:
            return []
        return self._routing.headers(context.routed)

    def _find_route(self, context: RequestContext) -> None:
        if context.principal.routing is not None and self._routing is not None:
            self._routing.find_route(context)

    def _register_in_flight(self, context: RequestContext) -> None:
        inbound = context.inbound
        address = inbound.client_ip
        if self._options.trusted_proxies and address == inbound.peer:
            address = ""  # of a trusted proxy, not of a client: it has no share
        context.greenlet = self._in_flight.register(address)
        context.in_flight = self._in_flight

    def _set_owner(self, context: RequestContext) -> None:
        """Note the owner: from here on the request is cut together with the owner's others."""
        self._in_flight.set_owner(context.greenlet, context.principal)


def refuse_method(context: RequestContext) -> None:
    """Refuse TRACE and its kind, before any other check."""
    if context.inbound.method in methods.REFUSED:
        raise methods.refused()
