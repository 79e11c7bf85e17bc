"""The installation in the current directory, for commands that do not go through its server.

Its settings are the server's own, so a command that works on the database needs the same ``.env``
and refuses the same mistakes.
"""

import os

from proxy.cli import envfile
from proxy.errors import SettingsError
from proxy.settings import Settings
from proxy.store.database import Database


def load_settings(*, serving: bool = True) -> Settings:
    """The settings of this directory, as the server will read them. Raises SettingsError.

    ``serving`` False: secrets that only a server needs may be missing.
    """
    return Settings.load(os.environ, envfile.PATH, serving=serving)


def open_database(settings: Settings) -> Database:
    """The database of ``settings``; the caller closes it. Raises SettingsError."""
    try:
        return Database.from_url(settings.database_url, pool_size=1)
    except ValueError as error:
        raise SettingsError([f"DATABASE_URL: {error}"]) from error
