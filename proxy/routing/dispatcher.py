"""From a request to an upstream's response: one attempt at one upstream, or a route of targets."""

from collections.abc import Mapping

from proxy.providers.base import OutboundRequest, Provider, Target
from proxy.routing.attempt_loop import (
    AttemptLoop,
    Routed,
    RoutedCall,
    RoutingOptions,
    Waiting,
)
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
        """Try the targets of the route until one serves the request, or opens the WebSocket.

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
