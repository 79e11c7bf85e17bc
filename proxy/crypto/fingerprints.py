"""Fingerprints of clients' own keys, for logs and events: the same name for the same key, one-way.

A plain hash is not enough: a list of leaked keys could be matched against a leaked log. So the hash
is keyed with a secret of this installation that has no other use. If it were derived from
``MANAGEMENT_TOKEN``, a log and one known key would be enough to guess that token offline.
"""

import hashlib
import logging
import os
from pathlib import Path
from typing import Final

from proxy.crypto.secret_file import SECRET_BYTES, secret_in

_log = logging.getLogger(__name__)

#: The secret's file in ``DATA_DIR``. Nodes that must give a key the same name have copies of it.
FILE: Final = "fingerprint.key"
#: 64 bits: among a million keys, the chance that any two collide is one in forty million.
_NAME_BYTES: Final = 8
#: Two keys with the same scope would read each other's responses, so this one must not collide.
_SCOPE_BYTES: Final = 32


class Fingerprinter:
    """Names keys by a keyed hash. ``secret`` has :data:`SECRET_BYTES` bytes."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def load(cls, folder: Path) -> "Fingerprinter":
        """Loads the secret from ``folder``. A missing one is created, readable by its owner alone.

        If the disk refuses, requests are still served, with a secret that lasts until the next
        start, and the log says so.
        """
        try:
            return cls(secret_in(folder / FILE))
        except (OSError, ValueError) as error:
            _log.error(
                "%s cannot be used: until the next start this worker names keys in its events by"
                " a secret of its own (%s)",
                folder / FILE,
                error,
            )
            return cls(os.urandom(SECRET_BYTES))

    def fingerprint(self, key: str) -> str:
        """Returns ``key-`` and 16 hex digits. ``key`` is text as it came in a header (latin-1)."""
        hashed = hashlib.blake2b(key.encode("latin-1"), key=self._secret, digest_size=_NAME_BYTES)
        return f"key-{hashed.hexdigest()}"

    def scope(self, key: str) -> str:
        """Returns 64 hex digits that stand for `key` in the response cache."""
        hashed = hashlib.blake2b(
            key.encode("latin-1"), key=self._secret, digest_size=_SCOPE_BYTES, person=b"cache scope"
        )
        return hashed.hexdigest()
