"""``POST /v1/proxy/tokens``: an access token creates another one, without the management token.

A WSGI callable beside the relay, with the same two entrances. Its clients, browsers among them,
authenticate with an access token, and the request counts as one of that token.

Note: the fields of a child are not compared with its parent's. All rules and limits of its
ancestors apply to it as well, so a wider field of its own permits nothing more.
"""

import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from proxy.audit.denials import MINTING
from proxy.auth.principal import Principal
from proxy.core.errors import ClientError
from proxy.core.request_id import request_id_var
from proxy.core.usage_event import Intent, UsageEvent
from proxy.crypto import tokens
from proxy.gateway import methods
from proxy.gateway.admission import Admission
from proxy.gateway.context import RequestContext
from proxy.gateway.cors import Cors
from proxy.gateway.endpoint import StartResponse, Step
from proxy.gateway.inflight import InFlightRequests
from proxy.gateway.request import ClientRequest
from proxy.gateway.response_stream import Outcome
from proxy.gateway.responses import Reply, error_reply, status_line
from proxy.store.grants import MAX_ANCESTORS
from proxy.store.records import AccessToken
from proxy.store.tokens import Tokens
from proxy.web import AccessRecord
from proxy.web.api import fields
from proxy.web.api.tokens import as_json, minutes, parse_token_options
from proxy.web.audit_trail import AuditTrail

_log = logging.getLogger(__name__)

PATH: Final = MINTING
#: Of a request's body. The policy in it is stored, audited and held in memory for each child.
_MAX_BODY_BYTES: Final = 16 * 1024
_KNOWN: Final = fields.names("token") | {"duration_minutes", "name", "max_requests"}


class _NoEvents:
    """Discards events: without a request to an upstream there is no usage to report."""

    def record_intent(self, intent: Intent) -> int:
        return -1

    def publish(self, event: UsageEvent) -> None:
        pass


def handles(target: str) -> bool:
    """Whether this raw target is the minting endpoint's; below ``/v1/proxy`` no other exists."""
    return target.partition("?")[0] == PATH


class MintingEndpoint:
    """The WSGI callable."""

    def __init__(
        self,
        admission: Admission,
        tokens: Tokens,
        in_flight: InFlightRequests,
        cors: Cors,
        trail: AuditTrail,
        *,
        trusted_proxies: int,
        observe: Callable[[AccessRecord], None] = lambda record: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``observe`` is called with each response."""
        self._admission = admission
        #: The checks of a request, in the order in which their refusals win.
        self.before_body: tuple[Step, ...] = (
            _refuse_method,
            self._register_in_flight,
            admission.limit_client,
            admission.authenticate,
            admission.check_client_policy,
            admission.reserve_concurrency,
            self._set_owner,
            _check_endpoint,
            _check_may_mint,
        )
        self.before_minting: tuple[Step, ...] = (
            admission.take_rate_limits,
            admission.take_quota,
        )
        self._tokens = tokens
        self._in_flight = in_flight
        self._cors = cors
        self._trail = trail
        self._trusted_proxies = trusted_proxies
        self._observe = observe
        self._now = now

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        began = time.perf_counter()
        inbound = ClientRequest(environ, self._trusted_proxies)
        request_id_var.set(inbound.request_id)
        status, headers, body = self._respond(inbound)
        origin = inbound.header("ORIGIN")
        start_response(
            status,
            [
                ("X-Proxy-Request-ID", inbound.request_id),
                *(self._cors.response_headers(origin) if body else ()),
                *headers,
            ],
        )
        self._observe(
            AccessRecord(
                route="minting",
                request_id=inbound.request_id,
                method=inbound.method,
                path=inbound.path,
                status=int(status[:3]),
                ms=(time.perf_counter() - began) * 1e3,
                client_ip=inbound.client_ip,
            )
        )
        return [body] if body and inbound.method != "HEAD" else []

    def _respond(self, inbound: ClientRequest) -> Reply:
        # Without the socket: a client that leaves must not end a transaction half way.
        context = RequestContext(inbound, {}, _NoEvents())
        try:
            if inbound.method == "OPTIONS":
                preflight = self._cors.preflight(inbound.header)
                if preflight is not None:
                    self._admission.limit_client(context)
                    context.finish(204, None)
                    inbound.discard_body()
                    return Reply(status_line(204), preflight, b"")
            principal, chosen = self._requested_child(context)
            token, secret = self._mint(context, principal, chosen)
        except BaseException as error:  # noqa: BLE001  (it is raised again where it must be)
            failure = context.failure(error)
        else:
            context.finish(201, Outcome.COMPLETED)
            body = orjson.dumps({**as_json(token), "token": secret})
            # RFC 9111, 5.2.2.5: no cache on the way may keep the secret.
            return Reply(
                status_line(201),
                [
                    ("Content-Type", "application/json"),
                    ("Content-Length", str(len(body))),
                    ("Cache-Control", "no-store"),
                    *(context.reservation.headers() if context.reservation else ()),
                ],
                body,
            )
        inbound.discard_body()
        context.refuse(failure, 0)
        self._trail.refused_mint(context.principal, inbound, failure)
        if failure.code == "internal_error":
            _log.error("minting failed", exc_info=failure, extra={"request_id": inbound.request_id})
        return error_reply(failure)

    def _requested_child(self, context: RequestContext) -> tuple[Principal, dict[str, Any]]:
        """Returns the principal and the fields of the child.

        Until the body has been read the request is in flight, like any other. Behind it, nothing
        can end it, so that no transaction is cut half way.
        """
        try:
            for step in self.before_body:
                step(context)
            principal = context.principal
            raw = context.inbound.body.read_all(_MAX_BODY_BYTES)
            given = fields.parse_object(raw, _KNOWN)
            return principal, self._child_fields(given, principal, len(_lineage(principal)))
        finally:
            context.shield()

    def _register_in_flight(self, context: RequestContext) -> None:
        context.greenlet = self._in_flight.register(context.inbound.client_ip)
        context.in_flight = self._in_flight

    def _set_owner(self, context: RequestContext) -> None:
        self._in_flight.set_owner(context.greenlet, context.principal)

    def _mint(
        self, context: RequestContext, principal: Principal, chosen: dict[str, Any]
    ) -> tuple[AccessToken, str]:
        for step in self.before_minting:
            step(context)
        minted = tokens.mint()
        audit = self._trail.mint(principal, context.inbound)
        token = self._tokens.create(
            token_id=minted.token_id,
            token_hash=minted.token_hash,
            token_mask=minted.token_mask,
            lineage=_lineage(principal),
            audit=audit,
            **chosen,
        )
        self._trail.committed(audit)
        return token, minted.secret

    def _child_fields(
        self, body: dict[str, Any], principal: Principal, height: int
    ) -> dict[str, Any]:
        """Returns the fields of the child, which will have ``height`` ancestors."""
        if "duration_minutes" not in body:
            raise ClientError("`duration_minutes` is required.", param="duration_minutes")
        lifetime, chosen = minutes(body), parse_token_options(body)
        if chosen["policy"].get("can_mint") and height >= MAX_ANCESTORS:
            raise ClientError(
                f"A token with {MAX_ANCESTORS} ancestors cannot mint.", param="can_mint"
            )
        # A client cannot look up when its token expires. So a longer lifetime is cut, and the
        # response shows it.
        last = datetime.fromtimestamp(principal.expires_at, UTC)
        return {
            **chosen,
            "project_id": principal.project_id,
            "expires_at": min(self._now() + lifetime, last),
        }


def _refuse_method(context: RequestContext) -> None:
    if context.inbound.method in methods.REFUSED:
        raise methods.refused("POST")


def _check_endpoint(context: RequestContext) -> None:
    if context.inbound.path != PATH:
        raise ClientError(code="endpoint_not_found")
    if context.inbound.method != "POST":
        raise ClientError(code="method_not_allowed", headers=[("Allow", "POST")])


def _check_may_mint(context: RequestContext) -> None:
    principal = context.principal
    if principal.project_id is None:
        raise ClientError(
            "This node relays its clients' own keys (AUTH_MODE=passthrough) and mints none.",
            code="endpoint_not_found",
        )
    if not principal.policy.can_mint or len(_lineage(principal)) > MAX_ANCESTORS:
        raise ClientError(
            "This access token may not mint others: it lacks `can_mint`.",
            code="endpoint_not_found",
        )


def _lineage(principal: Principal) -> list[str]:
    """Returns the ancestors of a child: the token itself, and its own ancestors."""
    return [account.id for account in principal.accounts if account.kind == "token"]
