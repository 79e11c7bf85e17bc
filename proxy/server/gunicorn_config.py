"""gunicorn's configuration, made of the settings.

`gunicorn.conf.py` executes it at the start, and again at each SIGHUP. Settings are checked here, in
the master, before a worker exists: a worker that exits would only be respawned.
"""

import gc
import os
import resource
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

from proxy.core.errors import ProxyError, SchemaOutdated, SettingsError
from proxy.logs.config import logging_config
from proxy.routing.file_entries import clashes
from proxy.server import supervisor, wsgi
from proxy.settings.settings import Settings
from proxy.store.database import Database
from proxy.store.mappings import Mappings
from proxy.store.migrate import check_schema
from proxy.store.projects import names_of_caching_projects
from proxy.store.providers import Providers

#: Longer than the shipper's own time limit. A stop takes at most GRACEFUL_TIMEOUT and this.
_SHIPPER_TIMEOUT_SECONDS: Final = 7
#: A heartbeat, not a time limit for requests: it ends a worker whose event loop is blocked.
_HEARTBEAT_SECONDS: Final = 60
#: Names of projects in one line of the log.
_NAMES_SHOWN: Final = 5


def configuration() -> dict[str, Any]:
    """The names of gunicorn's configuration file, with their values.

    Prints every problem and exits with status 2 when the settings or the schema do not fit. On a
    reload, problems of the settings are logged and the current settings kept. Sets the umask and
    the file limit.
    """
    # Files that the server makes (logs, events, pid file, profiles) are for its user alone. A file
    # that exists already keeps its mode.
    os.umask(0o077)
    reloading = wsgi.is_running()
    try:
        settings = wsgi.configure(os.environ, Path(".env"), _config_file_problems)
    except SettingsError as error:
        _exit(*error.problems)
    # Pass-through mode uses no database.
    checked = not reloading and not settings.auth.passthrough
    warning = _check_database(settings) if checked else ""
    return {**_served(settings), **_hooks(settings, _raise_file_limit(), warning)}


def _served(settings: Settings) -> dict[str, Any]:
    server, logs = settings.server, settings.logs
    host = f"[{server.host}]" if ":" in server.host else server.host
    return {
        "wsgi_app": "proxy.server.wsgi:application()",
        "worker_class": "proxy.server.worker.ProxyWorker",
        "bind": f"{host}:{server.port}",
        "workers": server.web_concurrency or os.cpu_count() or 1,
        "worker_connections": server.worker_connections,
        "graceful_timeout": server.graceful_timeout,
        "timeout": _HEARTBEAT_SECONDS,
        "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,  # noqa: S108
        # Only gunicorn's own loop reads it, which is not used; 0 would close connections.
        "keepalive": 75,
        "preload_app": False,
        "control_socket_disable": True,
        # The parser: strict, and in Python; the C one accepts bare line feeds in a head.
        "http_parser": "python",
        "limit_request_line": 8190,
        "limit_request_field_size": 32760,
        "permit_unconventional_http_method": True,
        "header_map": "refuse",
        "forwarder_headers": "",
        "forwarded_allow_ips": "",
        "secure_scheme_headers": {},
        "accesslog": None,
        "logger_class": "proxy.server.worker.ProxyLogger",
        "logconfig_dict": logging_config(
            level=logs.level,
            log_format=logs.format,
            log_file=str(logs.file) if logs.file else None,
            known_secrets=settings.known_secrets(),
        ),
    }


def _hooks(settings: Settings, file_limit: int, warning: str) -> dict[str, Any]:
    """The hooks that gunicorn calls in the master. `warning`, if any, is logged at the start."""

    def when_ready(server: Any) -> None:
        # Imported objects stay: workers share their memory, and garbage collection skips them.
        gc.collect()
        gc.freeze()
        if server.pidfile is not None:
            Path(server.pidfile.fname).chmod(0o600)  # gunicorn makes it readable for all
        supervisor.shipper.apply(settings)
        _log_mode(server, settings)
        if warning:
            server.log.warning("%s", warning)
        if settings.events.shipper == "off":
            server.log.info(
                "EVENT_SHIPPER=off: run `manage.py events ship` beside this server; without it"
                " nothing reaches the ledger"
            )
        needed = 2 * settings.server.worker_connections + settings.upstream.pool_size + 64
        if file_limit < needed:
            server.log.warning(
                "the limit of %d open files is too low for WORKER_CONNECTIONS=%d: allow %d",
                file_limit,
                settings.server.worker_connections,
                needed,
            )

    def on_reload(server: Any) -> None:
        _log_mode(server, settings)
        supervisor.shipper.apply(settings)

    def on_exit(server: Any) -> None:
        supervisor.shipper.end(_SHIPPER_TIMEOUT_SECONDS)

    return {"when_ready": when_ready, "on_reload": on_reload, "on_exit": on_exit}


def _log_mode(server: Any, settings: Settings) -> None:
    if settings.auth.passthrough:
        server.log.warning(
            "AUTH_MODE=passthrough: every client that reaches this server uses the upstream with"
            " its own key; access tokens and the database are not used"
        )


def _exit(*problems: str) -> NoReturn:
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    sys.exit(2)


def _check_database(settings: Settings) -> str:
    """Exit when the schema of the database is another version's.

    An unreachable database is no problem: it only keeps the workers unready.
    Returns what its content and the settings have against each other, or "".
    """
    try:
        database = Database.from_url(settings.database.url, pool_size=1)
    except ValueError as error:
        _exit(f"DATABASE_URL: {error}")
    try:
        check_schema(database)
        waiting = [] if settings.cache.ttl else names_of_caching_projects(database)
    except SchemaOutdated as error:
        _exit(str(error))
    except ProxyError:
        return ""
    finally:
        database.close()
    if not waiting:
        return ""
    shown = ", ".join(map(repr, waiting[:_NAMES_SHOWN])) + (
        ", …" if len(waiting) > _NAMES_SHOWN else ""
    )
    return (
        f"CACHE_TTL is not set, so nothing is cached for the {len(waiting)} project(s) with `cache`"
        f" on or opt_in: {shown}"
    )


def _config_file_problems(settings: Settings) -> list[str]:
    """The names that are in the configuration file and in the database.

    Where the database cannot be read, the workers find them later.
    """
    file = settings.routing.config_file
    if file is None:
        return []
    try:
        database = Database.from_url(settings.database.url, pool_size=1)
    except ValueError:
        return []  # reported with the schema
    try:
        names = [provider.name for provider in Providers(database).list()]
        aliases = [mapping.alias_name for mapping in Mappings(database).list()]
    except ProxyError:
        return []
    finally:
        database.close()
    return [f"API_CONFIG_PATH: {clash}" for clash in clashes(file.records, names, aliases)]


def _raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard limit. Returns the new limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
