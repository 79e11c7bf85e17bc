"""Which header lines pass, in both directions: RFC 9110 §7.6.1 and the client's privacy.

What is not named here goes through untouched, in its order, duplicates included. The thing to get
wrong: ``Connection`` names further lines that must go (a client can list any), and it may come
more than once.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from proxy.upstream.private_headers import is_private

Headers = list[tuple[str, str]]

#: Hop-by-hop by definition, upper case. ``Proxy-*`` is between a client and its proxy: us.
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
#: Replaced by ours, or answered by the server.
_NOT_UPSTREAM: Final = _HOP_BY_HOP | {
    "AUTHORIZATION",
    "CONTENT-LENGTH",
    "EXPECT",
    "HOST",
    "HTTP2-SETTINGS",
}
#: What the upstream says of its own origin. A browser, or a proxy in front, would take it for ours:
#: other addresses, TLS from now on, where to report errors, which stored data to delete.
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


def upstream_headers(headers: Sequence[tuple[str, str]], *, with_key: bool = False) -> Headers:
    """Client's lines (names in upper case) → lines for the upstream, without host, length and key.

    ``Accept-Encoding`` is cut to what we can meter; names get the usual ``Title-Case``.
    ``with_key``: ``Authorization`` goes on, because it is the client's own.
    """
    named = _named_by_connection(headers)
    name_of = _upstream_name_with_key if with_key else _upstream_name
    return [
        (outgoing, metered(value) if name == "ACCEPT-ENCODING" else value)
        for name, value in headers
        if (outgoing := name_of(name)) and name not in named
    ]


def goes_upstream(name: str) -> bool:
    """Whether lines of this name (upper case) go on, unless ``Connection`` names them."""
    return bool(_upstream_name(name))


def upgrade_headers(headers: Sequence[tuple[str, str]], *, with_key: bool = False) -> Headers:
    """The same for a WebSocket's opening handshake (RFC 6455 §4.1).

    Extensions are not offered on, since compressed frames could not be metered. The subprotocol
    that carries the token of a browser is taken out: a server echoes what it accepts. The client's
    own key (``with_key``) stays there.
    """
    kept = []
    for name, value in upstream_headers(headers, with_key=with_key):
        if name == "Sec-Websocket-Extensions":
            continue
        if name == "Sec-Websocket-Protocol" and not with_key:
            value = ", ".join(item for item in _items(value) if not _token_in(item))
            if not value:
                continue
        kept.append((name, value))
    return [*kept, ("Connection", "Upgrade"), ("Upgrade", "websocket")]


def token_in_protocols(sec_websocket_protocol: str) -> str | None:
    """The access token among the subprotocols: all that a browser can send one in."""
    found = (_token_in(item) for item in _items(sec_websocket_protocol))
    return next(filter(None, found), None)


def _token_in(item: str) -> str | None:
    return item.removeprefix(_TOKEN_PROTOCOL) if item.startswith(_TOKEN_PROTOCOL) else None


def _items(value: str) -> list[str]:
    return [item.strip() for item in value.split(",")]


def downstream_headers(headers: Sequence[tuple[str, str]]) -> Headers:
    """The upstream's lines → lines for the client: order, case and duplicates as they came."""
    named = _named_by_connection(headers)
    return [
        item
        for item in headers
        if _goes_downstream(item[0]) and (not named or item[0].upper() not in named)
    ]


def without_origin(headers: Sequence[tuple[str, str]]) -> Headers:
    """``headers`` of a 101 without what the upstream says of its own origin."""
    return [line for line in headers if line[0].upper() not in _OF_THE_ORIGIN]


def unbuffered(headers: Headers) -> Headers:
    """Of an event stream: nginx in front would hold its events back until a buffer is full."""
    name = _UNBUFFERED[0].lower()
    return [*(line for line in headers if line[0].lower() != name), _UNBUFFERED]


def content_of(headers: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Content type and encoding of an answer, ``""`` where it does not say."""
    content_type = content_encoding = ""
    for name, value in headers:
        if len(name) in {12, 16}:  # it spares most copies
            lower_name = name.lower()
            if lower_name == "content-type":
                content_type = value
            elif lower_name == "content-encoding":
                content_encoding = value
    return content_type, content_encoding


def is_plain(content_encoding: str) -> bool:
    """Whether such a body's bytes are its content."""
    return content_encoding.strip().lower() in ("", "identity")


def is_sized(headers: Headers) -> bool:
    """Whether the length of the body is announced."""
    return any(name.lower() == "content-length" for name, _ in headers)


def without_length(headers: Headers) -> Headers:
    """Of an answer that goes out shorter than it came; the server then chunks it."""
    return [line for line in headers if line[0].lower() != "content-length"]


def metered(accept_encoding: str) -> str:
    """``Accept-Encoding`` without what we cannot decode for metering; never wider than it was.

    ``identity`` when nothing is left, since an absent line would allow everything
    (RFC 9110 §12.5.3).
    """
    kept = [
        item.strip()
        for item in accept_encoding.split(",")
        if item.partition(";")[0].strip().lower() in _METERED_ENCODINGS
    ]
    return ", ".join(kept) or "identity"


# Names repeat, so what becomes of one is worked out once.


@lru_cache(maxsize=1024)
def _upstream_name(name: str) -> str:
    """``X-REQUEST-ID`` → ``X-Request-Id``, ``""`` for what stays here. The case on the client's
    wire is not known to us."""
    if name in _NOT_UPSTREAM or is_private(name):
        return ""
    return name.title()


def _upstream_name_with_key(name: str) -> str:
    return "Authorization" if name == "AUTHORIZATION" else _upstream_name(name)


@lru_cache(maxsize=1024)
def _goes_downstream(name: str) -> bool:
    return name.upper() not in _NOT_DOWNSTREAM


def _named_by_connection(headers: Sequence[tuple[str, str]]) -> frozenset[str]:
    """What the ``Connection`` lines list beside what never passes, upper case."""
    # The length spares the copy.
    lines = [value for name, value in headers if len(name) == 10 and name.upper() == "CONNECTION"]
    named = frozenset([item.strip().upper() for value in lines for item in value.split(",")])
    return named - _HOP_BY_HOP  # mostly nothing is left, and no name need be looked for in it
