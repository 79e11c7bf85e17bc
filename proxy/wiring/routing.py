"""What one worker knows of providers, their keys and mappings."""

from collections.abc import Callable

from proxy.crypto.cipher import Cipher
from proxy.providers import PROVIDERS
from proxy.providers.health import AllClosed, Breakers, KeyTest
from proxy.providers.records import ProviderKeySecret, ProviderRecord, RoutingRecords
from proxy.routing.key_test import KeyTester
from proxy.store.database import Database
from proxy.store.key_health import KeyHealth
from proxy.store.mappings import Mappings
from proxy.store.provider_keys import ProviderKeys
from proxy.store.providers import Providers
from proxy.store.routing_tables import RoutingTables
from proxy.upstream.transport import Transport
from proxy.web.api.routing_catalog import RoutingCatalog
from proxy.web.api.routing_health import RedisState


class RoutingServices:
    """Parts of the management API that share the database. Nothing connects before a call."""

    def __init__(
        self,
        database: Database,
        cipher: Cipher,
        transport: Transport,
        *,
        database_state: Callable[[], str],
        redis_state: Callable[[], RedisState],
        file: Callable[[], RoutingRecords] = RoutingRecords,
        breakers: Breakers | None = None,
        models_error: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        """`file` returns what the configuration file holds now. `models_error` returns why the
        models of the provider with this id could not be read last time.
        """
        self.catalog = RoutingCatalog(
            Providers(database),
            ProviderKeys(database, cipher),
            Mappings(database, lambda: {provider.id for provider in file().providers}),
            file,
        )
        self.key_health = KeyHealth(database)
        self.breakers = breakers or AllClosed()
        self.models_error = models_error
        self.database_state = database_state
        self.redis_state = redis_state
        self._tables = RoutingTables(database, cipher)
        self._tester = KeyTester(PROVIDERS, transport)

    def test(self, provider: ProviderRecord) -> list[KeyTest]:
        """Ask the provider for its models, once with each of its active keys.

        Raises StoreError.
        """
        secrets = {key.record.id: key for key in self._secrets()}
        found: list[ProviderKeySecret] = []
        unreadable: list[KeyTest] = []
        for key in self.catalog.keys(provider.id):
            if not key.is_active:
                continue
            if key.id in secrets:
                found.append(secrets[key.id])
            else:
                error = "it cannot be decrypted: see ENCRYPTION_KEYS_PREVIOUS"
                unreadable.append(KeyTest(key.id, key.name, False, None, 0.0, error=error))
        return [*self._tester.test(provider, found), *unreadable]

    def _secrets(self) -> list[ProviderKeySecret]:
        return [*self._tables.read().keys, *self.catalog.file().keys]
