"""The ``.env`` file in the current directory: looks up names in it, and adds names to it.

The environment wins over the file, and an empty value counts as none: the same rules as
:mod:`proxy.settings.settings`, which is not used here because a machine that only talks to a proxy
has no encryption key to load. Writing never changes an existing value.
"""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dotenv import dotenv_values

from proxy.cli import local_settings
from proxy.core.errors import SettingsError
from proxy.settings.settings import Settings
from proxy.store.database import Database

PATH: Final = Path(".env")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_@%+=:,./*\[\]-]*", re.ASCII)


def lookup(name: str, default: str = "") -> str:
    """Returns the value of ``name`` in the environment, else in ``.env``, else ``default``."""
    return os.environ.get(name, "").strip() or read(PATH).get(name, "") or default


def read(path: Path) -> dict[str, str]:
    """Returns the values that ``path`` sets, without empty ones; none if the file is missing."""
    if not path.exists():
        return {}
    found = dotenv_values(path, interpolate=False)
    return {name: value.strip() for name, value in found.items() if value and value.strip()}


def add(path: Path, values: Mapping[str, str]) -> None:
    """Adds ``values`` to ``path``, readable by its owner alone. Existing values stay unchanged.

    The file is replaced in one step, so that a full disk or a kill leaves the old one whole.
    """
    # A link to a file kept elsewhere stays a link.
    target = path.resolve()
    present = read(target)
    lines = target.read_text("utf-8").splitlines() if target.exists() else []
    missing = {name: value for name, value in values.items() if name not in present}
    # An empty `NAME=` would mislead a reader who looks for the value.
    empty = re.compile(r"\s*(?:export\s+)?(\w+)\s*=\s*", re.ASCII)
    matches = ((line, empty.fullmatch(line)) for line in lines)
    kept = [line for line, match in matches if not match or match[1] not in missing]
    text = "\n".join([*kept, *(f"{name}={_quoted(value)}" for name, value in missing.items()), ""])
    # mkstemp makes the file with mode 0600.
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".env.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def load_settings(*, serving: bool = True) -> Settings:
    """Loads the settings of this directory as the server will. Raises SettingsError.

    With ``serving`` False, secrets that only a server needs may be missing.
    """
    return Settings.load(os.environ, local_settings.PATH, serving=serving)


def open_database(settings: Settings) -> Database:
    """Opens the database of ``settings``, which the caller must close. Raises SettingsError."""
    try:
        return Database.from_url(settings.database.url, pool_size=1)
    except ValueError as error:
        raise SettingsError([f"DATABASE_URL: {error}"]) from error
