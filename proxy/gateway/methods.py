"""Methods that end at the proxy, and hops that a client counts (RFC 9110 §7.6.2, §9.3).

TRACE, and Microsoft's TRACK, make the upstream send back the request that it received, with the
upstream key. CONNECT asks for a tunnel to anywhere. No policy can allow them.
"""

import re
from collections.abc import Sequence
from typing import Final

from proxy.core.errors import ClientError

REFUSED: Final = frozenset({"TRACE", "TRACK", "CONNECT"})
_RELAYED: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
#: RFC 9110 §7.6.2 sets no maximum; no chain of proxies is longer than this.
_HOPS: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_NAME: Final = "MAX-FORWARDS"

Headers = list[tuple[str, str]]


def refused(allow: str = ", ".join(_RELAYED)) -> ClientError:
    """Return the 405 for a method in :data:`REFUSED`; ``allow`` is the value of ``Allow``."""
    return ClientError(code="method_not_allowed", headers=[("Allow", allow)])


def allowed(rules: Sequence[frozenset[str]]) -> str:
    """Return the methods that all ``rules`` allow, as the value of ``Allow``."""
    return ", ".join(method for method in _RELAYED if all(method in rule for rule in rules))


def hops_left(headers: Sequence[tuple[str, str]]) -> int | None:
    """Return ``Max-Forwards`` of an OPTIONS, None without the header. Names are in upper case.

    Raises ClientError 400 if it is not one decimal number.
    """
    values = [value for name, value in headers if name == _NAME]
    if not values:
        return None
    if len(values) > 1 or not _HOPS.fullmatch(values[0]):
        raise ClientError("`Max-Forwards` must be one decimal number.", param="Max-Forwards")
    return int(values[0])


def one_hop_less(headers: Sequence[tuple[str, str]]) -> Headers:
    """Return ``headers`` with ``Max-Forwards`` decremented; :func:`hops_left` has checked it."""
    return [
        (name, str(int(value) - 1) if name.upper() == _NAME else value) for name, value in headers
    ]
