"""A secret of this installation in a file: 32 random bytes, made by the first that needs them."""

import contextlib
import os
from pathlib import Path
from typing import Final

SECRET_BYTES: Final = 32


def secret_in(path: Path) -> bytes:
    """Read the secret at `path`, or make it there, readable by its owner alone.

    All workers of a node get the same one, also when they start at once.
    Raises OSError, or ValueError for a file of another length.
    """
    try:
        secret = path.read_bytes()
    except FileNotFoundError:
        secret = _create(path)
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"{len(secret)} bytes, expected {SECRET_BYTES}")
    return secret


def _create(path: Path) -> bytes:
    """The first whole file stays, and every worker uses that one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    return path.read_bytes()
