"""One request at the targets of its route, one attempt after the other, until one serves it.

The loop follows one table, :data:`proxy.routing.retry.RULES`: what a failure is decides whether
another key, the same target again, or the next target is tried, and what it counts against. Every
attempt is prepared from the original request, so a second one inherits nothing from the first.
Nothing of a rejected attempt reaches the client.

Bounds:

- ``max_attempts`` of all targets together; a key that was turned away (401, 402, 403, 429) is no
  attempt of these, but at most :data:`MAX_KEYS` keys of a target are tried
- :data:`MAX_SENT` requests to upstreams, whatever they come to
- ``retry_deadline`` seconds, in which the last attempt must begin
- a target's ``max_retries``, and the retry budget of its provider

Note: the client may leave at any wait. That exception passes through here, counts against none,
and gives back what the attempt holds.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Protocol

from proxy.core.errors import ClientError, UpstreamError, UpstreamTimeout
from proxy.core.media_type import is_event_stream
from proxy.providers.base import (
    EditableBody,
    OutboundRequest,
    PreparedCall,
    Provider,
    ResponseTransform,
    Target,
    Translation,
)
from proxy.routing.circuit_breaker import Permit
from proxy.routing.exhausted import Exhausted, Rejection
from proxy.routing.first_output import FirstOutput
from proxy.routing.held_response import ErrorResponse, HeldResponse, Response, hold_error
from proxy.routing.retry import (
    RULES,
    Failure,
    failure_of_error,
    failure_of_event,
    failure_of_response,
    is_beyond_limit,
    retry_after,
)
from proxy.routing.router import Route, RouteTarget
from proxy.routing.states import ChosenKey, RoutingStates, TargetState
from proxy.upstream.headers import content_of
from proxy.upstream.timing import Timing
from proxy.upstream.websocket import UpgradeResponse

#: The status of an upstream that agrees to a WebSocket (RFC 9110 §15.2.2).
_SWITCHED: Final = 101
#: Keys of one target that are tried for one request.
MAX_KEYS: Final = 10
#: Requests to upstreams for one of a client's, handshakes too.
MAX_SENT: Final = 20
#: Failures of attempts that the upstream may have worked on, and billed.
_BILLED: Final = frozenset(
    {
        Failure.TIMEOUT,
        Failure.RESET,
        Failure.STREAM_ERROR,
        Failure.STREAM_TIMEOUT,
        Failure.STREAM_CUT,
    }
)


class Transport(Protocol):
    """Sends one prepared call to an upstream."""

    def handle(self, call: PreparedCall, timing: Timing) -> Any: ...

    def upgrade(self, call: PreparedCall, timing: Timing) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingOptions:
    """The settings of all routes. Times are in seconds."""

    max_attempts: int = 4
    retry_deadline: float = 30.0
    fallback_on: frozenset[str] = frozenset({"connect", "auth", "rate", "server", "stream_error"})
    first_output_hold: float = 10.0


class AttemptTimeout(BaseException):
    """An attempt has taken longer than its target may. Thrown at a wait, so it is no Exception."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How the loop waits and measures; handed in, so that tests need no time."""

    #: Monotonic seconds.
    clock: Callable[[], float]
    #: Unix seconds.
    wall: Callable[[], float]
    #: A number from 0 to 1.
    random: Callable[[], float]
    sleep: Callable[[float], None]
    #: Raises :class:`AttemptTimeout` in the block that takes longer than so many seconds.
    limit: Callable[[float], AbstractContextManager[Any]]


@dataclass(slots=True)
class Attempt:
    """One attempt, as the event of the request reports it."""

    #: `default`: the project's own key.
    provider: str
    model: str | None
    key_id: str | None
    #: The place of its target in the route. Not in the event.
    target: int = 0
    status: int | None = None
    milliseconds: float = 0.0
    #: Why it was rejected. None: it served the request.
    reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "provider": self.provider,
            "model": self.model,
            "key_id": self.key_id,
            "status": self.status,
            "ms": round(self.milliseconds, 1),
            "reason": self.reason,
        }


@dataclass(slots=True, kw_only=True)
class RoutedCall:
    """A client's request as the loop needs it."""

    #: The original, never changed.
    request: OutboundRequest
    #: The scan of its body, where that can be edited.
    body: EditableBody | None = None
    #: The path that the client wrote.
    path: str
    #: Whether the client asked for a stream.
    streams: bool = False
    #: Whether it is a WebSocket's handshake. No target gets it twice with the same key.
    upgrades: bool = False
    #: Requests with the same value prefer the same key, where the provider's strategy says so.
    affinity: bytes = b""
    #: The project's own key.
    own_key: str | None = None
    timing: Timing
    #: Whether no byte of a body that is not held has been read yet.
    untouched: Callable[[], bool] = lambda: False
    #: Called with an attempt that was rejected although it may be billed, and with its response
    #: as far as that came.
    superseded: Callable[[Attempt, Response | None, bytes], None] = lambda *_: None
    #: All attempts so far.
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def repeatable(self) -> bool:
        """Whether the request can be sent more than once."""
        return self.request.body is None or isinstance(self.request.body, bytes)


@dataclass(slots=True, kw_only=True)
class Routed:
    """The response that the client gets."""

    response: Any
    target: Target
    transform: ResponseTransform | None = None
    #: Names of parameters that were left out for the target.
    dropped: tuple[str, ...] = ()
    #: Whether the mapping shows or hides the provider. None: as the settings say.
    expose: bool | None = None
    #: Called once, when the response has ended or was dropped.
    release: Callable[[], None] = lambda: None
    #: Called when the response broke off before its end.
    broke_off: Callable[[], None] = lambda: None


@dataclass(slots=True, kw_only=True)
class _Visit:
    """One target while it is tried, with one key after the other."""

    target: RouteTarget
    state: TargetState
    #: Whether the route has a target after this one.
    has_next: bool
    #: Whether all targets are open, so that the probe of this one need not wait for its time.
    early: bool
    #: The ids of keys that were turned away since the last retry.
    turned_away: set[str] = field(default_factory=set)
    retries: int = 0


@dataclass(frozen=True, slots=True)
class _Trip:
    """What came of one round trip. Without a failure there is a response."""

    response: Response | None
    failure: Failure | None = None
    #: What was read of the response.
    held: bytes = b""
    error: UpstreamError | None = None
    #: The stream that `held` is of, where `response` is made of an error in it.
    begun: Response | None = None
    #: The WebSocket that the upstream agreed to, in place of a response.
    opened: UpgradeResponse | None = None


class AttemptLoop:
    """One request. :meth:`run` is called once."""

    def __init__(
        self,
        call: RoutedCall,
        route: Route,
        *,
        providers: Mapping[str, Provider],
        transport: Transport,
        states: RoutingStates,
        options: RoutingOptions,
        waiting: Waiting,
    ) -> None:
        self._call = call
        self._route = route
        self._providers = providers
        self._transport = transport
        self._states = states
        self._options = options
        self._waiting = waiting
        self._started = waiting.clock()
        # Attempts but for those whose key was turned away.
        self._counted = 0
        # Whether a failure was such that nothing more may be tried.
        self._final = False
        # The place of the target that is being tried.
        self._place = 0
        # The target whose breaker opens next, and its place, while no other was tried.
        self._next_open: tuple[float, int, RouteTarget] | None = None
        own_key_only = all(target.provider is None for target in route.targets)
        self._exhausted = Exhausted(own_key_only=own_key_only)

    def run(self) -> Routed:
        """Return the response for the client: of the target that served the request, or the
        failure that it is to see.

        Raises ClientError where no target supports the request, UpstreamError, or ProxyError
        ``upstream_unavailable``, ``upstream_auth_failed``, ``rate_limit_exceeded``.
        """
        try:
            routed = self._served()
        except BaseException:
            self._exhausted.close()
            raise
        if routed is not None:
            self._exhausted.close()
            return routed
        rejection = self._exhausted.conclude(len(self._call.attempts))
        return self._routed(rejection.target, rejection.response, rejection.call)

    def _served(self) -> Routed | None:
        """Try the targets in their order. Returns None when none has served the request."""
        targets = self._route.targets
        for index, target in enumerate(targets):
            self._place = index
            routed = self._at(target, has_next=index + 1 < len(targets))
            if routed is not None:
                return routed
            if self._final or not self._may_attempt():
                break
        if self._next_open is not None and len(targets) > 1 and not self._call.attempts:
            _, self._place, target = self._next_open
            return self._at(target, has_next=False, early=True)
        return None

    def _at(self, target: RouteTarget, *, has_next: bool, early: bool = False) -> Routed | None:
        """Try one target with its keys. Returns None when it cannot serve the request."""
        state = self._states.of(target, self._route.access, self._call.own_key)
        state.budget.note_request()
        visit = _Visit(target=target, state=state, has_next=has_next, early=early)
        routed = self._with_keys(visit)
        if routed is None and state.pool is not None:
            affinity = self._call.affinity if self._route.pinned else None
            wait = state.waits(pinned=affinity)
            if wait is not None and self._route.pinned and not self._call.attempts:
                # Its one key rests: nothing was refused, and nothing else may be tried.
                self._exhausted.waits(wait.seconds, rate=False)
            else:
                self._exhausted.note_keys(wait)
        return routed

    def _with_keys(self, visit: _Visit) -> Routed | None:
        state = visit.state
        while self._may_attempt():
            key = self._choose_key(visit)
            if key is None:
                return None
            permit = state.permit(lone=len(self._route.targets) == 1, early=visit.early)
            if permit is None:
                state.release(key)
                opens_in = state.opens_in
                self._exhausted.waits(opens_in, rate=False)
                if self._next_open is None or opens_in < self._next_open[0]:
                    self._next_open = opens_in, self._place, visit.target
                return None
            outcome = self._attempt(visit, key, permit)
            if not isinstance(outcome, Rejection):
                return outcome
            if self._keys_left(visit, outcome, key):
                continue
            if not self._retries(visit, outcome):
                return None
            visit.retries += 1
            # The wait was for them; keys that are to rest for longer are at rest in the pool.
            visit.turned_away.clear()
        return None

    def _keys_left(self, visit: _Visit, rejection: Rejection, key: ChosenKey) -> bool:
        """Whether another key of the target is tried at once, since this one was turned away."""
        if not RULES[rejection.failure].other_key or self._route.pinned:
            return False
        turned_away = visit.turned_away
        turned_away.add(key.id)
        if not self._call.repeatable or len(turned_away) >= MAX_KEYS:
            return False
        return visit.state.has_key(turned_away)

    def _retries(self, visit: _Visit, rejection: Rejection) -> bool:
        """Whether the same target is tried again. Waits until then."""
        rule = RULES[rejection.failure]
        if not (self._call.repeatable or (rule.unsent and self._call.untouched())):
            self._final = True
            return False
        target, retries = visit.target, visit.retries
        self._final = not rule.falls_back(self._fallback_on(target))
        pause = rule.pause(retries, rejection.retry_after, self._waiting.random)
        if pause is None or retries >= self._max_retries(target) or not self._may_attempt():
            return False
        if not visit.state.budget.take():
            self._states.budget_exhausted(target.target.provider)
            return False
        self._waiting.sleep(pause)
        return True

    def _choose_key(self, visit: _Visit) -> ChosenKey | None:
        if self._route.pinned:
            return visit.state.pinned(self._call.affinity)
        return visit.state.choose(self._call.affinity, visit.turned_away)

    def _attempt(self, visit: _Visit, key: ChosenKey, permit: Permit) -> Routed | Rejection | None:
        """One round trip. Returns its response, or why it was rejected; None: nothing was sent,
        since the target does not have the endpoint."""
        call, target, state = self._call, visit.target, visit.state
        try:
            prepared = self._prepared(target, key)
        except BaseException as error:
            state.abandoned(key, permit)
            if not isinstance(error, ClientError) or error.code != "endpoint_not_supported":
                raise
            self._exhausted.unsupported(error)
            return None
        attempt = Attempt(target.target.provider, target.target.model, key.id or None, self._place)
        call.attempts.append(attempt)
        began = self._waiting.clock()
        try:
            trip = self._round_trip(visit, key, prepared, attempt)
            if trip.response is not None and _may_do_without(trip, trip.response, prepared):
                prepared = self._prepared(target, key)
                trip = self._round_trip(visit, key, prepared, attempt)
        except BaseException:
            attempt.milliseconds = (self._waiting.clock() - began) * 1e3
            attempt.reason = Failure.ABANDONED.value
            state.abandoned(key, permit)
            raise
        attempt.milliseconds = (self._waiting.clock() - began) * 1e3
        if trip.opened is not None:
            state.served(key, permit, _SWITCHED)
            release = partial(state.release, key)
            return Routed(response=trip.opened, target=target.target, release=release)
        if trip.failure is None and trip.response is not None:
            return self._accepted(visit, key, permit, prepared, trip.response, began)
        return self._rejected(visit, key, permit, prepared, attempt, trip)

    def _accepted(
        self,
        visit: _Visit,
        key: ChosenKey,
        permit: Permit,
        prepared: PreparedCall,
        response: Response,
        began: float,
    ) -> Routed:
        """Return the response for the client. The key stays in flight until it has ended."""
        target, state = visit.target, visit.state
        self._counted += 1
        state.served(key, permit, response.status)
        if target.provider is not None and not (self._call.streams or _is_event_stream(response)):
            deadline = began + self._timeout(target)
            response = HeldResponse(response, [], clock=self._waiting.clock, deadline=deadline)
        try:
            routed = self._routed(target, response, prepared)
        except BaseException:
            state.release(key)
            raise
        routed.release = partial(state.release, key)
        routed.broke_off = state.broke_off
        return routed

    def _rejected(
        self,
        visit: _Visit,
        key: ChosenKey,
        permit: Permit,
        prepared: PreparedCall,
        attempt: Attempt,
        trip: _Trip,
    ) -> Rejection:
        """Count the failure against what it is the fault of, and keep it for the client."""
        response, failure = trip.response, trip.failure or Failure.RESET
        rule = RULES[failure]
        attempt.reason = failure.value
        if not rule.other_key:
            self._counted += 1
        wait = None
        if response is not None:
            wait = retry_after(response.headers, self._waiting.wall())
        spared = response is not None and is_beyond_limit(response.headers)
        visit.state.rejected(key, permit, failure, attempt.status, wait, spared=spared)
        self._states.failed(attempt.provider, _described(attempt, trip.error))
        superseded: Callable[[], None] | None = None
        if failure in _BILLED:
            superseded = partial(self._call.superseded, attempt, trip.begun or response, trip.held)
        if trip.error is not None and response is not None:
            # It broke off before the client got anything, so the client gets the error instead.
            response.close()
            response = None
        rejection = Rejection(
            failure,
            visit.target,
            response,
            trip.error,
            prepared,
            wait,
            superseded,
            metered_by_client=trip.begun is None and not (trip.error and trip.held),
        )
        self._exhausted.add(rejection)
        return rejection

    def _prepared(self, target: RouteTarget, key: ChosenKey) -> PreparedCall:
        """Return the call for one attempt. Raises ClientError."""
        call, where = self._call, target.target
        if call.attempts and call.attempts[0].provider != where.provider:
            where = replace(where, foreign=True)
        provider = provider_of(self._providers, where)
        return provider.prepare(call.request, where, key.value, call.body)

    def _round_trip(
        self, visit: _Visit, key: ChosenKey, prepared: PreparedCall, attempt: Attempt
    ) -> _Trip:
        """Send the request, and read the response until it is known to be good or bad."""
        target = visit.target
        provider_type = target.target.provider_type
        response: Response | None = None
        held: list[bytes] = []
        try:
            with self._limit(target):
                send = self._transport.upgrade if self._call.upgrades else self._transport.handle
                sent: Response | UpgradeResponse = send(prepared, self._call.timing)
                if isinstance(sent, UpgradeResponse):
                    attempt.status = _SWITCHED
                    return _Trip(None, opened=sent)
                response = sent
                attempt.status = response.status
                if response.status >= 400:
                    held_error, body = hold_error(
                        response,
                        self._waiting.clock,
                        None if target.provider is None else key.value,
                    )
                    failure = failure_of_response(
                        response.status, response.headers, body, provider_type
                    )
                    return _Trip(held_error, failure, body)
                holds = (
                    prepared.translation is not None
                    or visit.has_next
                    or visit.state.has_key(visit.turned_away | {attempt.key_id or ""})
                )
                if not (holds and self._holds(target, response)):
                    return _Trip(response)
                return self._read_to_output(target, response, held, prepared.translation)
        except UpstreamError as error:
            failure = failure_of_error(error, sent=True, head=response is not None)
            failure = _by_status(response, provider_type) or failure
            return _Trip(response, failure, b"".join(held), error)
        except AttemptTimeout:
            failure = _by_status(response, provider_type) or Failure.TIMEOUT
            return _Trip(response, failure, b"".join(held), UpstreamTimeout())
        except BaseException:
            if response is not None:
                response.close()
            raise

    def _holds(self, target: RouteTarget, response: Response) -> bool:
        """Whether the beginning of a response is held back until its first output."""
        if not (self._call.repeatable and self._hold_seconds(target) > 0):
            return False
        return _is_event_stream(response)

    def _read_to_output(
        self,
        target: RouteTarget,
        response: Response,
        held: list[bytes],
        translation: Translation | None,
    ) -> _Trip:
        """Read a stream until its first output, an error, its end, or a bound.

        A translated stream that begins with an error becomes the response that the error stands
        for, with its status. What was read is added to `held`. Raises UpstreamError.
        """
        clock = self._waiting.clock
        until = clock() + self._hold_seconds(target)
        _, encoding = content_of(response.headers)
        output = FirstOutput(encoding)
        while not output.decided and (left := until - clock()) > 0:
            chunk = response.read_within(left)
            if not chunk:
                break  # the end, or the time is over
            held.append(chunk)
            output.feed(chunk)
            if response.complete:
                break
        begun = HeldResponse(response, held)
        if output.error is None:
            return _Trip(begun)
        failure = failure_of_event(output.error, target.target.provider_type)
        if translation is not None:
            status = translation.error_status(output.error)
            error = HeldResponse(ErrorResponse(response, status, output.error), [])
            return _Trip(error, failure, b"".join(held), begun=begun)
        if failure in (Failure.CLIENT, Failure.CONTEXT, Failure.CONTENT):
            cause = RULES[failure].next_target
            if cause not in self._fallback_on(target):
                return _Trip(begun)  # the client's own fault, as the provider words it
        return _Trip(begun, failure, b"".join(held))

    def _routed(self, target: RouteTarget, response: Any, prepared: PreparedCall) -> Routed:
        provider = provider_of(self._providers, target.target)
        try:
            transform = provider.transform(
                target.target,
                self._call.path,
                response.status,
                response.headers,
                prepared.translation,
            )
        except BaseException:
            response.close()
            raise
        return Routed(
            response=response,
            target=target.target,
            transform=transform,
            dropped=prepared.dropped,
            expose=target.options.expose_provider,
        )

    def _may_attempt(self) -> bool:
        """Whether another attempt may begin: the first always may."""
        if not self._call.attempts:
            return True
        if self._counted >= self._options.max_attempts or len(self._call.attempts) >= MAX_SENT:
            return False
        return self._waiting.clock() - self._started <= self._options.retry_deadline

    def _max_retries(self, target: RouteTarget) -> int:
        if self._call.upgrades:
            return 0
        if target.provider is None:
            return self._route.access.max_retries
        chosen = target.options.max_retries
        return target.provider.config.max_retries if chosen is None else chosen

    def _fallback_on(self, target: RouteTarget) -> frozenset[str]:
        chosen = target.options.fallback_on
        return self._options.fallback_on if chosen is None else chosen

    def _hold_seconds(self, target: RouteTarget) -> float:
        chosen = target.options.first_output_hold
        return self._options.first_output_hold if chosen is None else chosen

    def _timeout(self, target: RouteTarget) -> float:
        """The bound of a whole buffered response."""
        return target.options.timeout or target.target.config.timeout

    def _limit(self, target: RouteTarget) -> AbstractContextManager[Any]:
        """Bounds the wait for a head, and for the first output where that is held. With a project's
        own key, only the silence between two bytes is bounded, as without routing."""
        if target.provider is None:
            return nullcontext()
        if not self._call.streams:
            return self._waiting.limit(self._timeout(target))
        return self._waiting.limit(target.options.ttft_timeout or target.target.config.ttft_timeout)


def provider_of(providers: Mapping[str, Provider], target: Target) -> Provider:
    """Return the provider of a target's type.

    Raises ClientError ``endpoint_not_supported``: the type can be stored, and this version does
    not serve it.
    """
    provider = providers.get(target.dialect)
    if provider is None:
        raise ClientError(
            f"This version does not serve providers of the type `{target.provider_type}`.",
            code="endpoint_not_supported",
        )
    return provider


def _may_do_without(trip: _Trip, response: Response, prepared: PreparedCall) -> bool:
    """Whether the model refuses a parameter of a translated call, which may go again without it.

    Nothing was billed, and the client wrote the parameter for another model. The response is closed
    then.
    """
    translation = prepared.translation
    if translation is None or trip.failure is not Failure.CLIENT or response.status != 400:
        return False
    if not translation.note_refusal(trip.held):
        return False
    response.close()
    return True


def _is_event_stream(response: Response) -> bool:
    content_type, _ = content_of(response.headers)
    return is_event_stream(content_type)


def _by_status(response: Response | None, provider_type: str) -> Failure | None:
    """The failure that the head of a response reports whose body did not come. None: it is none."""
    if response is None:
        return None
    return failure_of_response(response.status, response.headers, b"", provider_type)


def _described(attempt: Attempt, error: UpstreamError | None) -> str:
    if error is not None and str(error):
        return str(error)
    status = "" if attempt.status is None else f" (status {attempt.status})"
    return f"{attempt.reason}{status}"
