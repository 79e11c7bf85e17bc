"""From a request to an upstream's response: one attempt at one upstream, or a route of targets."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from proxy.core.errors import ConnectFailed, ProxyError
from proxy.providers.base import OutboundRequest, Provider, Target
from proxy.providers.request_target import with_query_model
from proxy.routing.attempt_loop import (
    Attempt,
    AttemptLoop,
    Routed,
    RoutedCall,
    RoutingOptions,
    Waiting,
    provider_of,
)
from proxy.routing.retry import Failure
from proxy.routing.router import Route
from proxy.routing.states import RoutingStates
from proxy.upstream.timing import Timing
from proxy.upstream.transport import Transport, UpstreamResponse
from proxy.upstream.websocket import UpgradeResponse


class Dispatcher:
    """Sends requests with a project's own key to the default upstream."""

    def __init__(self, provider: Provider, target: Target, transport: Transport) -> None:
        self._provider = provider
        self._target = target
        self._transport = transport

    def send(
        self, request: OutboundRequest, upstream_key: str | None, timing: Timing
    ) -> UpstreamResponse:
        """Send the request. Returns the response with its body unread.

        Raises :class:`proxy.core.errors.UpstreamError`, or the error of the client's own body.
        """
        call = self._provider.prepare(request, self._target, upstream_key)
        return self._transport.handle(call, timing)

    def upgrade(
        self, request: OutboundRequest, upstream_key: str | None, timing: Timing
    ) -> UpgradeResponse | UpstreamResponse:
        """As :meth:`send`, for a WebSocket's handshake: switched, or an ordinary response."""
        call = self._provider.prepare(request, self._target, upstream_key)
        return self._transport.upgrade(call, timing)


class RouteDispatcher:
    """Sends requests along their routes. Every attempt is prepared from the original request."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        transport: Transport,
        states: RoutingStates,
        options: RoutingOptions,
        waiting: Waiting,
    ) -> None:
        self._providers = providers
        self._transport = transport
        self._states = states
        self._options = options
        self._waiting = waiting

    def send(self, call: RoutedCall, route: Route) -> Routed:
        """Try the targets of the route until one serves the request.

        Raises as :meth:`proxy.routing.attempt_loop.AttemptLoop.run`.
        """
        return AttemptLoop(
            call,
            route,
            providers=self._providers,
            transport=self._transport,
            states=self._states,
            options=self._options,
            waiting=self._waiting,
        ).run()

    def upgrade(self, call: RoutedCall, route: Route) -> Routed:
        """Open a WebSocket at the first target that can be reached, with one key of each.

        Raises ConnectFailed, or ProxyError ``upstream_unavailable``.
        """
        failed: ProxyError = ProxyError(code="upstream_unavailable", retry_after=5)
        for place, target in enumerate(route.targets):
            state = self._states.of(target, route.access, call.own_key)
            key = state.choose(call.affinity, set())
            permit = None if key is None else state.permit(lone=len(route.targets) == 1)
            if key is None or permit is None:
                state.release(key)
                continue
            attempt = Attempt(target.target.provider, target.target.model, key.id or None, place)
            call.attempts.append(attempt)
            began = self._waiting.clock()
            request = call.request
            if target.target.model is not None:
                query = with_query_model(request.target, target.target.model)
                request = replace(request, target=query)
            try:
                provider = provider_of(self._providers, target.target)
                prepared = provider.prepare(request, target.target, key.value)
                opened = self._transport.upgrade(prepared, call.timing)
            except ConnectFailed as error:
                attempt.reason = Failure.CONNECT.value
                attempt.milliseconds = (self._waiting.clock() - began) * 1e3
                state.rejected(key, permit, Failure.CONNECT, None, None)
                failed = error
                continue
            except BaseException:
                attempt.reason = Failure.ABANDONED.value
                state.abandoned(key, permit)
                raise
            attempt.milliseconds = (self._waiting.clock() - began) * 1e3
            attempt.status = 101 if isinstance(opened, UpgradeResponse) else opened.status
            state.served(key, permit, attempt.status)
            return Routed(
                response=opened, target=target.target, release=partial(state.release, key)
            )
        raise failed
