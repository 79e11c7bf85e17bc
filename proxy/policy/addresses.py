"""Which addresses clients may come from: ranges in CIDR notation, IPv4 and IPv6.

When the server listens on ``::``, an IPv4 client shows as an IPv4-mapped IPv6 address
(``::ffff:192.0.2.1``). It is the same client, so both are read as IPv4.
"""

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
#: How some load balancers write an address into ``X-Forwarded-For``.
_WITH_PORT: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d+)?|(\d+\.\d+\.\d+\.\d+):\d+", re.ASCII)


class Addresses:
    """The addresses that one rule allows. ``ranges`` come from :func:`address_range`."""

    __slots__ = ("_ranges",)

    def __init__(self, ranges: Iterable[str]) -> None:
        networks = [ipaddress.ip_network(one) for one in ranges]
        # A tuple of integers each: comparing these costs a tenth of `address in network`.
        self._ranges = tuple(
            (network.version, int(network.network_address), int(network.netmask))
            for network in networks
        )

    def allow(self, client_ip: str) -> bool:
        """Whether the address is allowed. Text that is no address (a Unix socket's peer) is not."""
        known = _number(client_ip)
        if known is None:
            return False
        version, number = known
        return any(version == kind and number & mask == base for kind, base, mask in self._ranges)


@lru_cache(maxsize=4096)
def _number(client_ip: str) -> tuple[int, int] | None:
    """Return version and value of an address, or None if the text is no address."""
    with_port = _WITH_PORT.fullmatch(client_ip)
    try:
        address = ipaddress.ip_address((with_port[1] or with_port[2]) if with_port else client_ip)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.version, int(address)


def usual_spelling(client_ip: str) -> str:
    """Return an IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2) as IPv4, with its port.

    A socket that listens on ``::`` shows IPv4 clients in that way, and some proxies write it. Any
    other text is returned as it is.
    """
    return _usual_spelling(client_ip) if ":" in client_ip else client_ip


@lru_cache(maxsize=4096)
def _usual_spelling(client_ip: str) -> str:
    with_port = _WITH_PORT.fullmatch(client_ip)
    inner = with_port[1] if with_port else client_ip
    try:
        mapped = ipaddress.IPv6Address(inner).ipv4_mapped
    except ValueError:
        return client_ip
    if mapped is None:
        return client_ip
    return str(mapped) + client_ip.partition("]")[2]


def address_range(value: str) -> str:
    """Return ``value`` in its usual spelling; an address is a range of one. Raises ValueError."""
    try:
        network = ipaddress.ip_network(value)
        if isinstance(network, ipaddress.IPv6Network):
            if network.network_address.scope_id is not None:
                raise ValueError(value)
            if network.subnet_of(_MAPPED):
                first = network.network_address.ipv4_mapped
                return f"{first}/{network.prefixlen - 96}"
    except ValueError as error:
        raise ValueError(
            "an address or a range such as `203.0.113.0/24` or `2001:db8::/32`, with no bits set "
            "behind its prefix"
        ) from error
    return str(network)
