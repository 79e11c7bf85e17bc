"""Checks of a request head beyond gunicorn's parser: header names, `Host`, the target.

Each raises ClientError with a message that names what is wrong. Nothing that the client wrote is
quoted, except a header name out of the proxy's own table.
"""

import re
from typing import Any, Final

from proxy.core.errors import ClientError
from proxy.upstream.headers import goes_upstream

#: RFC 3986 §3.2.2, without the comma, which would make a list of hosts. An IPv6 address stands in
#: brackets, with its zone (RFC 6874).
_HOST: Final = re.compile(
    r"(?:[A-Za-z0-9._~!$&'()*+;=%-]*|\[[0-9A-Za-z:.%_~-]+\])(?::(?P<port>[0-9]{0,5}))?", re.ASCII
)
_ABSOLUTE: Final = re.compile(
    r"(?P<scheme>https?)://(?P<authority>[^/?]*)(?P<rest>.*)", re.ASCII | re.IGNORECASE
)
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
#: Header names that the server or a policy rule reads, besides those that never go upstream. An
#: upstream behind CGI or WSGI reads `Accept_Encoding` as `Accept-Encoding`.
_READ: Final = frozenset(
    {
        "ACCEPT-ENCODING",
        "API-KEY",
        "CONTENT-ENCODING",
        "CONTENT-TYPE",
        "MAX-FORWARDS",
        "X-API-KEY",
        "X-GOOG-API-KEY",
        "X-HTTP-METHOD",
        "X-HTTP-METHOD-OVERRIDE",
        "X-METHOD-OVERRIDE",
        "X-ORIGINAL-URL",
        "X-REWRITE-URL",
    }
)
_READ_PREFIX: Final = "SEC-WEBSOCKET-"


def check_name(name: str) -> None:
    """Check `name`, a header name in upper case with at least one `_`.

    Such a name is legal (RFC 9110 §5.6.2). Raises ClientError when it can be taken for a name that
    decides about framing, credentials, the client's address or the body.
    """
    twin = name.replace("_", "-")
    if not goes_upstream(twin) or twin in _READ or twin.startswith(_READ_PREFIX):
        raise ClientError(
            f"The header name `{name.lower()}` can be taken for `{twin.title()}`, which the proxy"
            " reads: send it with hyphens, or not at all."
        )


def check_host(value: str) -> None:
    """Check for one host, with an optional port (RFC 9110 §7.2). Empty is allowed.

    Raises ClientError.
    """
    match = _HOST.fullmatch(value)
    if match is None or int(match["port"] or 0) > 65535:
        raise ClientError("The `Host` header must hold one host name or address, and its port.")


def check_target(target: str) -> None:
    """Raises ClientError for a fragment, which is the client's own (RFC 9110 §7.1)."""
    if "#" in target:
        raise ClientError("The request target must not contain a fragment (`#`).")


def origin_form(target: str, host: str | None, unreader: Any) -> str:
    """Path and query of an absolute-form target that names this server (RFC 9112 §3.2.2).

    `host` is the value of `Host`, `unreader` reads the client's connection. The target names this
    server when its authority is that of `Host` or the address that the client connected to.
    Asterisk-form and authority-form are returned unchanged.

    Raises ClientError for an invalid authority, and for the authority of another server: the proxy
    is no forward proxy.
    """
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        return target
    scheme, authority, rest = match["scheme"].lower(), match["authority"], match["rest"]
    check_host(authority)
    requested = _normal(authority, scheme)
    own = {_normal(host, scheme)} if host else set()
    name = _local_name(unreader)
    if name:
        own.add(_normal(name, scheme))
    if not authority or requested not in own:
        raise ClientError(
            "The request target names another server: this one relays only its own paths, such as"
            " `/v1/models`, and is no forward proxy."
        )
    return rest if rest.startswith("/") else "/" + rest


def _normal(authority: str, scheme: str) -> str:
    """`Host:80` → `host:80`; without a port, the default port of the scheme."""
    name, _, port = authority.rpartition(":")
    if not name or "]" in port:
        name, port = authority, ""
    return f"{name.lower()}:{port or _DEFAULT_PORTS[scheme]}"


def _local_name(unreader: Any) -> str:
    """Address and port of this end of the connection, as a client writes them in a URL."""
    try:
        address = unreader.sock.getsockname()
    except (AttributeError, OSError):
        return ""
    if not isinstance(address, tuple):
        return ""
    host, port = address[:2]
    host = host.removeprefix("::ffff:")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
