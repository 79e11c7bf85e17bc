"""Requests of a project that keeps and shares responses, with all that they hold counted."""

import dataclasses
from collections.abc import Callable
from typing import Any

import gevent

from proxy.cache.access import CacheAccess
from proxy.cache.backends.memory import MemoryStore
from proxy.cache.flights import Flights
from proxy.cache.idempotency import Idempotency
from proxy.cache.key import KeyMaker
from proxy.cache.request_reader import RequestReader
from proxy.cache.response_cache import ResponseCache
from proxy.core.usage_event import UsageEvent
from proxy.gateway.caching import CachedRequests, CachingOptions, OpenCache
from proxy.gateway.routing import RoutedRequests
from proxy.policy.policy import Policy
from proxy.providers.base import Target
from proxy.routing.access import RoutingAccess
from tests.support.clock import Clock
from tests.support.relay_factories import JSON_BODY, FakeResponse, Result, environ, serve, sized
from tests.support.watched_request import BODY, PRINCIPAL_WITH_LIMITS, Watched

TTL = 300.0
#: Complete, and says so: it may be kept.
WHOLE = (
    b'{"id":"chatcmpl-1","model":"gpt-4.1","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"Hi"}}],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}'
)


class CachedWorld(Watched):
    """`access`: fields of :class:`CacheAccess`. `opens`: the cache can be used."""

    def __init__(
        self,
        *,
        stale: float = 0.0,
        opens: bool = True,
        drains: bool = False,
        routing: Callable[[Any], RoutedRequests] | None = None,
        **access: Any,
    ) -> None:
        asked = {"mode": "on", "coalesce": False} | access
        self.clock = Clock(1_800_000_000.0)
        self.cache = ResponseCache(
            MemoryStore(1_000_000, clock=self.clock),
            max_entry=4096,
            stale=stale,
            clock=self.clock,
            jitter=lambda: 0.0,
        )
        self.flights = Flights(entry_bytes=4096, hold_seconds=600.0)
        reader = RequestReader(KeyMaker(bytes(32)), ttl=TTL, stale_if_error=stale)
        idempotency = Idempotency(self.cache.records, ttl=TTL)
        self.opened = OpenCache(self.cache, reader, idempotency) if opens else None
        principal = dataclasses.replace(
            PRINCIPAL_WITH_LIMITS,
            caching=CacheAccess(scope="project-1", project_id="project-1", **asked),
            policy=Policy(drain_on_disconnect=drains),
        )
        if routing is not None:
            shared = RoutingAccess(all_providers=True)
            principal = dataclasses.replace(principal, upstream_key=None, routing=shared)
        self.caching = CachedRequests(
            lambda: self.opened,
            self.flights,
            Target.from_url("http://upstream.test"),
            CachingOptions(
                ttl=TTL,
                stale_if_error=stale,
                max_entry_bytes=4096,
                idempotency=access.get("idempotency", False),
            ),
            clock=self.clock,
        )
        super().__init__(principal=principal, routing=routing, caching=self.caching)

    def respond(self, *chunks: Any) -> Any:
        return super().respond(*(chunks or (WHOLE,)))

    def respond_with(self, status: int, *chunks: Any, **head: Any) -> FakeResponse:
        self.responses.append(FakeResponse(chunks or [b"{}"], status=status, **head))
        return self.responses[-1]

    def send(self, *headers: tuple[str, str], stop_after: int | None = None) -> Result:
        """Send a request whose client is not watched: it is missed when it is written to."""
        asked = sized(BODY, headers=[*JSON_BODY, *headers])
        sent = environ("POST", "/v1/chat/completions", **asked)
        return serve(self.world.endpoint, sent, stop_after=stop_after)

    @property
    def events(self) -> list[UsageEvent]:
        return self.world.events

    @property
    def calls(self) -> int:
        return len(self.world.transport.calls)

    def check(self) -> UsageEvent:
        """Nothing is held any more, by the request or its flight."""
        gevent.sleep(0)  # what was stopped ends
        figures = self.flights.figures()
        assert (figures.flights, figures.readers, figures.size) == (0, 0, 0)
        for response in self.responses:
            # The pump closes it when nothing more is read, and the request at its end.
            response.closed = min(response.closed, 1)
        return super().check()
