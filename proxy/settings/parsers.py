"""One small parser per kind of setting: text in, value out.

Raises `ValueError` with what is expected. No message repeats the given value, because a secret
pasted under the wrong name would end up in the log.
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import SplitResult, urlsplit

T = TypeVar("T")
Parser = Callable[[str], T]

_UNITS: Final = {"": 1, "B": 1, "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3}
_YEAR_SECONDS: Final = 31_536_000
_DURATIONS: Final = {"": 1, "S": 1, "M": 60, "H": 3600, "D": 86_400}
_MAX_MEGABYTES: Final = 1024**2
#: Scheme → the form of its URL. The store checks the details.
_DATABASE_SCHEMES: Final = {
    "sqlite": "sqlite:///relative or sqlite:////absolute",
    "mysql": "mysql://user:pass@host:3306/name",
    "postgresql": "postgresql://user:pass@host:5432/name",
}
#: In the query: a socket instead of a host.
_DATABASE_SOCKET: Final = re.compile(r"(^|&)(unix_socket|host)=")
#: A host name, or an IPv6 address as `urlsplit` gives it.
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9]+)?")
#: `*`, or scheme://host[:port] in which a `*` stands for any run of characters of a host name.
_ORIGIN: Final = re.compile(r"\*|[a-z][a-z0-9+.-]*://[A-Za-z0-9.*\-\[\]:]+", re.ASCII)


def text(value: str) -> str:
    return value


def host(value: str) -> str:
    """An address to listen on: IPv4, IPv6 (no brackets, as gunicorn adds them) or a name."""
    try:
        return str(ipaddress.ip_address(value.removeprefix("[").removesuffix("]")))
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", value):
            raise ValueError("expected an address or a host name, without a port") from None
    return value


def path(value: str) -> Path:
    try:
        return Path(value).expanduser()
    except RuntimeError:  # ~name of a user that does not exist
        raise ValueError("expected a path; there is no home directory of this name") from None


def event_log(value: str) -> str:
    """`stdout` or `off` in any case (a file named OFF is never meant), else the path of a file."""
    return value.lower() if value.lower() in ("stdout", "off") else str(path(value))


def integer(low: int, high: int) -> Parser[int]:
    def parse(value: str) -> int:
        # Stricter than int(), which takes 1_000 and the digits of every script.
        number = int(value) if re.fullmatch(r"[0-9]{1,18}", value) else low - 1
        if not low <= number <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return number

    return parse


def seconds(low: float) -> Parser[float]:
    def parse(value: str) -> float:
        number = float(value) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,9})?", value) else -1.0
        if not low <= number <= _YEAR_SECONDS:
            raise ValueError(f"expected a number of seconds from {low:g} to {_YEAR_SECONDS}")
        return number

    return parse


def duration(value: str) -> float:
    """Seconds: `300`, `0.5`, `90s`, `5m`, `24h`, `7d`."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{0,9})?)\s*([A-Za-z]?)", value)
    unit = _DURATIONS.get(match[2].upper()) if match else None
    number = float(match[1]) * unit if match and unit else -1.0
    if not 0 <= number <= _YEAR_SECONDS:
        raise ValueError("expected a duration of at most a year: seconds, or such as 5m, 24h, 7d")
    return number


def megabytes(value: str) -> int:
    """Bytes. A number alone is MiB: `100`, `512MiB`, `1GiB`."""
    alone = re.fullmatch(r"[0-9]{1,15}", value)
    try:
        found = size(f"{value}MiB" if alone else value, min_bytes=1024**2)
    except ValueError:
        found = 0
    # Such a number was meant as bytes.
    if not 0 < found <= _MAX_MEGABYTES * 1024**2:
        raise ValueError(
            f"expected a size in MiB, from 1 to {_MAX_MEGABYTES}, or with a unit, such as 512MiB"
        )
    return found


def size(value: str, min_bytes: int = 1) -> int:
    """Bytes: `1048576`, `64KiB`, `512 MiB`, `1GiB`."""
    match = re.fullmatch(r"([0-9]{1,15})\s*([A-Za-z]*)", value)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or (min_bytes and int(match[1]) == 0):
        raise ValueError("expected a size in bytes, such as 67108864 or 64MiB")
    if (number := int(match[1]) * unit) < min_bytes:
        raise ValueError(f"expected at least {min_bytes // 1024**2}MiB")
    return number


def choice(*allowed: str) -> Parser[str]:
    def parse(value: str) -> str:
        if value.lower() not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}")
        return value.lower()

    return parse


def words(value: str, known: Sequence[str]) -> frozenset[str]:
    """Words of `known` with commas between; `none` for none of them."""
    if value.strip().lower() == "none":
        return frozenset()
    found = frozenset(part.strip().lower() for part in value.split(","))
    if not found <= frozenset(known):
        raise ValueError(f"expected `none`, or some of {', '.join(known)} with commas between")
    return found


def switch(value: str) -> bool:
    """`on` or `off`."""
    return choice("on", "off")(value) == "on"


def secrets(min_length: int, *, max_count: int) -> Parser[tuple[str, ...]]:
    """One secret, or up to `max_count` separated by commas, while one is being replaced."""

    def parse(value: str) -> tuple[str, ...]:
        found = tuple(part.strip() for part in value.split(","))
        if any(len(part) < min_length for part in found):
            raise ValueError(f"expected at least {min_length} characters")
        if len(found) > max_count:
            raise ValueError(f"expected at most {max_count} values with a comma between")
        if not all(part.isascii() and part.isprintable() and " " not in part for part in found):
            raise ValueError("expected printable ASCII without spaces: it travels in a header")
        return found

    return parse


def key_of_32_bytes(value: str) -> bytes:
    try:
        key = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise ValueError(
            "expected the base64 of 32 bytes; `python manage.py keys generate` makes one"
        )
    return key


def keys_of_32_bytes(value: str) -> tuple[bytes, ...]:
    return tuple(key_of_32_bytes(part.strip()) for part in value.split(",") if part.strip())


def database_url(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    if not separator or scheme not in _DATABASE_SCHEMES:
        raise ValueError(f"expected {', '.join(_DATABASE_SCHEMES.values())}")
    if scheme == "sqlite":
        # proxy.store.sqlite checks the rest. A database in memory would be another in each worker.
        if not re.fullmatch(r"/[^?#]*[^?#/]", rest) or rest == "/:memory:":
            raise ValueError(f"expected a file: {_DATABASE_SCHEMES[scheme]}")
    else:
        parts = _split(value)
        socket = _DATABASE_SOCKET.search(parts.query)
        if not (parts.hostname or socket) or not parts.path.strip("/"):
            raise ValueError(f"expected {_DATABASE_SCHEMES[scheme]}")
    return value


def base_url(value: str) -> str:
    """Scheme, host and an optional path prefix, without a trailing slash or `/v1`."""
    parts = _split(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http(s)://host[:port][/prefix]")
    # The characters themselves: "http://host?" has an empty query, and a path appended to it would
    # become one.
    if "?" in value or "#" in value or "@" in parts.netloc:
        raise ValueError("expected no credentials, query or fragment in it")
    if not re.fullmatch(r"[\x21-\x7e]+", value) or not _HOST.fullmatch(parts.hostname):
        raise ValueError("expected printable ASCII without spaces")
    return value.rstrip("/").removesuffix("/v1").rstrip("/")


def forward_proxy_url(value: str) -> str:
    """An HTTP forward proxy: `http://[user:pass@]host:port`."""
    parts = _split(value)
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
        raise ValueError("expected http://[user:pass@]host:port")
    if "?" in value or "#" in value or not _HOST.fullmatch(parts.hostname):
        raise ValueError("expected http://[user:pass@]host:port")
    return value


def origins(value: str) -> tuple[str, ...]:
    found = tuple(part.strip().rstrip("/") for part in value.split(",") if part.strip())
    if not all(_ORIGIN.fullmatch(origin) for origin in found):
        raise ValueError(
            "expected *, exact origins such as https://app.example.com, or patterns such as"
            " https://*.preview.example.com, with commas between"
        )
    return found


def endpoint_url(value: str) -> str:
    """The URL of an HTTP endpoint: query included, without credentials."""
    parts = _split(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http(s)://host[:port][/path][?query]")
    if "#" in value or "@" in parts.netloc:
        raise ValueError("expected no credentials or fragment in it")
    if not re.fullmatch(r"[\x21-\x7e]+", value) or not _HOST.fullmatch(parts.hostname):
        raise ValueError("expected printable ASCII without spaces")
    return value


def redis_url(value: str) -> str:
    parts = _split(value)
    if parts.scheme == "unix":
        good = not parts.hostname and parts.path.strip("/") != ""
    else:
        good = bool(parts.hostname and re.fullmatch(r"/?|/[0-9]{1,5}", parts.path))
    if parts.scheme not in ("redis", "rediss", "unix") or not good:
        raise ValueError("expected redis(s)://[user:pass@]host[:port][/db] or unix:///path[?db=0]")
    return value


def header_secret(value: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError("expected printable ASCII without spaces: it travels in a header")
    return value


def stream_name(value: str) -> str:
    """A Redis key that can be typed into a tool without quoting."""
    if not re.fullmatch(r"[A-Za-z0-9._:{}-]{1,200}", value):
        raise ValueError("expected letters, digits and . _ : { } - (at most 200)")
    return value


def log_group(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._/#-]{1,512}", value):
        raise ValueError("expected letters, digits and . _ / # - (at most 512)")
    return value


def log_stream(value: str) -> str:
    """May contain `{hostname}` and `{pid}`, and no other braces."""
    rest = value.replace("{hostname}", "").replace("{pid}", "")
    if len(value) > 400 or not value.isprintable() or re.search(r"[:*{}]", rest):
        raise ValueError("expected at most 400 characters without : and *; {hostname} and {pid}")
    return value


def _split(value: str) -> SplitResult:
    """`urlsplit` that also reads the port, so that an invalid one is found here."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(
            "expected a URL with a valid host and port; special characters of a password are"
            " percent-encoded"
        )
    return parts
