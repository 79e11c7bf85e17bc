"""The access token in the places where other SDKs put their key: finding it, and taking it out.

| place | SDK |
|---|---|
| `x-api-key` | Anthropic |
| `api-key` | Azure OpenAI |
| `x-goog-api-key`, `?key=` | Gemini |
| a WebSocket's subprotocol | OpenAI in browsers |

Only text in the form of an access token counts. All else that stands there passes, since it may be
for the upstream.

Note: servers read a query in different ways: some split it at `;`, too, some decode it more than
once. A parameter counts if one of these ways makes it the token.
"""

import re
from typing import Final

from proxy.auth.authenticator import bearer
from proxy.core.escapes import readings
from proxy.crypto import tokens

Headers = list[tuple[str, str]]

_PROTOCOLS: Final = "SEC-WEBSOCKET-PROTOCOL"
#: Names in upper case. `Authorization` is none of them: it is looked at anyway, and never passes.
HEADERS: Final = frozenset({"X-API-KEY", "API-KEY", "X-GOOG-API-KEY", _PROTOCOLS})
_PARAMETER: Final = "key"
_SEPARATORS: Final = re.compile("([&;])")


def tokens_in_headers(headers: Headers, *, upgrades: bool) -> set[str]:
    """Return the access tokens in header lines, `Authorization` included.

    Subprotocols count only where the request `upgrades` to a WebSocket.
    """
    found: set[str] = set()
    for name, value in headers:
        if name == "AUTHORIZATION":
            given = bearer(value)
            if given is not None and tokens.is_well_formed(given):
                found.add(given)
        elif name in HEADERS and (upgrades or name != _PROTOCOLS):
            found.update(tokens.find_all(value))
    return found


def headers_without_tokens(headers: Headers) -> Headers:
    """Return the lines without the items that hold an access token. Duplicates and order stay."""
    kept = []
    for name, value in headers:
        if name in HEADERS and tokens.find_all(value):
            items = [item.strip() for item in value.split(",")]
            value = ", ".join([item for item in items if not tokens.find_all(item)])
            if not value:
                continue
        kept.append((name, value))
    return kept


def tokens_in_query(query: str) -> set[str]:
    """Return the access tokens in parameters that are named `key`, in any case."""
    found: set[str] = set()
    if tokens.PREFIX not in query and "%" not in query:
        return found
    for parameter in _SEPARATORS.split(query)[::2]:
        name, _, value = parameter.partition("=")
        if any(reading.strip().lower() == _PARAMETER for reading in readings(name)):
            for reading in readings(value):
                found.update(tokens.find_all(reading))
    return found


def query_without_token(query: str, token: str) -> str:
    """Return the query without the parameters that hold `token`, whatever their names.

    Each is cut out with one separator. The rest stays as it is written.
    """
    kept: list[str] = []
    parts = ["", *_SEPARATORS.split(query)]
    for separator, parameter in zip(parts[::2], parts[1::2], strict=True):
        if any(token in reading for reading in readings(parameter)):
            continue
        if kept:
            kept.append(separator)
        kept.append(parameter)
    return "".join(kept)
