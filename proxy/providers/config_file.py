"""The configuration file of providers, their keys and mappings: YAML → records.

    default_api: main
    providers:
      - name: main
        provider_type: openai
        base_url: https://api.openai.com/v1
        keys: [{name: team-a, value: env:OPENAI_KEY_A}]
    mappings:
      - {alias_name: smart, provider: main, provider_model_name: gpt-5}
    apis:
      other: {base_url: https://llm.example, allowed_endpoints: [/v1/chat], allowed_methods: [POST]}

`providers` and `mappings` have the fields of the management API. `apis` is llm-proxy's form of a
provider. Secrets are referred to (`env:NAME`, `file:PATH`) and never written in the file.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid5

from proxy.core.errors import ClientError
from proxy.crypto.tokens import looks_masked, mask_upstream_key
from proxy.providers import yaml_text
from proxy.providers.config import mapping_config, provider_config
from proxy.providers.fields import (
    KEY_FIELDS,
    MAPPING_FIELDS,
    PROVIDER_FIELDS,
    check_provider,
    provider_name,
    read_key,
    read_mapping,
    read_provider,
)
from proxy.providers.records import (
    PROVIDER_TYPES,
    MappingRecord,
    ProviderKeyRecord,
    ProviderKeySecret,
    ProviderRecord,
    RoutingRecords,
)

#: Checks a project's policy fields and returns them as they are stored. Raises ClientError.
ReadPolicy = Callable[[Mapping[str, Any]], dict[str, Any]]

#: The namespace of the ids: an entry keeps its id for as long as it keeps its name.
_IDS: Final = UUID("5be2a9c6-5d4e-4f0e-9c6b-0d1f5a3f2b71")
_MAX_SECRET_BYTES: Final = 64 * 1024
_MAX_KEY_CHARS: Final = 4096
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_SECRET: Final = re.compile(r"[\x21-\x7e]+")
_EXPECTED_VALUE: Final = (
    "expected env:NAME or file:PATH, where the secret is; it is never written in this file"
)
_TOP: Final = frozenset({"default_api", "providers", "mappings", "apis"})

#: llm-proxy's name → the field of our policies.
_API_POLICY: Final = {
    "allowed_endpoints": "allowed_endpoints",
    "allowed_methods": "allowed_methods",
    "param_whitelist": "allowed_params",
    "allowed_origins": "allowed_origins",
    "required_headers": "required_headers",
}
#: llm-proxy's timeouts → the member of a provider's `config`.
_API_TIMEOUTS: Final = {"request": "timeout", "response_header": "ttft_timeout"}
#: What llm-proxy has and this proxy has not → what to do.
_API_REFUSED: Final = {
    "timeouts.idle_connection": "idle connections are closed after 55 seconds; remove it",
    "timeouts.flush_interval": "streams are passed on at once; remove it",
    "connection.max_idle_conns": "remove it and set UPSTREAM_POOL_SIZE",
    "connection.max_idle_conns_per_host": "remove it and set UPSTREAM_POOL_SIZE",
}
_API_FIELDS: Final = frozenset(
    {"base_url", "provider_type", "config", "is_active", "keys", "timeouts", "connection"}
) | frozenset(_API_POLICY)
_DURATION: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+")
_DURATION_PART: Final = re.compile(r"([0-9.]+)(ms|s|m|h)")
_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class ConfigFileError(ValueError):
    """Every problem of a file. Each names the place, and what is expected there."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What a file says. Its records have the source `file`."""

    records: RoutingRecords = field(default_factory=RoutingRecords)
    #: The name of the default provider; empty: the file names none.
    default_api: str = ""

    def secrets(self) -> list[str]:
        """Return the values of the keys."""
        return [key.value for key in self.records.keys]


def read_file(value: str, environ: Mapping[str, str], read_policy: ReadPolicy) -> ConfigFile:
    """Read the file at the path `value`. `environ` has the variables of `env:NAME`.

    `file:PATH` is relative to the folder of the file. Raises ConfigFileError.
    """
    path = Path(value)
    try:
        path = path.expanduser()
        with path.open("rb") as file:
            text = file.read(yaml_text.MAX_BYTES + 1)
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "there is no such path"
        raise ConfigFileError([f"expected a YAML file that can be read: {reason}"]) from None
    if len(text) > yaml_text.MAX_BYTES:
        raise ConfigFileError([f"expected a file of {yaml_text.MAX_BYTES} bytes at most"])
    try:
        content = yaml_text.parse(text)
    except ValueError as error:
        raise ConfigFileError([f"expected a YAML file: {error}"]) from None
    return _Reader(path.parent, environ, read_policy, changed).read(content)


class _Reader:
    """Reads the content of one file, and collects its problems."""

    def __init__(
        self,
        folder: Path,
        environ: Mapping[str, str],
        read_policy: ReadPolicy,
        changed: datetime,
    ) -> None:
        self._folder = folder
        self._environ = environ
        self._read_policy = read_policy
        self._changed = changed
        self._problems: list[str] = []
        #: The providers' ids by name, those with a problem too: what refers to them is no problem.
        self._ids: dict[str, str] = {}
        self._providers: list[ProviderRecord] = []
        self._keys: list[ProviderKeySecret] = []
        self._mappings: list[MappingRecord] = []

    def read(self, content: Any) -> ConfigFile:
        if not isinstance(content, dict):
            names = ", ".join(sorted(_TOP))
            raise ConfigFileError([f"expected a mapping with some of: {names}"])
        self._refuse_unknown("", content, _TOP)
        for place, entry in self._entries("providers", content.get("providers")):
            self._provider(place, entry)
        apis = content.get("apis")
        if isinstance(apis, dict):
            for name, entry in apis.items():
                self._api(name, entry)
        elif apis is not None:
            self._problem("apis", "expected a mapping of names to APIs")
        for place, entry in self._entries("mappings", content.get("mappings")):
            self._mapping(place, entry)
        self._only_one("providers", [each.is_default for each in self._providers])
        aliases = {each.alias_name for each in self._mappings if each.is_default}
        self._only_one("mappings", [True for _ in aliases])
        default_api = content.get("default_api")
        if default_api is not None:
            self._checked("default_api", lambda: provider_name("default_api", default_api))
        if self._problems:
            raise ConfigFileError(self._problems)
        order = sorted(self._mappings, key=lambda each: (each.alias_name, each.order_index))
        return ConfigFile(
            RoutingRecords(tuple(self._providers), tuple(self._keys), tuple(order)),
            default_api or "",
        )

    def _provider(self, place: str, entry: Mapping[str, Any]) -> None:
        self._refuse_unknown(place, entry, PROVIDER_FIELDS | {"keys"})
        self._required(place, entry, "name", "provider_type", "base_url")
        self._add_provider(place, entry, {})

    def _api(self, name: str, entry: Any) -> None:
        """Add llm-proxy's form of a provider."""
        place = f"apis.{name[:80]}"
        if not isinstance(entry, dict):
            self._problem(place, "expected a mapping with base_url and allowed_endpoints")
            return
        self._refuse_unknown(place, entry, _API_FIELDS)
        self._required(place, entry, "base_url", "allowed_endpoints", "allowed_methods")
        fields = {
            each: entry[each]
            for each in ("base_url", "provider_type", "is_active", "keys")
            if each in entry
        }
        fields["name"] = name
        fields.setdefault("provider_type", name if name in PROVIDER_TYPES else "custom")
        config = entry.get("config", {})
        if isinstance(config, dict):
            fields["config"] = {**self._timeouts(place, entry.get("timeouts")), **config}
        else:
            fields["config"] = config
        self._refuse_settings(place, "connection", entry.get("connection"), {})
        policy: dict[str, Any] = {}
        for theirs, ours in _API_POLICY.items():
            value = entry.get(theirs)
            if value is None:
                continue
            if theirs == "allowed_endpoints" and isinstance(value, list):
                value = [pattern for prefix in value for pattern in _below(prefix)]
            read = self._checked(f"{place}.{theirs}", partial(self._read_policy, {ours: value}))
            policy |= read or {}
        self._add_provider(place, fields, policy)

    def _timeouts(self, place: str, timeouts: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self._refuse_settings(place, "timeouts", timeouts, _API_TIMEOUTS)
        for theirs, ours in _API_TIMEOUTS.items() if isinstance(timeouts, dict) else ():
            if theirs in timeouts:
                seconds = _seconds(timeouts[theirs])
                if seconds is None:
                    self._problem(f"{place}.timeouts.{theirs}", "expected a duration such as 30s")
                else:
                    found[ours] = seconds
        return found

    def _refuse_settings(self, place: str, name: str, value: Any, known: Mapping[str, str]) -> None:
        """Refuse each member of llm-proxy's object `name` that is not in `known`."""
        if value is None:
            return
        if not isinstance(value, dict):
            self._problem(f"{place}.{name}", "expected a mapping")
            return
        for member in value:
            if member not in known:
                advice = _API_REFUSED.get(f"{name}.{member}", "unknown name")
                self._problem(f"{place}.{name}.{member[:80]}", f"not supported: {advice}")

    def _add_provider(
        self, place: str, entry: Mapping[str, Any], policy: Mapping[str, Any]
    ) -> None:
        found = self._fields(place, entry, read_provider, PROVIDER_FIELDS)
        name = found.get("name")
        provider_id = str(uuid5(_IDS, f"provider\0{name}"))
        if name is not None:
            if name in self._ids:
                self._problem(place, f"another provider has the name {name!r}")
            self._ids[name] = provider_id
        self._provider_keys(place, provider_id, str(name), entry.get("keys"))
        config = found.setdefault("config", {})
        provider_type: str = found.get("provider_type", "")
        if "config" in entry and not isinstance(entry["config"], dict):
            return
        wrong = False
        for member, value in config.items() if provider_type else ():
            read = self._checked(place, partial(provider_config, {member: value}, provider_type))
            wrong = wrong or read is None
        if wrong or not {"name", "provider_type", "base_url"} <= found.keys():
            return
        self._checked(place, lambda: check_provider(found))
        self._providers.append(
            ProviderRecord(
                provider_id,
                found["name"],
                found["provider_type"],
                found["base_url"],
                config,
                found.get("is_active", True),
                found.get("is_default", False),
                self._changed,
                self._changed,
                "file",
                policy,
            )
        )

    def _provider_keys(self, place: str, provider_id: str, provider: str, keys: Any) -> None:
        names: set[str] = set()
        for where, entry in self._entries(f"{place}.keys", keys):
            self._refuse_unknown(where, entry, KEY_FIELDS | {"value"})
            self._required(where, entry, "name", "value")
            found = self._fields(where, entry, read_key, KEY_FIELDS)
            value = self._secret(f"{where}.value", entry["value"]) if "value" in entry else None
            name = found.get("name")
            if name is None or value is None:
                continue
            if name in names:
                self._problem(where, f"another key of this provider has the name {name!r}")
            names.add(name)
            record = ProviderKeyRecord(
                str(uuid5(_IDS, f"key\0{provider}\0{name}")),
                provider_id,
                name,
                mask_upstream_key(value),
                found.get("weight", 1),
                tuple(found.get("models", ())),
                found.get("is_active", True),
                self._changed,
                self._changed,
                "file",
            )
            self._keys.append(ProviderKeySecret(record, value))

    def _secret(self, place: str, reference: Any) -> str | None:
        """Return the secret that `reference` names, or None. No problem repeats any of it."""
        kind, _, where = reference.partition(":") if isinstance(reference, str) else ("", "", "")
        if kind == "env" and _VARIABLE.fullmatch(where):
            value = self._environ.get(where, "").strip()
            if not value:
                # A name in small letters may be a secret that was put there.
                shown = where if where.isupper() else "the variable that it names"
                self._problem(place, f"expected {shown} in the environment, but it is not set")
                return None
        elif kind == "file" and where:
            read = self._secret_file(place, where)
            if read is None:
                return None
            value = read
        else:
            self._problem(place, _EXPECTED_VALUE)
            return None
        if len(value) > _MAX_KEY_CHARS or not _SECRET.fullmatch(value) or looks_masked(value):
            self._problem(
                place, "the secret must be visible ASCII characters without spaces, and no mask"
            )
            return None
        return value

    def _secret_file(self, place: str, where: str) -> str | None:
        try:
            with (self._folder / Path(where).expanduser()).open("rb") as file:
                raw = file.read(_MAX_SECRET_BYTES + 1)
            return raw.decode("ascii").strip()
        except UnicodeDecodeError:
            self._problem(place, "the file that it names holds no ASCII text")
        except (OSError, RuntimeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "there is no such path"
            self._problem(place, f"the file that it names cannot be read: {reason}")
        return None

    def _mapping(self, place: str, entry: Mapping[str, Any]) -> None:
        self._refuse_unknown(place, entry, MAPPING_FIELDS | {"provider"})
        self._required(place, entry, "alias_name", "provider", "provider_model_name")
        found = self._fields(place, entry, read_mapping, MAPPING_FIELDS)
        provider = entry.get("provider")
        provider_id = self._ids.get(provider) if isinstance(provider, str) else None
        if "provider" in entry and provider_id is None:
            self._problem(f"{place}.provider", "expected the name of a provider of this file")
        config = found.get("config", {})
        self._checked(place, lambda: mapping_config(config))
        alias, model = found.get("alias_name"), found.get("provider_model_name")
        if provider_id is None or alias is None or model is None:
            return
        mapping_id = str(uuid5(_IDS, f"mapping\0{alias}\0{provider}\0{model}"))
        if any(each.id == mapping_id for each in self._mappings):
            self._problem(place, "the alias has this target already")
        self._mappings.append(
            MappingRecord(
                mapping_id,
                alias,
                provider_id,
                model,
                found.get("order_index", 0),
                found.get("weight", 1),
                found.get("is_default", False),
                config,
                self._changed,
                self._changed,
                "file",
            )
        )

    # Shared by all entries.

    def _problem(self, place: str, problem: str) -> None:
        self._problems.append(f"{place}: {problem}" if place else problem)

    def _entries(self, place: str, value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield each entry of a list that is a mapping, with its place."""
        if value is None:
            return
        if not isinstance(value, list):
            self._problem(place, "expected a list")
            return
        for number, entry in enumerate(value):
            where = f"{place}[{number}]"
            if isinstance(entry, dict):
                yield where, entry
            else:
                self._problem(where, "expected a mapping of names to values")

    def _refuse_unknown(self, place: str, entry: Mapping[str, Any], known: frozenset[str]) -> None:
        for name in entry:
            if name not in known:
                self._problem(
                    place, f"unknown name {name[:80]!r}; expected some of: {_names(known)}"
                )

    def _required(self, place: str, entry: Mapping[str, Any], *names: str) -> None:
        for name in names:
            if name not in entry:
                self._problem(place, f"`{name}` is required")

    def _fields(
        self,
        place: str,
        entry: Mapping[str, Any],
        read: Callable[[Mapping[str, Any]], dict[str, Any]],
        names: frozenset[str],
    ) -> dict[str, Any]:
        """Return the fields that can be read, each by itself, so that every problem is found."""
        found: dict[str, Any] = {}
        for name in entry:
            if name in names:
                value = self._checked(place, partial(read, {name: entry[name]}))
                found |= value or {}
        return found

    def _checked(self, place: str, read: Callable[[], Any]) -> Any:
        """Return what `read` returns, or None where it raises ClientError: then a problem."""
        try:
            return read()
        except ClientError as error:
            self._problem(place, str(error))
            return None

    def _only_one(self, place: str, marked: list[bool]) -> None:
        if sum(marked) > 1:
            self._problem(place, "`is_default` may be true for one of them only")


def _names(known: frozenset[str]) -> str:
    return ", ".join(sorted(known))


def _below(prefix: Any) -> list[Any]:
    """Return the patterns for a prefix of paths: itself, and what is below it."""
    if not isinstance(prefix, str) or prefix.endswith("*"):
        return [prefix]
    path = prefix.rstrip("/")
    return [f"{path}/**"] if path == "/v1" else [path, f"{path}/**"]


def _seconds(value: Any) -> float | None:
    """Return the seconds of a duration such as `1m30s`, or of a number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        return None
    return sum(
        float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(value)
    )
