"""The test of a provider's keys reaches those that are in use, wherever they stand."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from proxy.crypto.cipher import Cipher
from proxy.providers.records import (
    ProviderKeyRecord,
    ProviderKeySecret,
    ProviderRecord,
    RoutingRecords,
)
from proxy.store.database import Database
from proxy.store.migrate import Migrator
from proxy.wiring.routing import RoutingServices
from tests.support.relay_factories import FakeResponse, FakeTransport

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FILE_PROVIDER = ProviderRecord(
    "11111111-1111-4111-8111-111111111111",
    "file",
    "openai",
    "https://f.example",
    {},
    True,
    False,
    NOW,
    NOW,
    "file",
)


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    made = Database.from_url(sqlite_url)
    Migrator(made).migrate()
    yield made
    made.close()


def services(
    database: Database, transport: FakeTransport, file: RoutingRecords | None = None, key: int = 1
) -> RoutingServices:
    return RoutingServices(
        database,
        Cipher(bytes([key]) * 32),
        transport,
        database_state=lambda: "ok",
        redis_state=lambda: "not used",
        file=lambda: file or RoutingRecords(),
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
    provider = before.catalog.stored_providers.create("a", "openai", "https://a.example")
    before.catalog.stored_keys.create(provider.id, "k1", "sk-one", "mask")
    transport = FakeTransport(listed)
    (result,) = services(database, transport, key=2).test(provider)
    assert (result.name, result.ok, result.status) == ("k1", False, None)
    assert "ENCRYPTION_KEYS_PREVIOUS" in (result.error or "")
    assert transport.calls == []


def test_keys_of_the_configuration_file(database: Database) -> None:
    record = ProviderKeyRecord(
        "22222222-2222-4222-8222-222222222222",
        FILE_PROVIDER.id,
        "k1",
        "mask",
        1,
        (),
        True,
        NOW,
        NOW,
        "file",
    )
    file = RoutingRecords((FILE_PROVIDER,), (ProviderKeySecret(record, "sk-file"),))
    transport = FakeTransport(listed)
    (result,) = services(database, transport, file).test(FILE_PROVIDER)
    assert (result.key_id, result.ok) == (record.id, True)
    assert authorizations(transport) == ["Bearer sk-file"]
