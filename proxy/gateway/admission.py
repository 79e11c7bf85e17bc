"""The checks of one request, as steps of an endpoint: the endpoint lists them in order.

What refuses without reading the body comes first. What counts (rates, quotas) comes last, so that a
request that is refused for another reason costs its token nothing. A place under ``max_concurrent``
is given back anyway, so it is taken before the body: otherwise bodies that never end would take up
the worker in spite of it.
"""

from typing import Protocol

from proxy.auth.principal import Principal, TokenRefused
from proxy.events.gate import Gate
from proxy.gateway.body_parameters import parameters_of
from proxy.gateway.context import RequestContext
from proxy.gateway.generating_endpoints import generating
from proxy.gateway.limited_request import READS, LimitedRequest
from proxy.gateway.request import check_path
from proxy.ratelimit.request_limiter import RequestLimiter, Reservation


class AccessCheck(Protocol):
    """The authenticator, as seen from here."""

    def authenticate(self, authorization: str | None) -> Principal: ...

    def admit(self, principal: Principal, held: int = 0) -> None: ...

    def settle(self, principal: Principal, tokens: int, held: int = 0) -> None: ...


class EventsGate(Protocol):
    """The gate of the event queue, as seen from here."""

    #: Whether :meth:`enter` waits or refuses right now.
    closed: bool

    def enter(self) -> None: ...


class Admission:
    """The steps of an endpoint that decide whether a request may pass.

    Each raises ClientError, or BackendError where that cannot be found out.
    """

    def __init__(
        self, access: AccessCheck, throttle: RequestLimiter, gate: EventsGate | None = None
    ) -> None:
        self._access = access
        self._throttle = throttle
        self._gate = gate or Gate()

    # Before the body is read.

    def wait_for_event_room(self, context: RequestContext) -> None:
        """There must be room for the event of the request."""
        if self._gate.closed:
            self._gate.enter()

    def limit_client(self, context: RequestContext) -> None:
        """The rate limit of the client's address. All that is checked of a preflight."""
        if self._throttle.by_address:
            context.reservation = reservation = self._throttle.check_client(
                context.inbound.client_ip
            )
            context.on_finish(reservation.end)

    def authenticate(self, context: RequestContext) -> None:
        """The token. The principal of a token that is known and refused is set as well."""
        try:
            context.principal = self._access.authenticate(context.inbound.authorization)
        except TokenRefused as refusal:
            context.principal = refusal.principal
            raise
        context.timing.mark_authenticated()

    def check_head_policy(self, context: RequestContext) -> None:
        """The client's address and origin, the method, the headers and the endpoint."""
        policy = context.principal.policy
        if policy.restricts:
            policy.check_head(context.inbound)

    def check_client_policy(self, context: RequestContext) -> None:
        """The client's address and origin alone: rules about methods, endpoints and models are
        about those of an upstream."""
        policy = context.principal.policy
        if policy.restricts:
            policy.check_client(context.inbound)

    def check_path(self, context: RequestContext) -> None:
        check_path(context.inbound.path)

    def reserve_concurrency(self, context: RequestContext) -> None:
        """A place under ``max_concurrent``."""
        principal = context.principal
        if principal.throttled:
            reservation = context.reservation or self._reservation(context)
            self._throttle.reserve_concurrency(reservation, principal)

    # Before the upstream is asked.

    def check_body_policy(self, context: RequestContext) -> None:
        """The model and the parameters that the body names. A WebSocket has none."""
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
        """Permits of all rate limits together, or of none."""
        principal = context.principal
        if self._throttle.always or principal.throttled:
            reservation = context.reservation or self._reservation(context)
            held = 0 if context.limited is None else context.limited.held
            self._throttle.take(reservation, principal, held)
            if reservation.token_buckets:
                context.on_finish(context.spend)

    def take_quota(self, context: RequestContext) -> None:
        """One request of the quotas, and what it may cost of the budgets."""
        held = 0 if context.limited is None else context.limited.held
        self._access.admit(context.principal, held)
        context.settlement = self._access
        context.on_finish(context.settle)

    def _reservation(self, context: RequestContext) -> Reservation:
        """Of a request whose address has no limit."""
        context.reservation = reservation = self._throttle.new_reservation()
        context.on_finish(reservation.end)
        return reservation
