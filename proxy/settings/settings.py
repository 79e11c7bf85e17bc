"""The configuration: environment variables and ``.env`` become one frozen :class:`Settings`.

Every problem is found in one pass and reported by name with what is expected, so that nobody fixes
a deployment one restart at a time. The thing to get wrong: a limit that somebody sets must hold, so
what cannot be read is refused and never replaced by a default.
"""

import base64
import dataclasses
import errno
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from dotenv import dotenv_values

from proxy.core.errors import SettingsError
from proxy.runtime import shares
from proxy.settings import parsers as parse
from proxy.settings import validation
from proxy.settings.parsers import Parser
from proxy.usage import pricing

_REQUIRED: Final = object()
#: Requests per minute; 0: no limit.
_RPM: Final = parse.integer(0, 1_000_000_000)


def _setting(
    parser: Parser[Any],
    default: Any = _REQUIRED,
    *aliases: str,
    secret: bool = False,
    empty: Any = None,
) -> Any:
    """A field read from the variable of its own name in capitals, or from one of ``aliases``.

    Without a default it is required; ``empty`` is what it is where nothing is served.
    """
    metadata = {"parser": parser, "aliases": aliases, "empty": empty}
    if default is _REQUIRED:
        return dataclasses.field(metadata={**metadata, "required": True}, repr=not secret)
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator can choose. Durations are seconds, sizes bytes; docs/configuration.md."""

    host: str = _setting(parse.host, "127.0.0.1")
    port: int = _setting(parse.integer(1, 65535), 8080)
    web_concurrency: int | None = _setting(parse.integer(1, 512), None)
    data_dir: Path = _setting(parse.path, Path("data"))
    management_token: tuple[str, ...] = _setting(parse.secrets(16, most=2), secret=True, empty=())
    encryption_key: bytes = _setting(parse.key_of_32_bytes, secret=True, empty=b"")
    encryption_keys_previous: tuple[bytes, ...] = _setting(parse.keys_of_32_bytes, (), secret=True)
    database_url: str = _setting(parse.database_url, "", secret=True)
    database_pool_size: int = _setting(parse.integer(1, 1000), 10)
    upstream_base_url: str = _setting(parse.base_url, "https://api.openai.com", "OPENAI_API_URL")
    upstream_proxy_url: str = _setting(parse.forward_proxy_url, "", "PROXY_URL", secret=True)
    upstream_connect_timeout: float = _setting(parse.seconds(0.1), 5.0)
    upstream_read_timeout: float = _setting(parse.seconds(0.1), 600.0)
    upstream_pool_size: int = _setting(parse.integer(1, 100_000), 200)
    graceful_timeout: int = _setting(parse.integer(4, 86_400), 60)
    worker_connections: int = _setting(parse.integer(1, 1_000_000), 4096)
    max_concurrent_requests: int = _setting(parse.integer(1, 1_000_000), 3000)
    client_timeout: float = _setting(parse.seconds(0.1), 60.0)
    keepalive_timeout: float = _setting(parse.seconds(1), 75.0)
    #: Bytes a second; 0: any rate.
    min_body_rate: int = _setting(partial(parse.size, least=0), 1024)
    held_bodies_max_bytes: int = _setting(partial(parse.size, least=1024 * 1024), 512 * 1024 * 1024)
    fair_share: float = _setting(shares.fraction, 0.5)
    auth_cache_ttl: float = _setting(parse.seconds(0), 30.0)
    auth_cache_size: int = _setting(parse.integer(1, 10_000_000), 10_000)
    auth_stale_grace: float = _setting(parse.seconds(0), 300.0)
    revocation_interval: float = _setting(parse.seconds(0.05), 1.0)
    max_request_bytes: int = _setting(parse.size, 512 * 1024 * 1024)
    max_json_bytes: int = _setting(parse.size, 64 * 1024 * 1024)
    event_log: str = _setting(parse.event_log, "stdout")
    event_log_max_bytes: int = _setting(parse.size, 100 * 1024 * 1024)
    event_log_backups: int = _setting(parse.integer(0, 1000), 5)
    event_queue_size: int = _setting(parse.integer(1, 10_000_000), 10_000)
    on_spool_full: str = _setting(parse.choice("serve", "refuse"), "serve")
    event_queue_full: str = _setting(parse.choice("wait", "refuse"), "wait")
    spool_max_bytes: int = _setting(partial(parse.size, least=1024 * 1024), 1024 * 1024 * 1024)
    spool_fsync_interval: float = _setting(parse.seconds(0), 1.0)
    event_shipper: str = _setting(parse.choice("on", "off"), "on")
    cloudwatch_log_group: str = _setting(parse.log_group, "")
    cloudwatch_log_stream: str = _setting(parse.log_stream, "{hostname}-{pid}")
    logging_url: str = _setting(parse.endpoint_url, "", secret=True)
    logging_token: str = _setting(parse.header_secret, "", secret=True)
    redis_url: str = _setting(parse.redis_url, "", secret=True)
    event_stream: str = _setting(parse.stream_name, "")
    event_stream_max_length: int = _setting(parse.integer(1000, 10**12), 500_000)
    sse_keepalive: float = _setting(parse.seconds(0), 0.0)
    cors_allowed_origins: tuple[str, ...] = _setting(parse.origins, ())
    trusted_proxies: int = _setting(parse.integer(0, 32), 0)
    #: The content of the file, so that a bad one is found with all other problems.
    prices_file: pricing.PriceList | None = _setting(pricing.from_file, None)
    rate_limit_global_rpm: int = _setting(_RPM, 0)
    rate_limit_per_ip_rpm: int = _setting(_RPM, 0, "RATE_LIMIT")
    rate_limit_per_token_rpm: int = _setting(_RPM, 0, "RATE_LIMIT_PER_KEY_RPM")
    rate_limit_per_project_rpm: int = _setting(_RPM, 0)
    rate_limit_on_error: str = _setting(parse.choice("open", "closed"), "open")
    auth_mode: str = _setting(parse.choice("tokens", "passthrough"), "tokens")
    #: Days; 0: for ever.
    audit_retention_days: int = _setting(parse.integer(0, 36_500), 0)
    usage_retention_days: int = _setting(parse.integer(0, 36_500), 0)
    #: Days; 0: no response is remembered, and each reading of one counts.
    counted_ids_days: int = _setting(parse.integer(0, 3650), 7)
    metrics_token: tuple[str, ...] = _setting(parse.secrets(16, most=2), (), secret=True)
    access_log: bool = _setting(parse.switch, False)
    log_level: str = _setting(parse.choice("debug", "info", "warning", "error", "critical"), "info")
    log_format: str = _setting(parse.choice("json", "console"), "json")
    log_file: Path | None = _setting(parse.path, None)
    profile_dir: Path | None = _setting(parse.path, None)

    @classmethod
    def load(
        cls, environ: Mapping[str, str], dotenv: Path | None = None, *, serving: bool = True
    ) -> "Settings":
        """Read ``environ`` over the file ``dotenv``, if there is one.

        ``serving`` False: what only a server needs may be missing, and is empty then.
        Raises :class:`SettingsError` with every problem found.
        """
        values, problems = _read(environ, dotenv)
        unknown: set[str] = set()
        chosen: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            given = _given(values, field)
            if len({value for _, value in given}) > 1:
                names = " and ".join(name for name, _ in given)
                problems.append(f"{names}: two names of one setting with different values")
                unknown.add(field.name)
            elif given:
                name, value = given[0]
                try:
                    chosen[field.name] = field.metadata["parser"](value)
                except ValueError as error:
                    problems.append(f"{name}: {error}")
                    unknown.add(field.name)
            elif not serving and field.metadata.get("required"):
                chosen[field.name] = field.metadata["empty"]
            elif field.metadata.get("required"):
                problems.append(
                    f"{field.name.upper()}: required; `python manage.py setup` makes one"
                )
        defaults = {field.name: field.default for field in dataclasses.fields(cls)}
        problems += validation.conflicting_settings(chosen, defaults, unknown)
        given_names = [name for name, value in values.items() if value.strip()]
        problems += validation.misspelled_limits(given_names, _names(cls))
        problems += validation.wrong_paths(chosen)
        if problems:
            raise SettingsError(problems)
        if chosen.get("cloudwatch_log_group"):
            chosen.setdefault("event_log", "off")
        settings = cls(**chosen)
        if not settings.database_url:
            # A data directory may have ? or % in its name; a URL may not.
            database = quote(str(settings.data_dir.absolute() / "proxy.db"))
            settings = dataclasses.replace(settings, database_url=f"sqlite:///{database}")
        return settings

    def make_data_dir(self) -> None:
        """Make it, unless it is there. Raises :class:`SettingsError` when nobody could write."""
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
        """Every secret among the settings as it may be written, for the log's sanitizer."""
        keys = (self.encryption_key, *self.encryption_keys_previous)
        urls = (self.database_url, self.upstream_proxy_url, self.redis_url)
        passwords = [urlsplit(url).password or "" for url in urls]
        return [
            self.logging_token,
            urlsplit(self.logging_url).query,
            *self.management_token,
            *self.metrics_token,
            *[base64.b64encode(key).decode() for key in keys],
            *passwords,
        ]


def _read(environ: Mapping[str, str], dotenv: Path | None) -> tuple[dict[str, str], list[str]]:
    """The variables of both sources, the environment winning; an empty one counts as not set."""
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


def _names(settings: type[Settings]) -> set[str]:
    fields = dataclasses.fields(settings)
    return {name for field in fields for name in (field.name.upper(), *field.metadata["aliases"])}


def _given(values: Mapping[str, str], field: "dataclasses.Field[Any]") -> list[tuple[str, str]]:
    names = (field.name.upper(), *field.metadata["aliases"])
    return [(name, values[name].strip()) for name in names if values.get(name, "").strip()]
