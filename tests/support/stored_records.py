"""A complete store for tests, and short ways to fill it."""

from datetime import UTC, datetime, timedelta
from typing import Any

from proxy.crypto.cipher import Cipher
from proxy.crypto.tokens import new_token_id
from proxy.providers.records import MappingRecord, ProviderKeyRecord, ProviderRecord
from proxy.store.counters import Counters
from proxy.store.database import Database
from proxy.store.grants import Grants
from proxy.store.installation_secrets import InstallationSecrets
from proxy.store.mappings import Mappings
from proxy.store.migrate import Migrator
from proxy.store.projects import Projects
from proxy.store.provider_keys import ProviderKeys
from proxy.store.providers import Providers
from proxy.store.records import AccessToken, Project
from proxy.store.tokens import Tokens

NOW = datetime.now(UTC).replace(microsecond=123456)
LATER = NOW + timedelta(hours=1)
ABSENT = "00000000-0000-4000-8000-000000000000"


class Store:
    def __init__(self, url: str) -> None:
        self.database = Database.from_url(url)
        Migrator(self.database).migrate()
        self.cipher = Cipher(b"k" * 32)
        self.projects = Projects(self.database, self.cipher)
        self.tokens = Tokens(self.database)
        self.counters = Counters(self.database)
        self.grants = Grants(self.database, self.cipher)
        self.secrets = InstallationSecrets(self.database, self.cipher)
        self.providers = Providers(self.database)
        self.provider_keys = ProviderKeys(self.database, self.cipher)
        self.mappings = Mappings(self.database)
        self._made = 0

    def project(self, name: str = "Acme", **more: Any) -> Project:
        return self.projects.create(name, "sk-real-upstream-key", "sk-real-...-key", **more)

    def token(self, project: Project, **more: Any) -> AccessToken:
        self._made += 1
        more = {"expires_at": LATER, **more}
        return self.tokens.create(
            new_token_id(), project.id, f"{self._made:064x}", f"sk-{self._made:04}...mask", **more
        )

    def provider(self, name: str = "openai", **more: Any) -> ProviderRecord:
        more = {"provider_type": "openai", "base_url": "https://api.openai.com", **more}
        return self.providers.create(name, **more)

    def provider_key(
        self, provider: ProviderRecord, name: str = "team-a", **more: Any
    ) -> ProviderKeyRecord:
        value = f"sk-secret-of-{name}"
        return self.provider_keys.create(provider.id, name, value, f"mask-{name}", **more)

    def mapping(
        self, provider: ProviderRecord, alias: str = "fast", model: str = "gpt-5", **more: Any
    ) -> MappingRecord:
        return self.mappings.create(alias, provider.id, model, **more)

    def cell(self, sql: str, *params: Any) -> Any:
        row = self.database.run(lambda session: session.one(sql, params))
        return None if row is None else row[0]
