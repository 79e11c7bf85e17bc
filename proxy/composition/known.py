"""The tokens that all workers of a node know while the database is away, made of settings."""

import hashlib
from typing import Final
from urllib.parse import urlsplit

from proxy.auth.known import KnownGrants
from proxy.crypto.cipher import Cipher
from proxy.settings.settings import Settings
from proxy.store.knowntokens import KnownTokens

FILE: Final = "known-tokens.db"


def known_grants(settings: Settings) -> KnownGrants:
    """No I/O. What is in the file is readable with the keys of these settings and for their
    database alone: tokens of another one are none here."""
    parts = urlsplit(settings.database.url)
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    label = f"known tokens of {hashlib.sha256(place.encode()).hexdigest()}"
    cipher = Cipher.derived(label, settings.encryption.key, settings.encryption.previous_keys)
    return KnownGrants(
        KnownTokens(settings.data_dir.absolute() / FILE, cipher, most=settings.auth.cache_size),
        grace=settings.auth.stale_grace,
        size=settings.auth.cache_size,
    )
