"""Which browser origins are allowed: exact ones, or ``https://*.example.com`` for its subdomains.

This keeps a token that was taken out of one web page from being used in another one, because
browsers do not let a page choose its ``Origin``. Note: other programs can send any origin.

``*`` stands for one label, and only for the first: ``https://*.example.com`` is
``https://a.example.com``, not ``https://a.b.example.com`` and not ``https://example.com``.
"""

import re
from collections.abc import Iterable
from typing import Final

from proxy.core.errors import ClientError

#: A longer text is no origin (RFC 1035: a name has 253 characters).
_MAX_ORIGIN_CHARS: Final = 300
_LABEL: Final = "[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?"
_ORIGIN: Final = re.compile(
    rf"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    rf"(?P<host>(?:\*\.{_LABEL}(?=\.)|{_LABEL})(?:\.{_LABEL})*|\[[0-9a-f:.]+\])"
    r"(?P<port>:[0-9]{1,5})?",
    re.ASCII,
)
_DEFAULT_PORTS: Final = {"https": ":443", "http": ":80"}
_WILDCARD: Final = "://*."


class Origins:
    """The origins that one rule allows. ``patterns`` come from :func:`origin_pattern`."""

    __slots__ = ("_exact",)

    def __init__(self, patterns: Iterable[str]) -> None:
        self._exact = frozenset(patterns)

    def check(self, origins: list[str]) -> None:
        """Check the values of all ``Origin`` lines.

        Raises ClientError ``origin_required``, ``origin_not_allowed``.
        """
        if not origins:
            raise ClientError(code="origin_required")
        if len(origins) > 1 or not self._allow(origins[0].lower()):
            raise ClientError(code="origin_not_allowed")

    def _allow(self, origin: str) -> bool:
        if len(origin) > _MAX_ORIGIN_CHARS or "*" in origin:
            return False
        if origin in self._exact:
            return True
        scheme, _, host = origin.partition("://")
        label, dot, parent = host.partition(".")
        return (
            re.fullmatch(_LABEL, label) is not None
            and f"{scheme}{_WILDCARD}{parent}" in self._exact
            and bool(dot)
        )


def origin_pattern(value: str) -> str:
    """Return ``value`` as browsers spell it: lower case, no default port. Raises ValueError."""
    lowered = value.lower()
    found = _ORIGIN.fullmatch(lowered) if len(value) <= _MAX_ORIGIN_CHARS else None
    if found is None:
        raise ValueError(
            "an origin such as `https://app.example.com` or `https://*.example.com`, without a "
            "path; `*` may only be the first of at least three labels"
        )
    port = found["port"]
    if port is not None and port == _DEFAULT_PORTS.get(found["scheme"]):
        lowered = lowered.removesuffix(port)
    return lowered
