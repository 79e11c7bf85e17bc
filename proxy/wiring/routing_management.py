"""The parts of the management API that are about providers, their keys and mappings."""

from collections.abc import Callable

from proxy.crypto.cipher import Cipher
from proxy.providers.records import ProviderKeySecret, ProviderRecord, RoutingRecords
from proxy.providers.status import Breakers, KeyTest
from proxy.routing.key_test import KeyTester
from proxy.store.database import Database
from proxy.store.key_health import KeyHealth
from proxy.store.mappings import Mappings
from proxy.store.provider_keys import ProviderKeys
from proxy.store.providers import Providers
from proxy.store.routing_tables import RoutingTables
from proxy.web.api.routing_catalog import RoutingCatalog
from proxy.web.api.routing_health import RedisState


class RoutingManagement:
    """What the pages of one worker share. Nothing connects before a call."""

    def __init__(
        self,
        database: Database,
        cipher: Cipher,
        tables: RoutingTables,
        key_health: KeyHealth,
        tester: KeyTester,
        *,
        database_state: Callable[[], str],
        redis_state: Callable[[], RedisState],
        breakers: Breakers,
        models_error: Callable[[str], str | None],
        file: RoutingRecords,
    ) -> None:
        """`file`: what the configuration file holds. `models_error` returns why the models of the
        provider with this id could not be read last time.
        """
        self.catalog = RoutingCatalog(
            Providers(database),
            ProviderKeys(database, cipher),
            Mappings(database, lambda: {provider.id for provider in file.providers}),
            lambda: file,
        )
        self.key_health = key_health
        self.breakers = breakers
        self.models_error = models_error
        self.database_state = database_state
        self.redis_state = redis_state
        self._tables = tables
        self._tester = tester

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
