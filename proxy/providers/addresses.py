"""Addresses that are not of the public internet: where a URL of a user must not lead unasked.

Used twice: for what a URL says when it is saved, and for what its host's name resolves to when a
connection is made.
"""

import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Names that lead to the machine itself, or to the metadata of a cloud's virtual machines.
_INNER_NAMES: Final = frozenset(
    {"localhost", "metadata", "metadata.google.internal", "instance-data"}
)
#: What `is_global` takes for public: the IETF's block (RFC 6890), where Oracle's metadata is, in
#: which Python releases differ; and the public address of Azure's metadata and DNS.
_INNER: Final = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "168.63.129.16")))
#: IPv6 that stands for an IPv4 address in its last 32 bits: NAT64 (RFC 6052, RFC 8215),
#: "IPv4-translated" (RFC 2765 §2.1), and the deprecated "IPv4-compatible" form (RFC 4291 §2.5.5.1).
_EMBEDDING: Final = tuple(
    map(
        ipaddress.IPv6Network,
        ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96"),
    )
)


def is_public(address: str) -> bool:
    """Whether ``address`` (IPv4 or IPv6, as a resolver returns it) is of the public internet.

    Private, shared (100.64.0.0/10), loopback, link-local and multicast addresses are not, nor is
    an IPv6 address that stands for such an IPv4 address. Raises ValueError for other text.
    """
    return _is_public(ipaddress.ip_address(address.partition("%")[0]))


def leads_inside(url: str) -> bool:
    """Whether the host of ``url`` says that it is not of the public internet.

    A name that resolves to a private address says nothing: see :func:`is_public`. Raises
    ValueError for what is no URL.
    """
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host in _INNER_NAMES or host.endswith(".localhost"):
        return True
    address = _literal(host)
    return address is not None and not _is_public(address)


def _literal(host: str) -> _Address | None:
    """The address that ``host`` is, in any spelling that resolvers take. None: it is a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        # `127.1`, `0x7f000001` and `2130706433` are addresses too.
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if embedded is None and address.teredo is not None:
            embedded = address.teredo[1]
        if any(address in network for network in _EMBEDDING):
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if embedded is not None:
            return _is_public(embedded)
        if address.is_site_local:
            return False
    elif any(address in network for network in _INNER):
        return False
    return address.is_global and not address.is_multicast
