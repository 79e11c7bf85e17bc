"""What a log may know of a key that is not ours: the same name for the same key, and no way back.

A plain hash would not do: whoever has a list of leaked keys could look for them in a leaked
log. So it is keyed, with a secret of this installation that is good for nothing else: were it made
of ``MANAGEMENT_TOKEN``, a log and one known key would be enough to guess at that offline.
"""

import contextlib
import hashlib
import logging
import os
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

#: In ``DATA_DIR``. Nodes that shall give a key the same name have copies of one file.
FILE: Final = "fingerprint.key"
_SECRET_BYTES: Final = 32
#: Two of a million keys meet with a chance of one to forty million.
_NAME_BYTES: Final = 8


class Fingerprinter:
    """Names keys. ``secret``: :data:`_SECRET_BYTES` bytes."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def load(cls, folder: Path) -> "Fingerprinter":
        """With the secret that lies in ``folder``; made, for its owner alone, when it is missing.

        Where the disk refuses, requests are served all the same, and the log says what that means.
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

    def of(self, key: str) -> str:
        """``key-`` and 16 hexadecimal digits. ``key`` is text as it came in a header (latin-1)."""
        hashed = hashlib.blake2b(key.encode("latin-1"), key=self._secret, digest_size=_NAME_BYTES)
        return f"key-{hashed.hexdigest()}"


def _secret_in(path: Path) -> bytes:
    """OSError, or ValueError: it is not one that we have made."""
    try:
        secret = path.read_bytes()
    except FileNotFoundError:
        secret = _made(path)
    if len(secret) != _SECRET_BYTES:
        raise ValueError(f"{len(secret)} bytes, expected {_SECRET_BYTES}")
    return secret


def _made(path: Path) -> bytes:
    """All workers start at once: the first whole file stays, and everybody takes that one."""
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
