"""Which header lines pass, in both directions: RFC 9110 §7.6.1 and the client's privacy.

A line that is not named here passes untouched, in its order, duplicates included.

Note: ``Connection`` names further lines that must not pass (a client can list any), and there may
be several ``Connection`` lines.
"""

from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Final

from proxy.upstream.private_headers import is_private

Headers = list[tuple[str, str]]

#: Hop-by-hop by definition, upper case. ``Proxy-*`` is between a client and this proxy.
_HOP_BY_HOP: Final = frozenset(
    {
        "CONNECTION",
        "KEEP-ALIVE",
        "PROXY-AUTHENTICATE",
        "PROXY-AUTHORIZATION",
        "PROXY-CONNECTION",
        "TE",
        "TRAILER",
        "TRANSFER-ENCODING",
        "UPGRADE",
    }
)
#: Replaced by the proxy, or handled by its server.
_NOT_UPSTREAM: Final = _HOP_BY_HOP | {
    "AUTHORIZATION",
    "CONTENT-LENGTH",
    "EXPECT",
    "HOST",
    "HTTP2-SETTINGS",
}
#: About the upstream's own origin: other addresses, TLS from now on, where to report errors, which
#: stored data to delete. A browser, or a proxy in front, would apply it to the proxy's origin.
_OF_THE_ORIGIN: Final = frozenset(
    {
        "ALT-SVC",
        "CLEAR-SITE-DATA",
        "NEL",
        "PUBLIC-KEY-PINS",
        "REPORT-TO",
        "REPORTING-ENDPOINTS",
        "STRICT-TRANSPORT-SECURITY",
    }
)
#: The server writes its own `Server` and `Date`.
_NOT_DOWNSTREAM: Final = _HOP_BY_HOP | _OF_THE_ORIGIN | {"SERVER", "DATE"}
_UNBUFFERED: Final = ("X-Accel-Buffering", "no")
#: OpenAI's name for it; the token follows the dot.
_TOKEN_PROTOCOL: Final = "openai-insecure-api-key."  # noqa: S105  (a name, no secret)
_METERED_ENCODINGS: Final = frozenset({"gzip", "x-gzip", "deflate", "identity"})


def upstream_headers(
    headers: Sequence[tuple[str, str]], *, keep_authorization: bool = False
) -> Headers:
    """Return the client's lines (names in upper case) as lines for the upstream.

    Host, length and access token are left out. ``Accept-Encoding`` is reduced to encodings that the
    meter can decode; names get the usual ``Title-Case``. With ``keep_authorization``,
    ``Authorization`` passes, because it carries the client's own key.
    """
    named = _named_by_connection(headers)
    name_of = _upstream_name_with_authorization if keep_authorization else _upstream_name
    return [
        (outgoing, metered(value) if name == "ACCEPT-ENCODING" else value)
        for name, value in headers
        if (outgoing := name_of(name)) and name not in named
    ]


def goes_upstream(name: str) -> bool:
    """Whether lines of this name (upper case) go upstream, unless ``Connection`` names them."""
    return bool(_upstream_name(name))


def upgrade_headers(
    headers: Sequence[tuple[str, str]], *, keep_authorization: bool = False
) -> Headers:
    """As :func:`upstream_headers`, for a WebSocket's opening handshake (RFC 6455 §4.1).

    Extensions are left out, since compressed frames could not be metered. The subprotocol that
    carries a browser's access token is taken out, because a server echoes what it accepts. With
    ``keep_authorization`` it stays: it is the client's own key.
    """
    kept = []
    for name, value in upstream_headers(headers, keep_authorization=keep_authorization):
        if name == "Sec-Websocket-Extensions":
            continue
        if name == "Sec-Websocket-Protocol" and not keep_authorization:
            value = ", ".join(item for item in _items(value) if not _token_in(item))
            if not value:
                continue
        kept.append((name, value))
    return [*kept, ("Connection", "Upgrade"), ("Upgrade", "websocket")]


def token_in_protocols(sec_websocket_protocol: str) -> str | None:
    """Return the access token among the subprotocols, where alone a browser can send one."""
    found = (_token_in(item) for item in _items(sec_websocket_protocol))
    return next(filter(None, found), None)


def _token_in(item: str) -> str | None:
    return item.removeprefix(_TOKEN_PROTOCOL) if item.startswith(_TOKEN_PROTOCOL) else None


def _items(value: str) -> list[str]:
    return [item.strip() for item in value.split(",")]


def downstream_headers(headers: Sequence[tuple[str, str]]) -> Headers:
    """Return the upstream's lines for the client, with their order, case and duplicates."""
    named = _named_by_connection(headers)
    return [
        item
        for item in headers
        if _goes_downstream(item[0]) and (not named or item[0].upper() not in named)
    ]


def without_origin(headers: Sequence[tuple[str, str]]) -> Headers:
    """Return ``headers`` of a 101 without the lines about the upstream's own origin."""
    return [line for line in headers if line[0].upper() not in _OF_THE_ORIGIN]


def unbuffered(headers: Headers) -> Headers:
    """Return the lines of an event stream, with buffering off in an nginx in front."""
    name = _UNBUFFERED[0].lower()
    return [*(line for line in headers if line[0].lower() != name), _UNBUFFERED]


def content_of(headers: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Return content type and encoding of a response, ``""`` for a missing line."""
    content_type = content_encoding = ""
    for name, value in headers:
        if len(name) in {12, 16}:  # compared first, which saves most copies
            lower_name = name.lower()
            if lower_name == "content-type":
                content_type = value
            elif lower_name == "content-encoding":
                content_encoding = value
    return content_type, content_encoding


def is_plain(content_encoding: str) -> bool:
    """Whether the bytes of a body with this encoding are its content."""
    return content_encoding.strip().lower() in ("", "identity")


def is_sized(headers: Headers) -> bool:
    """Whether the headers announce the length of the body."""
    return any(name.lower() == "content-length" for name, _ in headers)


def without_length(headers: Headers) -> Headers:
    """Return the lines of a response that may get shorter; the server then chunks it."""
    return [line for line in headers if line[0].lower() != "content-length"]


def metered(accept_encoding: str) -> str:
    """Return ``Accept-Encoding`` reduced to what the meter can decode; never wider than it was.

    ``identity`` when nothing is left, since an absent line would allow everything
    (RFC 9110 §12.5.3).
    """
    kept = [
        item.strip()
        for item in accept_encoding.split(",")
        if item.partition(";")[0].strip().lower() in _METERED_ENCODINGS
    ]
    return ", ".join(kept) or "identity"


_NONE: Final[frozenset[str]] = frozenset()
_name_of = itemgetter(0)

# Names repeat, so the result for each is computed once.


@lru_cache(maxsize=1024)
def _upstream_name(name: str) -> str:
    """``X-REQUEST-ID`` → ``X-Request-Id``; ``""`` for a line that does not pass.

    The parser does not keep the client's own case.
    """
    if name in _NOT_UPSTREAM or is_private(name):
        return ""
    return name.title()


def _upstream_name_with_authorization(name: str) -> str:
    return "Authorization" if name == "AUTHORIZATION" else _upstream_name(name)


@lru_cache(maxsize=1024)
def _goes_downstream(name: str) -> bool:
    return name.upper() not in _NOT_DOWNSTREAM


def _named_by_connection(headers: Sequence[tuple[str, str]]) -> frozenset[str]:
    """Return the names that ``Connection`` lists, upper case, without those that never pass."""
    # Without a loop of Python's, since all headers of each request and response pass here.
    names = [*map(str.upper, map(_name_of, headers))]
    if "CONNECTION" not in names:
        return _NONE
    if names.count("CONNECTION") == 1:
        return _listed(headers[names.index("CONNECTION")][1])  # mostly `keep-alive` alone
    lines = [value for name, value in headers if name.upper() == "CONNECTION"]
    return _listed(",".join(lines))


@lru_cache(maxsize=16)  # few, since a client may send 128 KiB
def _listed(connection: str) -> frozenset[str]:
    return frozenset([item.strip().upper() for item in connection.split(",")]) - _HOP_BY_HOP
