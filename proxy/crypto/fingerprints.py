"""Fingerprints of clients' own keys, for logs and events: the same name for the same key, one-way.

A plain hash is not enough: a list of leaked keys could be matched against a leaked log. So the hash
is keyed with a secret of this installation that has no other use. If it were derived from
``MANAGEMENT_TOKEN``, a log and one known key would be enough to guess that token offline.
"""

import contextlib
import hashlib
import logging
import os
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

#: The secret's file in ``DATA_DIR``. Nodes that must give a key the same name have copies of it.
FILE: Final = "fingerprint.key"
_SECRET_BYTES: Final = 32
#: 64 bits: among a million keys, the chance that any two collide is one in forty million.
_NAME_BYTES: Final = 8


class Fingerprinter:
    """Names keys by a keyed hash. ``secret`` has :data:`_SECRET_BYTES` bytes."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def load(cls, folder: Path) -> "Fingerprinter":
        """Loads the secret from ``folder``. A missing one is created, readable by its owner alone.

        If the disk refuses, requests are still served, with a secret that lasts until the next
        start, and the log says so.
        """
        try:
            return cls(_secret_in(folder / FILE))
        except (OSError, ValueError) as error:
            _log.error(
                "%s cannot be used: until the next start this worker names keys in its events by"
                " a secret of its own (%s)",
                folder / FILE,
                error,
            )
            return cls(os.urandom(_SECRET_BYTES))

    def fingerprint(self, key: str) -> str:
        """Returns ``key-`` and 16 hex digits. ``key`` is text as it came in a header (latin-1)."""
        hashed = hashlib.blake2b(key.encode("latin-1"), key=self._secret, digest_size=_NAME_BYTES)
        return f"key-{hashed.hexdigest()}"


def _secret_in(path: Path) -> bytes:
    """Reads or creates the secret. Raises OSError, or ValueError for a file of another length."""
    try:
        secret = path.read_bytes()
    except FileNotFoundError:
        secret = _create_secret(path)
    if len(secret) != _SECRET_BYTES:
        raise ValueError(f"{len(secret)} bytes, expected {_SECRET_BYTES}")
    return secret


def _create_secret(path: Path) -> bytes:
    """All workers start at once: the first whole file stays, and every worker uses that one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(_SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    return path.read_bytes()
