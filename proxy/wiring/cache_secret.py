"""Where the secret of the cache's keys lies: in the database, or in a file of the node."""

from typing import Final

from proxy.cache.secret import CacheSecret
from proxy.crypto.secret_file import secret_in
from proxy.settings.settings import Settings
from proxy.store.installation_secrets import RESPONSE_CACHE, InstallationSecrets
from proxy.wiring.accounts import AccountServices

FILE: Final = "response-cache.key"


def cache_secret(settings: Settings, accounts: AccountServices) -> CacheSecret:
    """Does no I/O. In pass-through mode no database is used, so each node has its own secret."""
    if settings.auth.passthrough:
        path = settings.data_dir.absolute() / FILE
        return CacheSecret(lambda: secret_in(path))
    secrets = InstallationSecrets(accounts.database, accounts.cipher)
    return CacheSecret(lambda: secrets.get(RESPONSE_CACHE))
