"""The `base_url` of a provider or a project: its form, and where it must not lead."""

import re
from typing import Any, Final
from urllib.parse import urlsplit

from proxy.core.errors import ClientError
from proxy.providers.addresses import leads_inside
from proxy.providers.readers import wrong

MAX_CHARS: Final = 2048
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_EXPECTED: Final = "http(s)://host[:port][/prefix], without credentials, query or fragment"


def base_url(param: str, value: Any) -> str:
    """Return ``value`` as it was given. Raises ClientError for what is no base URL.

    `/v1` at its end means the same as none, see :meth:`proxy.providers.base.Target.from_url`.
    """
    if not isinstance(value, str) or not _VISIBLE.fullmatch(value) or len(value) > MAX_CHARS:
        raise wrong(param, _EXPECTED)
    try:
        parts = urlsplit(value)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:  # an unclosed bracket, a port beyond 65535
        raise wrong(param, _EXPECTED) from error
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host) or port == 0:
        raise wrong(param, _EXPECTED)
    # The characters themselves: "http://host?" has an empty query.
    if "?" in value or "#" in value or "\\" in value or "@" in parts.netloc:
        raise wrong(param, _EXPECTED)
    return value


def refuse_private(param: str, value: str) -> None:
    """Raise ClientError when ``value``, a base URL, says that it leads to an inner address."""
    if leads_inside(value):
        raise ClientError(
            f"`{param}` leads to a private, local or metadata address. Set `allow_private: true` in"
            " `config` (`--allow-private` of the command line) if it should.",
            param=param,
        )
