"""One small parser per kind of setting: text in, value out, ``ValueError`` with what is expected.

No message repeats the value it was given: a secret pasted under the wrong name would end up in the
log.
"""

import base64
import binascii
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import SplitResult, urlsplit

T = TypeVar("T")
Parser = Callable[[str], T]

_UNITS: Final = {"": 1, "B": 1, "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3}
_DATABASE_SCHEMES: Final = ("sqlite", "mysql")
#: ``*``, or scheme://host[:port] in which a ``*`` stands for any run of characters of a host name.
_ORIGIN: Final = re.compile(r"\*|[a-z][a-z0-9+.-]*://[A-Za-z0-9.*\-\[\]:]+", re.ASCII)


def text(value: str) -> str:
    return value


def path(value: str) -> Path:
    return Path(value).expanduser()


def integer(low: int, high: int) -> Parser[int]:
    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            raise ValueError(f"expected a whole number from {low} to {high}") from None
        if not low <= number <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return number

    return parse


def seconds(low: float) -> Parser[float]:
    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        # One year at most: it also refuses nan and inf, which no timer understands.
        if not low <= number <= 31_536_000:
            raise ValueError(f"expected a number of seconds, {low:g} or more")
        return number

    return parse


def size(value: str) -> int:
    """Bytes: ``1048576``, ``64KiB``, ``512 MiB``, ``1GiB``."""
    match = re.fullmatch(r"(\d{1,15})\s*([A-Za-z]*)", value)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or int(match[1]) == 0:
        raise ValueError("expected a size in bytes, such as 67108864 or 64MiB")
    return int(match[1]) * unit


def choice(*allowed: str) -> Parser[str]:
    def parse(value: str) -> str:
        if value.lower() not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}")
        return value.lower()

    return parse


def secrets(shortest: int, *, most: int) -> Parser[tuple[str, ...]]:
    """One secret, or up to ``most`` with commas between, while one is being replaced."""

    def parse(value: str) -> tuple[str, ...]:
        found = tuple(part.strip() for part in value.split(","))
        if any(len(part) < shortest for part in found):
            raise ValueError(f"expected at least {shortest} characters")
        if len(found) > most:
            raise ValueError(f"expected at most {most} values with a comma between")
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
        raise ValueError(
            "expected sqlite:///relative, sqlite:////absolute or mysql://user:pass@host:3306/name"
        )
    if scheme == "sqlite" and not rest.strip("/"):
        raise ValueError("expected a file: sqlite:///relative or sqlite:////absolute")
    if scheme == "mysql":
        parts = _split(value)
        if not parts.hostname or not parts.path.strip("/"):
            raise ValueError("expected mysql://user:pass@host:3306/name")
    return value


def base_url(value: str) -> str:
    """Scheme, host and an optional path prefix, without a closing slash or ``/v1``."""
    parts = _split(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http(s)://host[:port][/prefix]")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("expected no credentials, query or fragment in it")
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError("expected printable ASCII without spaces")
    return value.rstrip("/").removesuffix("/v1").rstrip("/")


def forward_proxy_url(value: str) -> str:
    """An HTTP forward proxy: ``http://[user:pass@]host:port``."""
    parts = _split(value)
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query:
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


def _split(value: str) -> SplitResult:
    """``urlsplit`` whose port has been looked at, so that a bad one is found here."""
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018  (the property raises)
    except ValueError:
        raise ValueError("expected a URL with a valid host and port") from None
    return parts
