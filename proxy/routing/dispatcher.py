"""From a request to an upstream's response: one attempt at one upstream, or a route of targets."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from proxy.core.errors import ClientError, UpstreamError
from proxy.providers.base import OutboundRequest, PreparedCall, Provider, Target
from proxy.providers.request_target import with_query_model
from proxy.routing.attempt_loop import (
    MAX_KEYS,
    MAX_SENT,
    Attempt,
    AttemptLoop,
    Routed,
    RoutedCall,
    RoutingOptions,
    Waiting,
    provider_of,
)
from proxy.routing.exhausted import Exhausted, Rejection
from proxy.routing.held_response import HeldResponse, hold_error
from proxy.routing.retry import (
    RULES,
    Failure,
    failure_of_error,
    failure_of_response,
    retry_after,
)
from proxy.routing.router import Route, RouteTarget
from proxy.routing.states import ChosenKey, RoutingStates, TargetState
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
        """Open a WebSocket at the first target that accepts it: the same table decides as for other
        requests, but no target is asked twice with the same key.

        Raises UpstreamError, or ProxyError as :meth:`send`.
        """
        own_key_only = all(target.provider is None for target in route.targets)
        exhausted = Exhausted(own_key_only=own_key_only)
        try:
            for place, target in enumerate(route.targets):
                state = self._states.of(target, route.access, call.own_key)
                outcome = self._opened(call, route, place, state, exhausted)
                if isinstance(outcome, Routed):
                    exhausted.close()
                    return outcome
                if state.pool is not None:
                    exhausted.note_keys(state.waits())
                if not outcome:
                    break
        except BaseException:
            exhausted.close()
            raise
        rejection = exhausted.conclude(len(call.attempts))
        return Routed(response=rejection.response, target=rejection.target.target)

    def _opened(
        self,
        call: RoutedCall,
        route: Route,
        place: int,
        state: TargetState,
        exhausted: Exhausted,
    ) -> Routed | bool:
        """Open a WebSocket at the target in this place, with each key until one is accepted.

        Otherwise returns whether the next target is to be tried.
        """
        target = route.targets[place]
        causes = target.options.fallback_on
        if causes is None:
            causes = self._options.fallback_on
        turned_away: set[str] = set()
        while len(turned_away) < MAX_KEYS and len(call.attempts) < MAX_SENT:
            key = state.choose(call.affinity, turned_away)
            if key is None:
                return True
            permit = state.permit(lone=len(route.targets) == 1)
            if permit is None:
                state.release(key)
                exhausted.waits(state.opens_in, rate=False)
                return True
            attempt = Attempt(target.target.provider, target.target.model, key.id or None, place)
            began = self._waiting.clock()
            response: UpgradeResponse | HeldResponse | None = None
            error: UpstreamError | None = None
            failure: Failure | None = None
            try:
                prepared = self._handshake(call, target, key)
                call.attempts.append(attempt)
                opened = self._transport.upgrade(prepared, call.timing)
                if isinstance(opened, UpgradeResponse):
                    attempt.status = 101
                    response = opened
                else:
                    attempt.status = opened.status
                    response, body = _held(
                        opened, self._waiting.clock, None if target.provider is None else key.value
                    )
                    failure = failure_of_response(
                        opened.status, opened.headers, body, target.target.provider_type
                    )
            except ClientError as unsupported:
                state.abandoned(key, permit)
                if unsupported.code != "endpoint_not_supported":
                    raise
                exhausted.unsupported(unsupported)
                return True
            except UpstreamError as caught:
                error = caught
                failure = failure_of_error(caught, sent=True)
            except BaseException:
                attempt.milliseconds = (self._waiting.clock() - began) * 1e3
                attempt.reason = Failure.ABANDONED.value
                state.abandoned(key, permit)
                raise
            attempt.milliseconds = (self._waiting.clock() - began) * 1e3
            if failure is None and response is not None:
                state.served(key, permit, attempt.status or 101)
                return Routed(
                    response=response, target=target.target, release=partial(state.release, key)
                )
            failure = failure or Failure.RESET
            attempt.reason = failure.value
            refusal = response if isinstance(response, HeldResponse) else None
            wait = None if refusal is None else retry_after(refusal.headers, self._waiting.wall())
            state.rejected(key, permit, failure, attempt.status, wait)
            exhausted.add(Rejection(failure, target, refusal, error, prepared, wait))
            if not RULES[failure].other_key:
                return RULES[failure].falls_back(causes)
            turned_away.add(key.id)
        return len(call.attempts) < MAX_SENT

    def _handshake(self, call: RoutedCall, target: RouteTarget, key: ChosenKey) -> PreparedCall:
        request = call.request
        if target.target.model is not None:
            query = with_query_model(request.target, target.target.model)
            request = replace(request, target=query)
        provider = provider_of(self._providers, target.target)
        return provider.prepare(request, target.target, key.value)


def _held(
    response: UpstreamResponse, clock: Callable[[], float], shared_key: str | None
) -> tuple[HeldResponse, bytes]:
    """Read the body of an error, and close the response if that fails."""
    if response.status < 400:
        return HeldResponse(response, []), b""
    try:
        return hold_error(response, clock, shared_key)
    except BaseException:
        response.close()
        raise
