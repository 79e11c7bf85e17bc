"""The checks of one request, as steps of an endpoint, which lists them in order.

Checks that do not read the body come first. Those that count (rates, quotas) come last, so that a
request that is refused for another reason costs its token nothing. A slot under ``max_concurrent``
is released in any case, so it is reserved before the body is read: otherwise bodies that never end
would occupy the worker without any limit.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Protocol

from proxy.auth.principal import Principal, TokenRefused
from proxy.events.gate import Gate
from proxy.gateway.body_parameters import parameters_of
from proxy.gateway.context import RequestContext
from proxy.gateway.generating_endpoints import generating
from proxy.gateway.limited_request import READS, LimitedRequest
from proxy.gateway.request import ClientRequest, check_path
from proxy.ratelimit.request_limiter import RequestLimiter, Reservation


class AccessCheck(Protocol):
    """The part of the authenticator that admission uses."""

    #: Whether the client's credentials go upstream as they came, since they are not the proxy's.
    relays_credentials: bool

    def authenticate(self, authorization: str | None) -> Principal: ...

    def check_quota(self, principal: Principal, held: int = 0) -> None: ...

    def take_quota(self, principal: Principal, held: int = 0) -> None: ...

    def settle(self, principal: Principal, tokens: int, held: int = 0) -> None: ...


class EventsGate(Protocol):
    """The part of the event queue's gate that admission uses."""

    #: Whether :meth:`wait_for_room` waits or refuses right now.
    closed: bool

    def wait_for_room(self) -> None: ...


class Admission:
    """The steps of an endpoint that decide whether a request may pass.

    Each raises ClientError, or BackendError when that cannot be determined.
    """

    def __init__(
        self, access: AccessCheck, limiter: RequestLimiter, gate: EventsGate | None = None
    ) -> None:
        self._access = access
        self._authorization_of: Callable[[ClientRequest], str | None] = (
            attrgetter("authorization")
            if access.relays_credentials
            else ClientRequest.take_access_token
        )
        self._limiter = limiter
        self._gate = gate or Gate()

    # Before the body is read.

    def wait_for_event_room(self, context: RequestContext) -> None:
        """Wait until the queue has room for the event of the request."""
        if self._gate.closed:
            self._gate.wait_for_room()

    def limit_client(self, context: RequestContext) -> None:
        """Check the rate limit of the client's address: the only check of a preflight."""
        if self._limiter.by_address:
            context.reservation = reservation = self._limiter.check_client(
                context.inbound.client_ip
            )
            context.on_finish(reservation.end)

    def authenticate(self, context: RequestContext) -> None:
        """Recognise the access token, and take it out of the request.

        Sets the principal also of a known token that is refused.
        """
        try:
            context.principal = self._access.authenticate(self._authorization_of(context.inbound))
        except TokenRefused as refusal:
            context.principal = refusal.principal
            raise
        context.timing.mark_authenticated()

    def check_head_policy(self, context: RequestContext) -> None:
        """Check the client's address and origin, the method, the headers and the endpoint."""
        policy = context.principal.policy
        if policy.restricts:
            policy.check_head(context.inbound)

    def check_client_policy(self, context: RequestContext) -> None:
        """Check only the client's address and origin.

        The rules about methods, endpoints and models concern those of an upstream.
        """
        policy = context.principal.policy
        if policy.restricts:
            policy.check_client(context.inbound)

    def check_path(self, context: RequestContext) -> None:
        check_path(context.inbound.path)

    def reserve_concurrency(self, context: RequestContext) -> None:
        """Reserve a slot under ``max_concurrent``."""
        principal = context.principal
        if principal.throttled:
            reservation = context.reservation or self._reservation(context)
            self._limiter.reserve_concurrency(reservation, principal)

    # Before the request goes upstream.

    def check_body_policy(self, context: RequestContext) -> None:
        """Check the model and the parameters in the body. A WebSocket has none."""
        principal, outbound = context.principal, context.outbound
        if outbound is None:
            return
        wanted = principal.policy.reads
        inbound, body = context.inbound, outbound.body
        endpoint = generating(inbound.method, inbound.path) if principal.usage_limited else None
        if not (wanted or endpoint):
            return
        if body and not isinstance(body, bytes):
            raise TypeError("a body that must be read is held whole")
        data = body if isinstance(body, bytes) else b""
        parameters = parameters_of(
            inbound, data, wanted | READS if endpoint else wanted, measured=bool(endpoint)
        )
        if wanted and data:
            principal.policy.check_values(parameters)
        if endpoint:
            context.limited = LimitedRequest(endpoint, outbound, parameters)

    def take_rate_limits(self, context: RequestContext) -> None:
        """Take permits of all rate limits together, or of none."""
        principal = context.principal
        if self._limiter.always or principal.throttled:
            reservation = context.reservation or self._reservation(context)
            held = 0 if context.limited is None else context.limited.held
            self._limiter.take(reservation, principal, held)
            if reservation.token_buckets:
                context.on_finish(context.spend)

    def check_quota(self, context: RequestContext) -> None:
        """Check the quotas and budgets of a request that may cost nothing. Nothing is counted."""
        held = 0 if context.limited is None else context.limited.held
        self._access.check_quota(context.principal, held)

    def take_quota(self, context: RequestContext) -> None:
        """Take one request of the quotas, and hold the estimated cost of the budgets."""
        held = 0 if context.limited is None else context.limited.held
        self._access.take_quota(context.principal, held)
        context.settlement = self._access
        context.on_finish(context.settle)

    def _reservation(self, context: RequestContext) -> Reservation:
        """Begin the reservation of a request whose address has no limit."""
        context.reservation = reservation = self._limiter.new_reservation()
        context.on_finish(reservation.end)
        return reservation
