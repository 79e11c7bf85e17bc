"""Request headers: which are required, and which may go upstream.

Names are compared without case. Lines that describe the body, and those that the connection needs,
pass in spite of ``forwarded_headers``: without them the upstream could not read the request.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from proxy.core.errors import ClientError
from proxy.policy.globs import Globs

_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'.^_`|~+-]{1,100}", re.ASCII)
_NAME_OR_GLOB: Final = re.compile(r"[A-Za-z0-9!#$%&'.^_`|~+*-]{1,100}", re.ASCII)
#: Always forwarded. ``Authorization``, ``Host`` and the framing are the proxy's own.
ALWAYS_FORWARDED: Final = frozenset(
    {
        "ACCEPT",
        "ACCEPT-ENCODING",
        "CONNECTION",
        "CONTENT-ENCODING",
        "CONTENT-LENGTH",
        "CONTENT-TYPE",
        "SEC-WEBSOCKET-KEY",
        "SEC-WEBSOCKET-PROTOCOL",
        "SEC-WEBSOCKET-VERSION",
        "TRANSFER-ENCODING",
        "UPGRADE",
    }
)


class RequiredHeaders:
    """The headers that one rule requires: name → globs, one of which each value must match."""

    __slots__ = ("_required",)

    def __init__(self, required: Mapping[str, Iterable[str]]) -> None:
        self._required = tuple(
            (name, name.upper(), Globs(patterns)) for name, patterns in required.items()
        )

    def check(self, headers: Iterable[tuple[str, str]]) -> None:
        """Check lines with upper-case names. Raises ClientError, which names the header."""
        lines = list(headers)
        for name, upper, globs in self._required:
            values = [value for given, value in lines if given == upper]
            # The message leaves out the expected value: it may be all that keeps a stranger out.
            if not values:
                raise ClientError(f"This access token needs the header `{name}`.", param=name)
            if not all(map(globs.match, values)):
                raise ClientError(
                    f"This access token needs another value of the header `{name}`.", param=name
                )
            # An upstream behind CGI or WSGI reads `X_Team` as `X-Team`.
            twin = upper.replace("_", "-")
            if any(given != upper and given.replace("_", "-") == twin for given, _ in lines):
                raise ClientError(
                    f"With this access token the header `{name}` must be written in one way.",
                    param=name,
                )


class ForwardedHeaders:
    """The names, or globs of names, that one rule forwards."""

    __slots__ = ("_globs",)

    def __init__(self, names: Iterable[str]) -> None:
        self._globs = Globs(name.upper() for name in names)

    def allow(self, name: str) -> bool:
        upper = name.upper()
        return upper in ALWAYS_FORWARDED or self._globs.match(upper)


def header_name(value: str) -> str:
    """Return ``value`` if it is a valid header name. Raises ValueError."""
    if not _NAME.fullmatch(value):
        raise ValueError("a header name such as `X-Team`")
    return value


def header_glob(value: str) -> str:
    """As :func:`header_name`, with ``*`` for any run of characters. Raises ValueError."""
    if not _NAME_OR_GLOB.fullmatch(value):
        raise ValueError("a header name such as `OpenAI-Beta`, or a glob such as `X-Stainless-*`")
    return value
