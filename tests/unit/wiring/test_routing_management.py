"""The test of a provider's keys reaches those that are in use, wherever they stand."""

import random
import time
from collections.abc import Iterator

import pytest

from proxy.crypto.cipher import Cipher
from proxy.providers import PROVIDERS
from proxy.providers.records import RoutingRecords
from proxy.routing.key_test import KeyTester
from proxy.routing.states import RoutingStates
from proxy.store.database import Database
from proxy.store.key_health import KeyHealth
from proxy.store.migrate import Migrator
from proxy.store.routing_tables import RoutingTables
from proxy.wiring.routing_management import RoutingManagement
from tests.support.relay_factories import FakeResponse, FakeTransport
from tests.support.routing_records import key, provider


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    made = Database.from_url(sqlite_url)
    Migrator(made).migrate()
    yield made
    made.close()


def services(
    database: Database,
    transport: FakeTransport,
    file: RoutingRecords | None = None,
    cipher: int = 1,
) -> RoutingManagement:
    made = Cipher(bytes([cipher]) * 32)
    return RoutingManagement(
        database,
        made,
        RoutingTables(database, made),
        KeyHealth(database),
        KeyTester(PROVIDERS, transport),
        database_state=lambda: "ok",
        redis_state=lambda: "not used",
        breakers=RoutingStates(time.monotonic, random.random),
        models_error=lambda _: None,
        file=file or RoutingRecords(),
    )


def authorizations(transport: FakeTransport) -> list[str]:
    return [dict(call.request.headers)["Authorization"] for call in transport.calls]


def listed() -> FakeResponse:
    return FakeResponse([b'{"data": [{"id": "a"}]}'])


def test_active_keys_of_this_provider(database: Database) -> None:
    transport = FakeTransport(listed)
    routing = services(database, transport)
    first = routing.catalog.stored_providers.create("a", "openai", "https://a.example")
    other = routing.catalog.stored_providers.create("b", "openai", "https://b.example")
    keys = routing.catalog.stored_keys
    keys.create(first.id, "k1", "sk-one", "mask")
    keys.create(first.id, "k2", "sk-two", "mask", is_active=False)
    keys.create(other.id, "k3", "sk-three", "mask")
    (result,) = routing.test(first)
    assert (result.name, result.ok, result.models_count) == ("k1", True, 1)
    assert authorizations(transport) == ["Bearer sk-one"]


def test_a_key_that_cannot_be_decrypted(database: Database) -> None:
    before = services(database, FakeTransport(listed))
    record = before.catalog.stored_providers.create("a", "openai", "https://a.example")
    before.catalog.stored_keys.create(record.id, "k1", "sk-one", "mask")
    transport = FakeTransport(listed)
    (result,) = services(database, transport, cipher=2).test(record)
    assert (result.name, result.ok, result.status) == ("k1", False, None)
    assert "ENCRYPTION_KEYS_PREVIOUS" in (result.error or "")
    assert transport.calls == []


def test_keys_of_the_configuration_file(database: Database) -> None:
    written = provider("a")
    file = RoutingRecords((written,), (key("a", "k1", value="sk-file"),))
    transport = FakeTransport(listed)
    (result,) = services(database, transport, file).test(written)
    assert (result.key_id, result.ok) == ("a/k1", True)
    assert authorizations(transport) == ["Bearer sk-file"]
