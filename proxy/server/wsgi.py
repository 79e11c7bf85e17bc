"""What gunicorn loads: the settings once in the master, the application in each worker.

Note: workers inherit the master's settings through the fork. If each worker read the environment
and `.env` itself, a worker forked after a bad edit would die at once, and be respawned forever.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from proxy.app import Application, create_app
from proxy.core.errors import SettingsError
from proxy.settings.settings import Settings

_log = logging.getLogger(__name__)

# The master's current settings. They survive a SIGHUP, which executes gunicorn.conf.py again.
_running: Settings | None = None


def configure(
    environ: Mapping[str, str],
    dotenv: Path,
    check: Callable[[Settings], list[str]] = lambda settings: [],
) -> Settings:
    """Load the settings and make `DATA_DIR`. `check` returns further problems of the settings.

    On a reload, problems are logged and the current settings kept. Raises `SettingsError` only at
    the first start.
    """
    global _running
    try:
        settings = Settings.load(environ, dotenv)
        settings.make_data_dir()
        if problems := check(settings):
            raise SettingsError(problems)
        _running = settings
    except SettingsError as error:
        if _running is None:
            raise
        for problem in error.problems:
            _log.error("settings not reloaded: %s", problem)
    return _running


def application() -> Application:
    """`wsgi_app = "proxy.server.wsgi:application()"`."""
    if _running is None:
        raise RuntimeError("serve with `gunicorn -c gunicorn.conf.py`, which loads the settings")
    return create_app(_running)


def is_running() -> bool:
    """Whether the master has settings already, so that this is a reload."""
    return _running is not None
