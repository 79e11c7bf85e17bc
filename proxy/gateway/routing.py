"""A request of a project that routes: from its model's name to targets, then attempts until one
serves it.

Projects with only their own key, and nothing set about routing, pass none of this.
"""

from dataclasses import replace
from functools import partial
from typing import Final, cast
from urllib.parse import quote

from proxy.core.errors import ClientError
from proxy.core.usage_event import RoutingFacts
from proxy.gateway.body_parameters import parameters_of
from proxy.gateway.context import RequestContext
from proxy.gateway.generating_endpoints import generating
from proxy.gateway.model_listing import ModelListing
from proxy.gateway.outbound import requesting_usage
from proxy.gateway.responses import Headers, speaks_anthropic
from proxy.gateway.routed_request import RoutedRequest
from proxy.policy.policy import Policy
from proxy.providers.base import EditableBody, OutboundRequest
from proxy.providers.body import scan
from proxy.providers.request_target import query_model, without_account, without_deployment
from proxy.routing.access import RoutingAccess
from proxy.routing.attempt_loop import Attempt, Routed, RoutedCall
from proxy.routing.dispatcher import RouteDispatcher
from proxy.routing.held_response import Response
from proxy.routing.native import native_route
from proxy.routing.router import Route, Router
from proxy.upstream.headers import content_of
from proxy.usage.meter import UsageMeter

#: Endpoints below `/v1/` that keep no state, so that any target may serve them.
_STATELESS: Final = frozenset(
    {
        "/v1/moderations",
        "/v1/rerank",
        "/v1/messages/count_tokens",
        "/v1/images/generations",
        "/v1/images/edits",
        "/v1/images/variations",
        "/v1/audio/speech",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
    }
)
#: Members of a body that refer to what an upstream keeps.
_STATE: Final = ("previous_response_id", "conversation")
#: All visible ASCII, and the blank.
_VISIBLE: Final = "".join(map(chr, range(0x20, 0x7F)))


class RoutedRequests:
    """Finds the route of each request, and sends it."""

    def __init__(
        self,
        router: Router,
        dispatcher: RouteDispatcher,
        *,
        expose_provider: bool = True,
        listing: ModelListing | None = None,
    ) -> None:
        """`listing` responds to requests for the list of models. None: they go upstream."""
        self.listing = listing
        self._router = router
        self._dispatcher = dispatcher
        self._expose = expose_provider

    def reads_model(self, context: RequestContext) -> bool:
        """Return whether the body of a request is held to find its model, be it a form."""
        access, inbound = context.principal.routing, context.inbound
        return access is not None and access.shared and names_model(inbound.method, inbound.path)

    def find_route(self, context: RequestContext) -> None:
        """A step: the targets of the request.

        Raises ClientError: ``model_not_found``, or ``invalid_request`` where the body cannot be
        read beyond doubt.
        """
        principal, inbound, outbound = context.principal, context.inbound, context.outbound
        access = cast(RoutingAccess, principal.routing)
        if outbound is None:
            return
        if context.limited is not None:
            usage_request = context.limited.usage_request
        else:
            usage_request = requesting_usage(outbound) if principal.policy.inject_usage else None
        request = usage_request or outbound
        body: EditableBody | None = None
        streams = False
        affinity = principal.token_hash.encode()
        if not access.shared:
            route = self._router.own_route(access)
        else:
            if isinstance(request.body, bytes):
                body = scan(
                    request.body,
                    inbound.header("CONTENT-TYPE"),
                    inbound.header("CONTENT-ENCODING"),
                )
            pinned = is_pinned(inbound.method, inbound.path, body)
            route = self._router.route(
                access,
                None if body is None else body.model or "",
                has_own_key=bool(principal.upstream_key),
                pinned=pinned,
                same_model=generating(inbound.method, inbound.path) == "embeddings",
            )
            if pinned:
                affinity = (principal.project_id or "").encode()
            elif body is not None and isinstance(key := body.short("prompt_cache_key"), str):
                affinity = key.encode()
            if speaks_anthropic(inbound.path):
                text = request.body if isinstance(request.body, bytes) else b""
                route = native_route(route, inbound.path, body, text)
            route = _allowed(route, context)
            request = _for_route(route, request)
            streams = body is not None and body.short("stream") is True

        call = RoutedCall(
            request=request,
            body=body,
            path=request.target.partition(b"?")[0].decode("latin-1"),
            streams=streams,
            affinity=affinity,
            own_key=principal.upstream_key,
            timing=context.timing,
            untouched=lambda: not inbound.body.received,
            superseded=partial(_publish_superseded, context),
        )
        context.routed = RoutedRequest(route, call, usage_request is not None)

    def find_upgrade_route(self, context: RequestContext, request: OutboundRequest) -> None:
        """As :meth:`find_route`, for a WebSocket's handshake: its model is in the query."""
        principal = context.principal
        access = cast(RoutingAccess, principal.routing)
        if access.shared:
            route = self._router.route(
                access, query_model(request.target), has_own_key=bool(principal.upstream_key)
            )
            route = _allowed(route, context)
            request = _for_route(route, request)
        else:
            route = self._router.own_route(access)
        call = RoutedCall(
            request=request,
            path=context.inbound.path,
            affinity=principal.token_hash.encode(),
            own_key=principal.upstream_key,
            timing=context.timing,
            upgrades=True,
        )
        context.routed = RoutedRequest(route, call, usage_injected=False)

    def send(self, context: RequestContext) -> Routed:
        """Send the request until a target serves it, or opens the WebSocket. Raises ProxyError."""
        request = cast(RoutedRequest, context.routed)
        request.routed = routed = self._dispatcher.send(request.call, request.route)
        context.on_finish(routed.release)
        return routed

    def headers(self, request: RoutedRequest) -> Headers:
        """Return the headers that tell the client who responded."""
        headers: Headers = []
        routed = request.routed
        if routed is not None and request.route.alias:
            expose = self._expose if routed.expose is None else routed.expose
            if expose:
                headers.append(("X-Proxy-Provider", routed.target.provider))
                if routed.target.model is not None:
                    headers.append(("X-Proxy-Model", _as_value(routed.target.model)))
        if request.call.attempts:
            headers.append(("X-Proxy-Attempts", str(len(request.call.attempts))))
        if routed is not None and routed.dropped:
            headers.append(("X-Proxy-Dropped-Params", _as_value(", ".join(routed.dropped))))
        return headers


def _for_route(route: Route, request: OutboundRequest) -> OutboundRequest:
    """Return the request for the targets of the route, which are shared or the project's own."""
    target = request.target
    if route.targets[0].provider is not None:
        target = without_deployment(without_account(target))
    return request if target is request.target else replace(request, target=target)


def _as_value(text: str) -> str:
    """Return text as the value of a header: visible ASCII as it is, all else as UTF-8 in escapes.

    Clients choose models' names, and a header cannot carry each character (RFC 9110 §5.5).
    """
    return text if text.isascii() else quote(text, safe=_VISIBLE)


def _allowed(route: Route, context: RequestContext) -> Route:
    """Return the route without the targets whose provider has rules that refuse the request.

    Raises the first refusal when none is left: ClientError as :class:`Policy` does.
    """
    if all(each.provider is None or each.provider.policy is None for each in route.targets):
        return route
    left, refusal = [], None
    for each in route.targets:
        policy = None if each.provider is None else each.provider.policy
        try:
            if policy is not None:
                _check(policy, context)
            left.append(each)
        except ClientError as error:
            refusal = refusal or error
    if not left and refusal is not None:
        raise refusal
    return replace(route, targets=tuple(left))


def _check(policy: Policy, context: RequestContext) -> None:
    policy.check_head(context.inbound)
    outbound = context.outbound
    if not policy.reads or outbound is None or outbound.body is None:
        return
    if not isinstance(outbound.body, bytes):
        raise ClientError(
            "The provider's rules are about parameters, which cannot be read in this body.",
            code="param_not_allowed",
        )
    policy.check_values(parameters_of(context.inbound, outbound.body, policy.reads))


def names_model(method: str, path: str) -> bool:
    """Return whether the body of a request to this endpoint names a model."""
    return method == "POST" and (path in _STATELESS or generating(method, path) is not None)


def is_pinned(method: str, path: str, body: EditableBody | None) -> bool:
    """Return whether a request concerns what one upstream keeps.

    Such are files, batches, threads, stored responses, and requests that refer to one.
    """
    if not names_model(method, path):
        return True
    if body is None:
        return False
    return any(map(body.is_set, _STATE)) or body.short("background") is True


def _publish_superseded(
    context: RequestContext, attempt: Attempt, response: Response | None, held: bytes
) -> None:
    """Publish the event of an attempt whose response nobody got, but that may be billed."""
    reading = None
    if response is not None:
        meter = UsageMeter(*content_of(response.headers))
        meter.feed(held)
        meter.finish(complete=False)
        reading = meter.reading
    facts = RoutingFacts(attempt.provider, attempt.model, "", (attempt.as_json(),))
    tokens = context.publish_superseded(facts, attempt.status, attempt.milliseconds, reading)
    if context.routed is not None:
        context.routed.superseded_tokens += tokens
