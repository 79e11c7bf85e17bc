"""A request on ``/v1`` as the client sent it: target, header lines, and a body to read once.

Note: the WSGI environ joins duplicate header lines with commas (``Cookie`` too) and decodes the
path. So the server's worker passes the parsed lines on ``wsgi.input``, and the target is taken from
``RAW_URI`` unchanged.
"""

import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final
from urllib.parse import unquote

from proxy.core.errors import ClientError
from proxy.core.escapes import MAX_DECODINGS, readings
from proxy.gateway import credentials
from proxy.logs import sanitizer
from proxy.policy.addresses import usual_spelling
from proxy.runtime.yielding import joined
from proxy.upstream.headers import token_in_protocols

Headers = list[tuple[str, str]]

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_READ_BYTES: Final = 64 * 1024
#: Pieces of less than `_SMALL_BYTES` are joined whenever there are so many, since each piece takes
#: some 50 bytes of memory beside its own.
_SMALL_BYTES: Final = 1024
_SMALL_PIECES: Final = 64
#: A larger body is joined in turns with other greenlets: copying it takes several milliseconds.
_MAX_PLAIN_JOIN_BYTES: Final = 4 * 1024 * 1024
#: The first segment below `/v1` that is the proxy's own. Followed by a character of a name it is
#: another segment; followed by anything else, some server reads it as this one.
_RESERVED: Final = re.compile(r"proxy(?![\w~.-])", re.ASCII)
_BLANKS: Final = "".join(map(chr, range(0x21)))
#: Longer than any address with a zone and a port.
_MAX_ADDRESS_CHARS: Final = 100
_IN_ADDRESSES: Final = "0123456789abcdefABCDEF.:"
_CREDENTIALS: Final = credentials.HEADERS
_TWO_TOKENS: Final = (
    "The request has two different access tokens. Send one, in `Authorization: Bearer`,"
    " `x-api-key`, `api-key`, `x-goog-api-key` or `?key=`."
)


class ClientRequest:
    """One request. ``target`` is path and query, raw. Header names are in upper case."""

    __slots__ = (
        "_by_name",
        "_environ",
        "_source",
        "body",
        "client_ip",
        "headers",
        "method",
        "path",
        "request_id",
        "target",
    )

    def __init__(self, environ: dict[str, Any], trusted_proxies: int) -> None:
        self._environ = environ
        self._source = environ["wsgi.input"]
        self.method: str = environ["REQUEST_METHOD"]
        self.target: str = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
        self.path = self.target.partition("?")[0]
        lines = getattr(self._source, "header_lines", None)
        self.headers: Headers = _header_lines(environ) if lines is None else lines
        # The first value of each header. The server's parser refuses those that must not repeat.
        known = getattr(self._source, "first_values", None)
        self._by_name: dict[str, str] = dict(reversed(self.headers)) if known is None else known
        self.request_id = request_id(self._by_name.get("X-REQUEST-ID"))
        self.client_ip = client_address(self.headers, environ, trusted_proxies)
        self.body = ClientRequestBody(
            self._source,
            length=_content_length(self._by_name.get("CONTENT-LENGTH")),
            chunked="TRANSFER-ENCODING" in self._by_name,
        )

    def header(self, upper_name: str) -> str | None:
        return self._by_name.get(upper_name)

    @property
    def peer(self) -> str:
        """The address that connected, in the spelling of :attr:`client_ip`."""
        return usual_spelling(self._environ.get("REMOTE_ADDR", ""))

    @property
    def upgrades(self) -> bool:
        """Whether this is a WebSocket's opening handshake (RFC 6455 §4.2.1), never in HTTP/1.0."""
        wanted = self._by_name.get("UPGRADE")
        if wanted is None or wanted.lower() != "websocket" or self.method != "GET":
            return False
        if self._environ.get("SERVER_PROTOCOL") == "HTTP/1.0":  # RFC 9110 §7.8
            return False
        return "upgrade" in self._by_name.get("CONNECTION", "").lower()

    @property
    def authorization(self) -> str | None:
        """The header, or the token in the subprotocols of a browser's WebSocket, which has none."""
        given = self._by_name.get("AUTHORIZATION")
        if given is None and self.upgrades:
            token = token_in_protocols(self._by_name.get("SEC-WEBSOCKET-PROTOCOL", ""))
            return token and f"Bearer {token}"
        return given

    def take_access_token(self) -> str | None:
        """Return the `Authorization` of the access token, which may stand in several places.

        Removes the token from the header lines and the query, so that it cannot go upstream. The
        line `Authorization` stays. Without an access token, :attr:`authorization` is returned.

        Raises ClientError for two access tokens that differ.
        """
        first = self._by_name
        if (
            self.path == self.target
            and _CREDENTIALS.isdisjoint(first)
            and len(first) == len(self.headers)
        ):
            return first.get("AUTHORIZATION")
        return self._take_from_anywhere()

    def _take_from_anywhere(self) -> str | None:
        query = self.target[len(self.path) + 1 :]
        found = credentials.tokens_in_headers(self.headers, upgrades=self.upgrades)
        found |= credentials.tokens_in_query(query)
        if not found:
            return self.authorization
        if len(found) > 1:
            raise ClientError(_TWO_TOKENS)
        token = found.pop()
        if not _CREDENTIALS.isdisjoint(self._by_name):
            self.headers = credentials.headers_without_tokens(self.headers)
            self._by_name = dict(reversed(self.headers))
        if query:
            rest = credentials.query_without_token(query, token)
            self.target = f"{self.path}?{rest}" if rest else self.path
        return f"Bearer {token}"

    def take_buffered(self) -> bytes:
        """Return what the client has sent behind the head of this request, for a tunnel."""
        take = getattr(self._source, "take_buffered", None)
        return b"" if take is None else bytes(take())

    def discard_body(self) -> None:
        """Leave the rest of the body unread.

        The server then closes the connection after this response and announces that in its head,
        unless the rest is small enough to be skipped.
        """
        abandon = getattr(self._source, "abandon", None)
        if abandon is not None and not self.body.finished:
            abandon()


class ClientRequestBody:
    """The body of a request, read in pieces or whole. Counts the bytes that it has read."""

    # Defaults instead of assignments in `__init__`, since a body is made for every request.
    received = 0
    #: Bytes of it that are held in memory.
    held = 0
    #: Called once, when the last byte has been read.
    on_finished: Callable[[], None] = staticmethod(lambda: None)
    _limit = 0

    def __init__(self, source: Any, *, length: int | None, chunked: bool) -> None:
        self._source = source
        self.length = length
        self.chunked = chunked
        #: True once the last byte has been read (at once, when there is no body).
        self.finished = not chunked and not length

    @property
    def exists(self) -> bool:
        """Whether the request has a body, including an empty one with a length of 0."""
        return self.chunked or self.length is not None

    @property
    def arrived(self) -> bool:
        """Whether the whole body is here, so that reading it does not wait. False if unknown."""
        return bool(getattr(self._source, "arrived", False))

    def check_length(self, limit: int) -> None:
        """Check the announced length, before a byte is read. Raises ClientError 413."""
        self._limit = limit
        if self.length is not None and self.length > limit:
            raise _too_large(limit)

    def read_all(self, limit: int) -> bytes:
        """Return the whole body. Raises ClientError: 413 too large, 400 truncated, 408 too slow."""
        self.check_length(limit)
        pieces: list[bytes] = []
        small = 0
        for piece in self:
            pieces.append(piece)
            small = small + 1 if len(piece) < _SMALL_BYTES else 0
            if small == _SMALL_PIECES:
                pieces[-_SMALL_PIECES:] = [b"".join(pieces[-_SMALL_PIECES:])]
                small = 0
        if self.received > _MAX_PLAIN_JOIN_BYTES:
            return joined(pieces)
        return b"".join(pieces)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the pieces as they arrive, none of them empty. Raises as :meth:`read_all`."""
        while not self.finished:
            piece = self._read_piece()
            self.received += len(piece)
            if self.received > self._limit:
                raise _too_large(self._limit)
            if not piece and self.length is not None:
                # The project's own server has raised this already; others only end the body.
                raise ClientError("The request body ended before it was complete.")
            if not piece or self.received == self.length:
                self.finished = True
                self.on_finished()
            if piece:
                yield piece

    def _read_piece(self) -> bytes:
        read_arrived = getattr(self._source, "read_arrived", None)
        piece: bytes = (
            self._source.read(_READ_BYTES) if read_arrived is None else read_arrived(_READ_BYTES)
        )
        return piece


def request_id(given: str | None) -> str:
    """Return the client's ``X-Request-ID`` if it is well-formed and no secret, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given) and sanitizer.clean(given) == given:
        return given
    return os.urandom(16).hex()


def client_address(headers: Headers, environ: dict[str, Any], trusted_proxies: int) -> str:
    """Return the address that connected, or the one that the ``trusted_proxies`` report.

    Each of these proxies appends one address to ``X-Forwarded-For``. What is further left comes
    from the client and proves nothing. IPv4 in IPv6 is written as IPv4, so that rules, limits and
    events see one address.
    """
    peer: str = environ.get("REMOTE_ADDR", "")
    if not trusted_proxies:
        return usual_spelling(peer) if ":" in peer else peer
    forwarded = [
        item.strip()
        for name, value in headers
        if name == "X-FORWARDED-FOR"
        for item in value.split(",")
    ]
    chain = [*forwarded, peer]
    address = chain[max(0, len(chain) - 1 - trusted_proxies)]
    if address.strip(_IN_ADDRESSES):
        # The number of proxies may be wrong, and then this text comes from the client.
        address = sanitizer.clean(address)
    return usual_spelling(address[:_MAX_ADDRESS_CHARS])


def client_of(environ: dict[str, Any], trusted_proxies: int) -> str:
    """Return :func:`client_address` for a request that is no :class:`ClientRequest`."""
    lines = getattr(environ["wsgi.input"], "header_lines", None)
    headers = _header_lines(environ) if lines is None else lines
    return client_address(headers, environ, trusted_proxies)


def check_path(path: str) -> None:
    """Accept paths below ``/v1/`` without dot segments, since servers differ in resolving those.

    Nothing is accepted that a server may read as ``/v1/proxy/…``, which is the proxy's own. ``%2F``
    and ``//`` pass unchanged: only the upstream knows what they mean. Raises ClientError.
    """
    if not path.startswith("/v1/"):
        raise ClientError(code="endpoint_not_found")
    if ("%" in path or "proxy" in path.lower()) and _is_reserved(path):
        raise ClientError("Below `/v1/proxy` nothing is relayed.", code="endpoint_not_found")
    if "." in path or "%" in path:
        for segment in unquote(path, "latin-1").replace("\\", "/").split("/"):
            # Servlet containers cut off `;…` before they resolve: they read `..;` as `..`.
            if segment.partition(";")[0] in (".", ".."):
                raise ClientError("The path must not contain `.` or `..` segments.")


def _is_reserved(path: str) -> bool:
    """Return whether any reading of the path is below ``/v1/proxy``."""
    for reading in islice(readings(path), MAX_DECODINGS):
        found: list[str] = []
        for segment in reading.lower().replace("\\", "/").split("/"):
            name = segment.strip(_BLANKS)
            plain = name.partition(";")[0]
            if plain == "..":
                del found[-1:]
            elif plain not in ("", "."):
                found.append(name)
        if len(found) > 1 and _RESERVED.match(found[1]):
            return True
    return False


def _header_lines(environ: dict[str, Any]) -> Headers:
    """Return the header lines as far as the environ has them, under a foreign server or a test."""
    lines = [
        (key[5:].replace("_", "-"), value) for key, value in environ.items() if key[:5] == "HTTP_"
    ]
    return lines + [
        (key.replace("_", "-"), environ[key])
        for key in ("CONTENT_TYPE", "CONTENT_LENGTH")
        if environ.get(key)
    ]


def _content_length(value: str | None) -> int | None:
    return int(value) if value else None


def _too_large(limit: int) -> ClientError:
    return ClientError(f"The request body is larger than {limit} bytes.", code="request_too_large")
