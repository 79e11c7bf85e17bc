"""The tokens that all workers of a node know while the database is unreachable."""

import hashlib
from typing import Final
from urllib.parse import urlsplit

from proxy.auth.known import KnownGrants
from proxy.crypto.cipher import Cipher
from proxy.settings.settings import Settings
from proxy.store.knowntokens import KnownTokens

FILE: Final = "known-tokens.db"


def known_grants(settings: Settings) -> KnownGrants:
    """Does no I/O.

    The file can be read only with the encryption keys of these settings, and only for their
    database: the tokens of another database are unknown here.
    """
    parts = urlsplit(settings.database.url)
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    label = f"known tokens of {hashlib.sha256(address.encode()).hexdigest()}"
    keys, auth = settings.encryption, settings.auth
    cipher = Cipher.derived(label, keys.key, keys.previous_keys)
    return KnownGrants(
        KnownTokens(settings.data_dir.absolute() / FILE, cipher, max_rows=auth.cache_size),
        grace=auth.stale_grace,
        size=auth.cache_size,
    )
