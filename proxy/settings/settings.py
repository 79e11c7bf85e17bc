"""The configuration: environment variables and `.env` become one frozen `Settings`.

`Settings.load` reads everything in one pass and reports every problem by name, with what is
expected, so that a deployment is not repaired one restart at a time. A value that cannot be read is
refused and never replaced by a default, because a limit that an operator sets must hold.
"""

import base64
import dataclasses
import errno
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote, urlsplit

from dotenv import dotenv_values

from proxy.core.errors import SettingsError
from proxy.policy.fields import read_fields
from proxy.providers.config import FALLBACK_CAUSES
from proxy.providers.config_file import ConfigFile, ConfigFileError, read_file
from proxy.runtime import shares
from proxy.settings import parsers as parse
from proxy.settings import validation
from proxy.usage import pricing

_REQUIRED: Final = object()
_KIB: Final = 1024
_MIB: Final = 1024**2
#: Requests per minute; 0: no limit.
_RPM: Final = parse.integer(0, 1_000_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One setting: its names in the environment, and how its value is read."""

    #: The canonical name first, then the aliases.
    names: tuple[str, ...]
    parser: Callable[..., Any]
    #: `_REQUIRED` where there is none.
    default: Any
    #: The value of a required setting in a command that serves nothing.
    empty: Any
    #: Whether the parser gets all variables as well, and is only called in a server.
    refers: bool = False

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def required(self) -> bool:
        return self.default is _REQUIRED


def _setting(
    name: str,
    parser: Callable[..., Any],
    default: Any = _REQUIRED,
    *aliases: str,
    secret: bool = False,
    empty: Any = None,
    refers: bool = False,
) -> Any:
    """A field read from the variable `name`, or from one of `aliases`.

    Without a default it is required, and `empty` in a command that serves nothing. The value of a
    `secret` is in no repr. With `refers`, the parser gets all variables too, since the value refers
    to others; a command that serves nothing does not read it.
    """
    variable = Variable(
        names=(name, *aliases), parser=parser, default=default, empty=empty, refers=refers
    )
    return dataclasses.field(metadata={"variable": variable}, repr=not secret)


def _config_file(value: str, environ: Mapping[str, str]) -> ConfigFile:
    """Read the file at the path `value`; its references are to variables of `environ`."""
    return read_file(value, environ, partial(read_fields, scope="project"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Listening, workers, and what a client may take of them."""

    host: str = _setting("HOST", parse.host, "127.0.0.1")
    port: int = _setting("PORT", parse.integer(1, 65535), 8080)
    #: None: one worker per CPU.
    web_concurrency: int | None = _setting("WEB_CONCURRENCY", parse.integer(1, 512), None)
    graceful_timeout: int = _setting("GRACEFUL_TIMEOUT", parse.integer(4, 86_400), 60)
    worker_connections: int = _setting("WORKER_CONNECTIONS", parse.integer(1, 1_000_000), 4096)
    max_concurrent_requests: int = _setting(
        "MAX_CONCURRENT_REQUESTS", parse.integer(1, 1_000_000), 3000
    )
    client_timeout: float = _setting("CLIENT_TIMEOUT", parse.seconds(0.1), 60.0)
    keepalive_timeout: float = _setting("KEEPALIVE_TIMEOUT", parse.seconds(1), 75.0)
    #: Bytes a second; 0: any rate.
    min_body_rate: int = _setting("MIN_BODY_RATE", partial(parse.size, min_bytes=0), 1 * _KIB)
    fair_share: float = _setting("FAIR_SHARE", shares.fraction, 0.5)
    trusted_proxies: int = _setting("TRUSTED_PROXIES", parse.integer(0, 32), 0)
    profile_dir: Path | None = _setting("PROFILE_DIR", parse.path, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """Who may call, and for how long a decision about an access token stands."""

    mode: str = _setting("AUTH_MODE", parse.choice("tokens", "passthrough"), "tokens")
    management_token: tuple[str, ...] = _setting(
        "MANAGEMENT_TOKEN", parse.secrets(16, max_count=2), secret=True, empty=()
    )
    metrics_token: tuple[str, ...] = _setting(
        "METRICS_TOKEN", parse.secrets(16, max_count=2), (), secret=True
    )
    cache_ttl: float = _setting("AUTH_CACHE_TTL", parse.seconds(0), 30.0)
    cache_size: int = _setting("AUTH_CACHE_SIZE", parse.integer(1, 10_000_000), 10_000)
    stale_grace: float = _setting("AUTH_STALE_GRACE", parse.seconds(0), 300.0)
    revocation_interval: float = _setting("REVOCATION_INTERVAL", parse.seconds(0.05), 1.0)

    @property
    def passthrough(self) -> bool:
        """Clients bring upstream keys of their own, and the database is not used."""
        return self.mode == "passthrough"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionSettings:
    """The keys under which upstream keys lie in the database."""

    key: bytes = _setting("ENCRYPTION_KEY", parse.key_of_32_bytes, secret=True, empty=b"")
    previous_keys: tuple[bytes, ...] = _setting(
        "ENCRYPTION_KEYS_PREVIOUS", parse.keys_of_32_bytes, (), secret=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    #: Left out, it is a SQLite file in the data directory.
    url: str = _setting("DATABASE_URL", parse.database_url, "", secret=True)
    pool_size: int = _setting("DATABASE_POOL_SIZE", parse.integer(1, 1000), 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings:
    """Where requests go, and the connections on which they go there."""

    base_url: str = _setting(
        "UPSTREAM_BASE_URL", parse.base_url, "https://api.openai.com", "OPENAI_API_URL"
    )
    proxy_url: str = _setting(
        "UPSTREAM_PROXY_URL", parse.forward_proxy_url, "", "PROXY_URL", secret=True
    )
    connect_timeout: float = _setting("UPSTREAM_CONNECT_TIMEOUT", parse.seconds(0.1), 5.0)
    read_timeout: float = _setting("UPSTREAM_READ_TIMEOUT", parse.seconds(0.1), 600.0)
    pool_size: int = _setting("UPSTREAM_POOL_SIZE", parse.integer(1, 100_000), 200)
    #: Whether the `base_url` of a project may lead to a private address.
    allow_private: bool = _setting("ALLOW_PRIVATE_UPSTREAMS", parse.switch, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingSettings:
    """Providers, and what is tried when one fails. A project with its own key alone has none."""

    max_attempts: int = _setting("ROUTING_MAX_ATTEMPTS", parse.integer(1, 20), 4)
    retry_deadline: float = _setting("ROUTING_RETRY_DEADLINE", parse.seconds(0), 30.0)
    fallback_on: frozenset[str] = _setting(
        "ROUTING_FALLBACK_ON",
        partial(parse.words, known=FALLBACK_CAUSES),
        frozenset({"connect", "auth", "rate", "server", "stream_error"}),
    )
    #: 0: streams are passed on at once.
    first_output_hold: float = _setting("ROUTING_FIRST_OUTPUT_HOLD", parse.seconds(0), 10.0)
    expose_provider: bool = _setting("EXPOSE_PROVIDER", parse.switch, True)
    default_provider: str = _setting("DEFAULT_API_PROVIDER", str.strip, "")
    #: The content of the file. None: there is none.
    config_file: ConfigFile | None = _setting(
        "API_CONFIG_PATH", _config_file, None, secret=True, refers=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """The relay of `/v1`: bodies, streams, browsers."""

    max_request_bytes: int = _setting("MAX_REQUEST_BYTES", parse.size, 512 * _MIB)
    max_json_bytes: int = _setting("MAX_JSON_BYTES", parse.size, 64 * _MIB)
    held_bodies_max_bytes: int = _setting(
        "HELD_BODIES_MAX_BYTES", partial(parse.size, min_bytes=_MIB), 512 * _MIB
    )
    sse_keepalive: float = _setting("SSE_KEEPALIVE", parse.seconds(0), 0.0)
    cors_allowed_origins: tuple[str, ...] = _setting("CORS_ALLOWED_ORIGINS", parse.origins, ())


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """Requests per minute; 0: no limit."""

    global_rpm: int = _setting("RATE_LIMIT_GLOBAL_RPM", _RPM, 0)
    per_ip_rpm: int = _setting("RATE_LIMIT_PER_IP_RPM", _RPM, 0, "RATE_LIMIT")
    per_token_rpm: int = _setting("RATE_LIMIT_PER_TOKEN_RPM", _RPM, 0, "RATE_LIMIT_PER_KEY_RPM")
    per_project_rpm: int = _setting("RATE_LIMIT_PER_PROJECT_RPM", _RPM, 0)
    on_error: str = _setting("RATE_LIMIT_ON_ERROR", parse.choice("open", "closed"), "open")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """Stored responses, and results of requests with an `Idempotency-Key`."""

    #: Seconds for which a response is stored at most; 0: none is.
    ttl: float = _setting("CACHE_TTL", parse.duration, 0.0)
    #: Bytes of the node for stored responses.
    max_bytes: int = _setting("MAX_CACHE_SIZE", parse.megabytes, 100 * _MIB)
    #: Bytes of one stored response at most.
    max_entry_bytes: int = _setting(
        "CACHE_MAX_ENTRY", partial(parse.size, min_bytes=_KIB), 4 * _MIB
    )
    #: A Redis for all nodes, never `REDIS_URL`: bodies go only where they were sent on purpose.
    url: str = _setting("CACHE_URL", parse.redis_url, "", secret=True)
    #: Seconds after its end in which a stored response may stand in for an upstream that fails.
    stale_if_error: float = _setting("CACHE_STALE_IF_ERROR", parse.duration, 0.0)
    #: Seconds for which the result of an `Idempotency-Key` is kept; 0: the header is only relayed.
    idempotency_ttl: float = _setting("IDEMPOTENCY_TTL", parse.duration, 86_400.0)
    #: Whether all clients of pass-through mode use the cache. Elsewhere projects say so.
    passthrough: bool = _setting("CACHE", parse.switch, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSettings:
    """Usage events on this node: the local log, the queue, the spool, the shipper."""

    log: str = _setting("EVENT_LOG", parse.event_log, "stdout")
    log_max_bytes: int = _setting("EVENT_LOG_MAX_BYTES", parse.size, 100 * _MIB)
    log_backups: int = _setting("EVENT_LOG_BACKUPS", parse.integer(0, 1000), 5)
    queue_size: int = _setting("EVENT_QUEUE_SIZE", parse.integer(1, 10_000_000), 10_000)
    queue_full: str = _setting("EVENT_QUEUE_FULL", parse.choice("wait", "refuse"), "wait")
    on_spool_full: str = _setting("ON_SPOOL_FULL", parse.choice("serve", "refuse"), "serve")
    spool_max_bytes: int = _setting(
        "SPOOL_MAX_BYTES", partial(parse.size, min_bytes=_MIB), 1024 * _MIB
    )
    spool_fsync_interval: float = _setting("SPOOL_FSYNC_INTERVAL", parse.seconds(0), 1.0)
    shipper: str = _setting("EVENT_SHIPPER", parse.choice("on", "off"), "on")


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSettings:
    """The remote sinks of usage events."""

    cloudwatch_log_group: str = _setting("CLOUDWATCH_LOG_GROUP", parse.log_group, "")
    cloudwatch_log_stream: str = _setting(
        "CLOUDWATCH_LOG_STREAM", parse.log_stream, "{hostname}-{pid}"
    )
    logging_url: str = _setting("LOGGING_URL", parse.endpoint_url, "", secret=True)
    logging_token: str = _setting("LOGGING_TOKEN", parse.header_secret, "", secret=True)
    event_stream: str = _setting("EVENT_STREAM", parse.stream_name, "")
    event_stream_max_length: int = _setting(
        "EVENT_STREAM_MAX_LENGTH", parse.integer(1000, 10**12), 500_000
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """Days; 0: forever."""

    audit_days: int = _setting("AUDIT_RETENTION_DAYS", parse.integer(0, 36_500), 0)
    usage_days: int = _setting("USAGE_RETENTION_DAYS", parse.integer(0, 36_500), 0)
    #: 0: no response is remembered, and each read of a stored one counts.
    counted_ids_days: int = _setting("COUNTED_IDS_DAYS", parse.integer(0, 3650), 7)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    level: str = _setting(
        "LOG_LEVEL", parse.choice("debug", "info", "warning", "error", "critical"), "info"
    )
    format: str = _setting("LOG_FORMAT", parse.choice("json", "console"), "json")
    file: Path | None = _setting("LOG_FILE", parse.path, None)
    access_log: bool = _setting("ACCESS_LOG", parse.switch, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator can choose. Durations are seconds, sizes bytes; docs/configuration.md."""

    data_dir: Path = _setting("DATA_DIR", parse.path, Path("data"))
    server: ServerSettings
    auth: AuthSettings
    encryption: EncryptionSettings
    database: DatabaseSettings
    upstream: UpstreamSettings
    routing: RoutingSettings
    gateway: GatewaySettings
    limits: LimitSettings
    cache: CacheSettings
    #: Shared by the rate limits, the change bus and the event stream.
    redis_url: str = _setting("REDIS_URL", parse.redis_url, "", secret=True)
    events: EventSettings
    sinks: SinkSettings
    #: The content of the file, so that a bad one is found with all other problems.
    prices_file: pricing.PriceList | None = _setting("PRICES_FILE", pricing.from_file, None)
    retention: RetentionSettings
    logs: LogSettings

    @classmethod
    def load(
        cls, environ: Mapping[str, str], dotenv: Path | None = None, *, serving: bool = True
    ) -> "Settings":
        """Read `environ` over the file `dotenv`, if there is one.

        Without `serving`, what only a server needs may be missing, and is empty then.
        Raises `SettingsError` with every problem found.
        """
        values, problems = _read(environ, dotenv)
        invalid: set[str] = set()
        chosen: dict[str, Any] = {}
        for variable in variables():
            given = _given(values, variable)
            if len({value for _, value in given}) > 1:
                names = " and ".join(name for name, _ in given)
                problems.append(f"{names}: two names of one setting with different values")
                invalid.add(variable.name)
            elif given and (serving or not variable.refers):
                name, value = given[0]
                try:
                    more = (values,) if variable.refers else ()
                    chosen[variable.name] = variable.parser(value, *more)
                except ConfigFileError as error:
                    problems += [f"{name}: {problem}" for problem in error.problems]
                    invalid.add(variable.name)
                except ValueError as error:
                    problems.append(f"{name}: {error}")
                    invalid.add(variable.name)
            elif not serving and variable.required:
                chosen[variable.name] = variable.empty
            elif variable.required:
                problems.append(f"{variable.name}: required; `python manage.py setup` makes one")
        defaults = {variable.name: variable.default for variable in variables()}
        problems += validation.conflicting_settings(chosen, defaults, invalid)
        given_names = [name for name, value in values.items() if value.strip()]
        problems += validation.misspelled_limits(given_names, variable_names())
        problems += validation.wrong_paths(chosen)
        if problems:
            raise SettingsError(problems)
        if chosen.get("CLOUDWATCH_LOG_GROUP"):
            chosen.setdefault("EVENT_LOG", "off")
        made = defaults | chosen
        if not made["DATABASE_URL"]:
            # A data directory may have ? or % in its name; a URL may not.
            database = quote(str(made["DATA_DIR"].absolute() / "proxy.db"))
            made["DATABASE_URL"] = f"sqlite:///{database}"
        return cast(Settings, _build(cls, made))

    def make_data_dir(self) -> None:
        """Make the data directory if it is missing.

        Raises `SettingsError` when it cannot be made or written.
        """
        folder = self.data_dir.absolute()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            # A disk that is full now may have room later, and stops no request.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not folder.is_dir():
                reason = error.strerror or str(error)
                problem = f"DATA_DIR: {folder} cannot be made or written: {reason}"
                raise SettingsError([problem]) from error

    def known_secrets(self) -> list[str]:
        """Every secret among the settings, in every form it may be written, for the sanitizer."""
        keys = (self.encryption.key, *self.encryption.previous_keys)
        urls = (self.database.url, self.upstream.proxy_url, self.redis_url, self.cache.url)
        passwords = [urlsplit(url).password or "" for url in urls]
        file = self.routing.config_file
        return [
            *(file.secrets() if file is not None else ()),
            self.sinks.logging_token,
            urlsplit(self.sinks.logging_url).query,
            *self.auth.management_token,
            *self.auth.metrics_token,
            *[base64.b64encode(key).decode() for key in keys],
            *passwords,
        ]


def variables() -> Iterator[Variable]:
    """Every setting, in the order in which its problems are reported."""
    return _variables(Settings)


def variable_names() -> set[str]:
    """Every name in the environment that is a setting, aliases included."""
    return {name for variable in variables() for name in variable.names}


def _variables(group: type[Any]) -> Iterator[Variable]:
    for field in dataclasses.fields(group):
        if dataclasses.is_dataclass(field.type):
            yield from _variables(cast(type[Any], field.type))
        elif "variable" in field.metadata:
            yield field.metadata["variable"]


def _build(group: type[Any], values: Mapping[str, Any]) -> Any:
    """An instance of `group`; `values` has the value of each variable by its name."""
    return group(
        **{
            field.name: values[field.metadata["variable"].name]
            if "variable" in field.metadata
            else _build(cast(type[Any], field.type), values)
            for field in dataclasses.fields(group)
        }
    )


def _read(environ: Mapping[str, str], dotenv: Path | None) -> tuple[dict[str, str], list[str]]:
    """The variables of both sources and the problems; an empty variable counts as not set.

    The environment wins over the file.
    """
    values: dict[str, str] = {}
    problems: list[str] = []
    if dotenv is not None and dotenv.exists():
        try:
            found = dotenv_values(dotenv, interpolate=False)
            values.update({name: value for name, value in found.items() if value is not None})
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{dotenv}: cannot be read: {error}")
    values.update({name: value for name, value in environ.items() if value.strip()})
    return values, problems


def _given(values: Mapping[str, str], variable: Variable) -> list[tuple[str, str]]:
    """The names of `variable` that have a value, with it."""
    return [(name, values[name].strip()) for name in variable.names if values.get(name, "").strip()]
