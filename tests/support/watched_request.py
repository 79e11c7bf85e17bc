"""A request in a world where everything that it may hold is counted, and all that may end it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import gevent

from proxy.auth.principal import Principal
from proxy.core.errors import ClientError, ProxyError, UpstreamError
from proxy.core.usage_event import UsageEvent
from proxy.gateway.caching import CachedRequests
from proxy.gateway.held_bodies import HeldBodies
from proxy.gateway.inflight import ClientDisconnected, ShuttingDown, TokenRevoked
from proxy.gateway.routing import RoutedRequests
from proxy.policy.accounts import Account
from proxy.ratelimit.limiter import Bucket
from proxy.ratelimit.request_limiter import Rates
from tests.support.limiter_factories import Limited
from tests.support.relay_factories import (
    CHAT,
    JSON_BODY,
    PRINCIPAL,
    Access,
    FakeResponse,
    World,
    environ,
    limits,
    serve,
    sized,
)

ROOM = 1_000_000
BODY = b'{"model":"gpt-4.1","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}'
#: With a limit of each kind.
PRINCIPAL_WITH_LIMITS = dataclasses.replace(
    PRINCIPAL,
    accounts=(
        Account(kind="project", id="project-1", max_concurrent=3),
        Account(kind="token", id="token-1", rate_limit_tpm=1000),
    ),
)
INTERRUPTIONS: list[Callable[[], BaseException]] = [
    ClientDisconnected,
    lambda: TokenRevoked(ClientError(code="token_inactive")),
    ShuttingDown,
    lambda: ClientError(code="invalid_request"),
    lambda: ProxyError(code="overloaded"),
    UpstreamError,
    ZeroDivisionError,
    gevent.GreenletExit,
    SystemExit,
]
NAMES = [
    "left", "revoked", "stopping", "refused", "overloaded", "upstream", "defect", "killed", "exit",
]  # fmt: skip


class Watched:
    """A world with all limits, in which everything that a request may hold is counted."""

    def __init__(
        self,
        answer: Any = None,
        *,
        principal: Principal = PRINCIPAL_WITH_LIMITS,
        routing: Callable[[Any], RoutedRequests] | None = None,
        caching: CachedRequests | None = None,
    ) -> None:
        self.limited = Limited(Rates(address=5))
        self.access = Access(principal=principal)
        self.held = HeldBodies(ROOM)
        self.free = self.held.free
        self.responses: list[FakeResponse] = []
        self.client, self.server = gevent.socket.socketpair()
        self.world = World(
            answer or self.respond,
            access=self.access,
            options=dataclasses.replace(limits(), held=self.held),
            limited=self.limited,
            routing=routing,
            caching=caching,
        )

    def respond(self, *chunks: Any) -> FakeResponse:
        self.responses.append(FakeResponse(chunks or [CHAT]))
        return self.responses[-1]

    def ask(self, *headers: tuple[str, str], **more: Any) -> None:
        asked = sized(BODY, headers=[*JSON_BODY, *headers])
        sent = environ("POST", "/v1/chat/completions", **asked)
        self.result = serve(self.world.endpoint, {**sent, "gunicorn.socket": self.server}, **more)

    def check(self) -> UsageEvent:
        """Nothing is held any more."""
        live = self.world.in_flight
        assert len(live) == 0
        assert (live._by_address.held, live._by_project.held, live._counted) == ({}, {}, {})
        assert not any(self.limited.places.taken.values())
        assert self.limited.throttle._unsettled == {}
        assert self.held.free == self.free
        assert self.access.held == []
        assert [response.closed for response in self.responses] == [1] * len(self.responses)
        tokens = self.limited.near.levels.get(Bucket("token-tpm:token-1", 1000), 1000.0)
        assert tokens == 1000 - sum(self.access.settled), "what was held in advance is back"
        # The loop looks at the client's socket no longer.
        assert not self.server._read_event.active
        (event,) = [each for each in self.world.events if each.outcome != "superseded"]
        # The entry that outlives a killed worker ends with the event.
        assert event.slot == len(self.world.events.intents) - 1
        self.client.close()
        self.server.close()
        return event
