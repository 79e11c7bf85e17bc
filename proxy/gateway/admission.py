"""Who may pass: the checks of one request, in the order in which their errors win.

The thing to get wrong: what refuses without reading the body comes first, and what counts (rates,
quotas) comes last, so that a request that is refused for another reason costs its token nothing.
A place under ``max_concurrent`` is given back anyway: it is taken before the body, or bodies that
never end would take up the worker in spite of it.
"""

from typing import Protocol

from proxy.auth.principal import Principal, TokenRefused
from proxy.events.gate import Gate
from proxy.gateway.body_parameters import parameters_of
from proxy.gateway.context import RequestContext
from proxy.gateway.generating_endpoints import generating
from proxy.gateway.limited_request import READS, LimitedRequest
from proxy.gateway.request import check_path
from proxy.providers.base import OutboundRequest
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
    """All methods raise ClientError, or BackendError where nobody can tell."""

    def __init__(
        self, access: AccessCheck, throttle: RequestLimiter, gate: EventsGate | None = None
    ) -> None:
        self._access = access
        self._throttle = throttle
        self._gate = gate or Gate()

    def meet(self, exchange: RequestContext) -> None:
        """Before anything else: the client's address. All there is to check of a preflight."""
        if self._throttle.by_address:
            exchange.passage = self._throttle.check_client(exchange.inbound.client_ip)

    def enter(self, exchange: RequestContext) -> Principal:
        """Before anything of the body is read: room for its event, the token, and what its head
        may ask for."""
        if self._gate.closed:
            self._gate.enter()
        principal = self._recognise(exchange)
        if principal.policy.restricts:
            principal.policy.check_head(exchange.inbound)
        check_path(exchange.inbound.path)
        self._hold(exchange, principal)
        return principal

    def enter_minting(self, exchange: RequestContext) -> Principal:
        """The same where nobody upstream is asked: rules about methods, endpoints and models are
        about the upstream's."""
        principal = self._recognise(exchange)
        if principal.policy.restricts:
            principal.policy.check_client(exchange.inbound)
        self._hold(exchange, principal)
        return principal

    def check_body(
        self, exchange: RequestContext, principal: Principal, outbound: OutboundRequest
    ) -> None:
        """Once the body is there: the model and the parameters that it names."""
        wanted = principal.policy.reads
        inbound, body = exchange.inbound, outbound.body
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
            exchange.limited = LimitedRequest(endpoint, outbound, parameters)

    def admit(self, exchange: RequestContext, principal: Principal) -> None:
        """Last before the upstream: what is counted. From here on there is an event of it."""
        held = 0 if exchange.limited is None else exchange.limited.held
        if self._throttle.always or principal.throttled:
            self._throttle.take(self._passage(exchange), principal, held)
        self._access.admit(principal, held)
        exchange.settlement = self._access
        exchange.record_intent(principal)
        exchange.watch_client()

    def _hold(self, exchange: RequestContext, principal: Principal) -> None:
        if principal.throttled:
            self._throttle.reserve_concurrency(self._passage(exchange), principal)

    def _passage(self, exchange: RequestContext) -> Reservation:
        if exchange.passage is None:
            exchange.passage = self._throttle.new_reservation()
        return exchange.passage

    def _recognise(self, exchange: RequestContext) -> Principal:
        self.meet(exchange)
        try:
            principal = self._access.authenticate(exchange.inbound.authorization)
        except TokenRefused as refusal:
            exchange.principal = refusal.principal
            raise
        exchange.timing.mark_authenticated()
        exchange.principal = principal
        return principal
