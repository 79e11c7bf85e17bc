"""Everything below ``/manage`` and its twins below ``/admin`` stand behind one guard."""

import random
import time
from pathlib import Path

from proxy import app
from proxy.events.queue import EventQueue
from proxy.gateway.inflight import InFlightRequests
from proxy.providers.records import RoutingRecords
from proxy.routing.key_test import KeyTester
from proxy.routing.states import RoutingStates
from proxy.web import Mount
from proxy.web.audit_trail import AuditTrail
from proxy.web.guards import ManagementGuard
from proxy.wiring.accounts import AccountServices
from proxy.wiring.caching import WorkerCaching
from proxy.wiring.routing_management import RoutingManagement
from tests.support.installation import settings
from tests.support.limiter_factories import Limited
from tests.support.relay_factories import FakeResponse, FakeTransport


def rooms_of(folder: Path, *, passthrough: bool = False) -> list[Mount]:
    chosen = settings(folder, **({"AUTH_MODE": "passthrough"} if passthrough else {}))
    registry = AccountServices(chosen, InFlightRequests(), EventQueue(10))
    routing = RoutingManagement(
        registry.database,
        registry.cipher,
        registry.routing_tables,
        registry.key_health,
        KeyTester({}, FakeTransport(FakeResponse([]))),
        database_state=lambda: "ok",
        redis_state=lambda: "not used",
        breakers=RoutingStates(time.monotonic, random.random),
        models_error=lambda _: None,
        file=RoutingRecords(),
    )
    trail = AuditTrail(registry.recorder, 0)
    caching = WorkerCaching(chosen, registry)
    made = app.management(
        chosen, registry, None if passthrough else routing, caching, trail, Limited().throttle
    )
    registry.close()
    return made


def test_every_room_of_the_management_api_is_guarded(tmp_path: Path) -> None:
    made = rooms_of(tmp_path)
    prefixes = {room.prefix for room in made}
    shared = ("providers", "keys", "mappings", "health")
    names = ("projects", "tokens", "usage", "audit", "cache", *shared)
    expected = {f"/manage/{name}" for name in names} | {f"/admin/{name}" for name in shared}
    assert prefixes == {*expected, None}  # `DELETE /cache` stands at the root
    assert all(isinstance(room.guard, ManagementGuard) for room in made)


def test_where_nothing_is_kept_one_guarded_room_says_so(tmp_path: Path) -> None:
    (room,) = rooms_of(tmp_path, passthrough=True)
    assert (room.prefix, room.blueprint.name) == ("/manage", "absent")
    assert isinstance(room.guard, ManagementGuard)
