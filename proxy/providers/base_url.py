"""The `base_url` of a provider: its form, and addresses that it must not lead to.

A name may still resolve to a private address, which only the connection can tell.
"""

import ipaddress
import re
import socket
from typing import Any, Final
from urllib.parse import urlsplit

from proxy.core.errors import ClientError
from proxy.providers.readers import wrong

MAX_LENGTH: Final = 2048
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_EXPECTED: Final = "http(s)://host[:port][/prefix], without credentials, query or fragment"
#: Names that lead to the machine itself, or to the metadata of a cloud's virtual machines.
_INNER_NAMES: Final = ("localhost", "metadata.google.internal", "metadata", "instance-data")
#: Prefixes of IPv6 addresses that stand for an IPv4 address in their last 32 bits (RFC 6052).
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def base_url(param: str, value: Any) -> str:
    """Return ``value`` as it was given. Raises ClientError for what is no base URL.

    `/v1` at its end means the same as none, see :meth:`proxy.providers.base.Target.from_url`.
    """
    if not isinstance(value, str) or not _VISIBLE.fullmatch(value) or len(value) > MAX_LENGTH:
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
    """Raise ClientError when ``value``, a base URL, names an address that is not public."""
    host = (urlsplit(value).hostname or "").rstrip(".")
    if host in _INNER_NAMES or host.endswith(".localhost") or _is_private(host):
        raise ClientError(
            f"`{param}` leads to a private, local or metadata address. Set `allow_private: true` in"
            " `config` if that is meant.",
            param=param,
        )


def _is_private(host: str) -> bool:
    address = _literal(host)
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = inner or address
    return address is not None and (not address.is_global or address.is_multicast)


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that ``host`` is, in any spelling that resolvers take. None: a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        # `127.1`, `0x7f000001` and `2130706433` are addresses too.
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None
