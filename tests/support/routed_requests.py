"""Requests that the gateway routes over records, and a world that has them. Time stands still."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from proxy.gateway.routing import RoutedRequests
from proxy.providers import PROVIDERS
from proxy.providers.base import Provider, Target
from proxy.providers.records import ProviderRecord
from proxy.routing.access import RoutingAccess
from proxy.routing.attempt_loop import RoutingOptions, Waiting
from proxy.routing.catalog import Catalog
from proxy.routing.dispatcher import RouteDispatcher
from proxy.routing.router import Router
from proxy.routing.states import RoutingStates
from tests.support.relay_factories import JSON, Access, FakeResponse, Result, World
from tests.support.routing_records import catalog, key, mapping
from tests.support.watched_request import PRINCIPAL_WITH_LIMITS

#: Of a project without a key of its own, which may use all providers.
PRINCIPAL = dataclasses.replace(
    PRINCIPAL_WITH_LIMITS, upstream_key=None, routing=RoutingAccess(all_providers=True)
)


def routed_requests(
    records: Catalog,
    states: RoutingStates,
    *,
    providers: Mapping[str, Provider] = PROVIDERS,
    clock: Callable[[], float] = lambda: 1000.0,
    sleep: Callable[[float], None] = lambda _: None,
    draw: Callable[[], float] = lambda: 0.5,
) -> Callable[[Any], RoutedRequests]:
    """Return what makes the routing of a transport. `draw` decides between targets as good.

    `states` are exchanged for those of `records`.
    """
    states.replace(records)
    router = Router(Target.from_url("http://upstream.test"), draw, records)
    waiting = Waiting(
        clock=clock,
        wall=lambda: 1.7e9,
        random=lambda: 0.5,
        sleep=sleep,
        limit=lambda _: contextlib.nullcontext(),
    )
    return lambda transport: RoutedRequests(
        router, RouteDispatcher(providers, transport, states, RoutingOptions(), waiting)
    )


def routed_world(response: FakeResponse, provider: ProviderRecord, model: str) -> World:
    """A world whose model `m` is `model` at `provider`, a record with the name `a`."""
    records = catalog(provider, key("a", "1"), mapping("m", f"a/{model}"))
    states = RoutingStates(lambda: 1000.0, lambda: 0.5)
    return World(
        response, access=Access(principal=PRINCIPAL), routing=routed_requests(records, states)
    )


def post(made: World, path: str, body: dict[str, Any], **headers: str) -> Result:
    """Send a body of JSON; a `_` in the name of a header is a hyphen."""
    text = json.dumps(body).encode()
    lines = [*JSON, ("Content-Length", str(len(text)))]
    lines += [(name.replace("_", "-"), value) for name, value in headers.items()]
    return made.ask("POST", path, lines, [text])


def metered(made: World) -> tuple[Any, ...]:
    """The counts of the last event: of the prompt, of the completion, and from the cache."""
    names = ("prompt_tokens", "completion_tokens", "cached_tokens")
    return tuple(made.event.metadata.get(name) for name in names)
