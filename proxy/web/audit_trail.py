"""Audit entries for calls of the management API and for minting: their actors and outcomes.

A view that changes something is wrapped by :meth:`AuditTrail.audited` and gets a draft, which it
passes to the store, where it is written in the transaction of the change. An entry goes to the
event sinks only after the view has returned, since it is committed only then.
"""

import dataclasses
import functools
import hashlib
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

import flask

from proxy.audit.denials import MINTING, RELAY
from proxy.audit.writer import AuditWriter
from proxy.auth.principal import Principal
from proxy.core.errors import ProxyError
from proxy.gateway.request import ClientRequest, client_of
from proxy.store.audit import Action, PendingEntry
from proxy.web.api import fields

_View = Callable[..., flask.Response]
#: Hex digits of a management token's hash: they distinguish two, but cannot confirm a guess.
_HASH_DIGITS: Final = 4


class AuditTrail:
    """One per worker, for all blueprints of the management API and for minting."""

    def __init__(self, recorder: AuditWriter, trusted_proxies: int) -> None:
        self._recorder = recorder
        self._trusted_proxies = trusted_proxies

    def audited(self, action: Action) -> Callable[[_View], _View]:
        """Passes a view the keyword ``audit``, the :class:`PendingEntry` of its entry.

        Ids in its path are in the draft from the start, so that the entry of a refused call, which
        has the outcome ``failure``, names its object.
        """

        def wrap(view: _View) -> _View:
            @functools.wraps(view)
            def wrapped(**ids: str) -> flask.Response:
                draft = PendingEntry(
                    action,
                    actor=flask.g.get("actor", "management"),
                    client_ip=self._client_ip(),
                    request_id=flask.g.get("request_id", ""),
                    project_id=fields.uuid(ids.get("project_id", "")),
                    token_id=fields.uuid(ids.get("token_id", "")),
                )
                try:
                    response = view(audit=draft, **ids)
                except Exception as error:
                    self._recorder.put(_failure(draft, error))
                    raise
                self.committed(draft)
                return response

            return wrapped

        return wrap

    def mint(self, parent: Principal, inbound: ClientRequest) -> PendingEntry:
        """Returns the draft of an entry about a token minted by another; see :meth:`committed`."""
        actor = f"token:{parent.token_id}"
        return PendingEntry("token.mint", actor, inbound.client_ip, inbound.request_id)

    def committed(self, draft: PendingEntry) -> None:
        """Publishes the entry of ``draft``, if it was written, after the transaction's commit."""
        if draft.entry is not None:
            self._recorder.publish(draft.entry)

    def refused_mint(
        self, parent: Principal | None, inbound: ClientRequest, error: ProxyError
    ) -> None:
        """Records a refused request to mint; ``parent`` is known once it is authenticated.

        Requests to mint make no usage events, so refused credentials are recorded here.
        """
        known = parent is not None and error.status != 401
        if not known and error.status != 401:
            return  # not a refusal of credentials: the worker is full, or the store unavailable
        self._recorder.denials.add(
            MINTING if known else RELAY,
            inbound.client_ip,
            error.code,
            request_id=inbound.request_id,
            action="token.mint" if known else "auth.denied",
            actor=f"token:{parent.token_id}" if parent and known else "anonymous",
            token_id=parent.token_id if parent else None,
            project_id=parent.project_id if parent else None,
        )

    def refused_login(self, code: str) -> None:
        """Records a call without a management token, or with a wrong one."""
        self._recorder.denials.add(
            "/manage", self._client_ip(), code, request_id=flask.g.get("request_id", "")
        )

    def _client_ip(self) -> str:
        return client_of(flask.request.environ, self._trusted_proxies)


def actors(management_tokens: Sequence[str]) -> list[str]:
    """Returns each token's name in the audit log."""
    return [
        f"management:{hashlib.sha256(token.encode()).hexdigest()[:_HASH_DIGITS]}"
        for token in management_tokens
    ]


def _failure(draft: PendingEntry, error: Exception) -> PendingEntry:
    """Fills in a failure without the message, which may repeat what was sent."""
    code, param = "internal_error", None
    if isinstance(error, ProxyError):
        code, param = error.code, error.param
    return dataclasses.replace(
        draft,
        id=str(uuid.uuid4()),
        outcome="failure",
        details={"code": code, "param": param, "at": datetime.now(UTC)},
        entry=None,
    )
