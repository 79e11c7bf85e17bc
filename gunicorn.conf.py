"""gunicorn's configuration, made of ours: `gunicorn -c gunicorn.conf.py` serves.

Settings are checked here, in the master, before a worker exists: a worker that exits is only
respawned. Executed again at every SIGHUP.
"""

from gevent import monkey

monkey.patch_all()  # before anything imports ssl, and before the fork

import gc
import os
import resource
import sys
from pathlib import Path

if not sys.platform.startswith("linux"):
    print(
        "The server needs Linux (pidfds, locks of open files); elsewhere run it in a container.",
        file=sys.stderr,
    )
    sys.exit(2)

sys.path.insert(0, str(Path(__file__).resolve().parent))

from proxy import logs, master, wsgi
from proxy.errors import ProxyError, SchemaOutdated, SettingsError
from proxy.store.database import Database
from proxy.store.migrate import check_schema


def _exit(*problems):
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(2)


def _check_schema(database_url):
    """Refuse an old schema; a database that is away only keeps the workers unready."""
    try:
        database = Database.from_url(database_url, pool_size=1)
    except ValueError as error:
        return f"DATABASE_URL: {error}"
    try:
        check_schema(database)
    except SchemaOutdated as error:
        return str(error)
    except ProxyError:
        return None
    finally:
        database.close()
    return None


def _raise_file_limit():
    """The soft limit to the hard one; returns what it is now."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


# More than it gives itself; a stop takes GRACEFUL_TIMEOUT and this at the most.
_SHIPPER_TIMEOUT = 7

# All that the server makes (logs, events, its pid file, profiles) is for its user alone. A file
# that is there already keeps its mode.
os.umask(0o077)

_reloading = wsgi.is_running()
try:
    _settings = wsgi.configure(os.environ, Path(".env"))
except SettingsError as error:
    _exit(*error.problems)
_passes_through = _settings.auth_mode == "passthrough"  # and then uses no database
if not (_reloading or _passes_through) and (_problem := _check_schema(_settings.database_url)):
    _exit(_problem)
_file_limit = _raise_file_limit()

wsgi_app = "proxy.wsgi:application()"
worker_class = "proxy.worker.ProxyWorker"
bind = (
    f"[{_settings.host}]:{_settings.port}"
    if ":" in _settings.host
    else f"{_settings.host}:{_settings.port}"
)
workers = _settings.web_concurrency or os.cpu_count() or 1
worker_connections = _settings.worker_connections
graceful_timeout = _settings.graceful_timeout
# A heartbeat, not a request's time limit: it ends a worker whose event loop stands still.
timeout = 60
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
keepalive = 75  # read by nothing but gunicorn's own loop, which is not used; 0 would close
preload_app = False
control_socket_disable = True

# The parser: strict, and in Python; the C one accepts bare line feeds in a head.
http_parser = "python"
limit_request_line = 8190
limit_request_field_size = 32760
permit_unconventional_http_method = True
header_map = "refuse"  # a name with an underscore can pose as another
forwarder_headers = ""
forwarded_allow_ips = ""
secure_scheme_headers = {}

accesslog = None
logger_class = "proxy.worker.ProxyLogger"
logconfig_dict = logs.config(
    level=_settings.log_level,
    log_format=_settings.log_format,
    log_file=str(_settings.log_file) if _settings.log_file else None,
    known_secrets=_settings.known_secrets(),
)


def _tell_mode(server):
    if _passes_through:
        server.log.warning(
            "AUTH_MODE=passthrough: whoever reaches this server uses the upstream with a key of"
            " their own; no access token is asked for or known, and the database is not used"
        )


def when_ready(server):
    # All that is imported stays for good: workers share it, and no collector looks through it.
    gc.collect()
    gc.freeze()
    if server.pidfile is not None:
        Path(server.pidfile.fname).chmod(0o600)  # gunicorn makes it readable for all
    master.shipper.follow(_settings)
    _tell_mode(server)
    if _settings.event_shipper == "off":
        server.log.info(
            "EVENT_SHIPPER=off: run `manage.py events ship` beside this server; without it nothing"
            " reaches the ledger"
        )
    needed = 2 * _settings.worker_connections + _settings.upstream_pool_size + 64
    if _file_limit < needed:
        server.log.warning(
            "the limit of %d open files is too low for WORKER_CONNECTIONS=%d: allow %d",
            _file_limit,
            _settings.worker_connections,
            needed,
        )


def on_reload(server):
    _tell_mode(server)
    master.shipper.follow(_settings)


def on_exit(server):
    master.shipper.end(_SHIPPER_TIMEOUT)
