"""A request on ``/v1`` as it came in: facts, header lines, and a body that is read at most once.

Note: the WSGI environ joins duplicate header lines with commas (``Cookie`` too) and decodes the
path. So the server's worker hands the parsed lines over on ``wsgi.input``, and the target is taken
from ``RAW_URI`` as it stands.
"""

import os
import re
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import unquote

from proxy.core.errors import ClientError
from proxy.logs import sanitizer
from proxy.policy.addresses import usual_spelling
from proxy.runtime.yielding import joined
from proxy.upstream.headers import token_in_protocols

Headers = list[tuple[str, str]]

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_READ_BYTES: Final = 64 * 1024
#: A body that comes in many small pieces is put together meanwhile: each of them takes some 50
#: bytes of memory beside its own.
_SMALL_BYTES: Final = 1024
_SMALL_PIECES: Final = 64
#: Copying more takes several milliseconds.
_MAX_PLAIN_JOIN_BYTES: Final = 4 * 1024 * 1024
#: The first segment below `/v1` that is ours. With what may follow it in a longer name, it is
#: another one; with anything else, some server takes it for this one.
_RESERVED: Final = re.compile(r"proxy(?![\w~.-])", re.ASCII)
#: How often an escape may have been escaped.
_MAX_DECODINGS: Final = 4
_BLANKS: Final = "".join(map(chr, range(0x21)))
#: More than any address with a zone and a port.
_MAX_ADDRESS_CHARS: Final = 100
_IN_ADDRESSES: Final = "0123456789abcdefABCDEF.:"


class ClientRequest:
    """One request. ``target`` is path and query, raw; header names are in upper case."""

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
        # First value of each; what must not come twice is refused by the server's parser.
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
        """The address that connected, spelled as :attr:`client_ip` is."""
        return usual_spelling(self._environ.get("REMOTE_ADDR", ""))

    @property
    def upgrades(self) -> bool:
        """Whether this is a WebSocket's opening handshake (RFC 6455 §4.2.1). HTTP/1.0 has none."""
        wanted = self._by_name.get("UPGRADE")
        if wanted is None or wanted.lower() != "websocket" or self.method != "GET":
            return False
        if self._environ.get("SERVER_PROTOCOL") == "HTTP/1.0":  # RFC 9110 §7.8
            return False
        return "upgrade" in self._by_name.get("CONNECTION", "").lower()

    @property
    def authorization(self) -> str | None:
        """Of a browser's WebSocket, which cannot send the header: from its subprotocols."""
        given = self._by_name.get("AUTHORIZATION")
        if given is None and self.upgrades:
            token = token_in_protocols(self._by_name.get("SEC-WEBSOCKET-PROTOCOL", ""))
            return token and f"Bearer {token}"
        return given

    def take_buffered(self) -> bytes:
        """What the client has sent behind this request's head, for a tunnel."""
        take = getattr(self._source, "take_buffered", None)
        return b"" if take is None else bytes(take())

    def discard_body(self) -> None:
        """What is unread of the body stays unread.

        The server then closes the connection after this response, and says so in its head, unless
        the rest is small enough to be skipped.
        """
        abandon = getattr(self._source, "abandon", None)
        if abandon is not None and not self.body.finished:
            abandon()


class ClientRequestBody:
    """The request's body, by the piece or whole; counts what it has read."""

    # Defaults instead of assignments in `__init__`, since a body is made for every request.
    received = 0
    #: Bytes that are held of it.
    held = 0
    #: Called once when it becomes finished.
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
        """Whether the request has a body, be it an empty one with its length given as 0."""
        return self.chunked or self.length is not None

    @property
    def arrived(self) -> bool:
        """Whether all of it is here, so that reading it would not wait. False where unknown."""
        return bool(getattr(self._source, "arrived", False))

    def check_length(self, limit: int) -> None:
        """Refuse by the announced length, before a byte is read. Raises ClientError 413."""
        self._limit = limit
        if self.length is not None and self.length > limit:
            raise _too_large(limit)

    def read_all(self, limit: int) -> bytes:
        """The whole body. Raises ClientError: 413 over ``limit`` bytes, 400 truncated, 408 slow."""
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
        """Pieces as they arrive, none empty. Raises as :meth:`read_all`."""
        while not self.finished:
            piece = self._read_piece()
            self.received += len(piece)
            if self.received > self._limit:
                raise _too_large(self._limit)
            if not piece and self.length is not None:
                # Our server has raised this already; others end the body without a word.
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
    """The client's ``X-Request-ID`` when it is a sane token and no secret, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given) and sanitizer.clean(given) == given:
        return given
    return os.urandom(16).hex()


def client_address(headers: Headers, environ: dict[str, Any], trusted_proxies: int) -> str:
    """The address that connected, or the one that the last ``trusted_proxies`` proxies report.

    Each of them appended one address to ``X-Forwarded-For``; what stands further left was written
    by the client and proves nothing. IPv4 in IPv6 is written as IPv4, so that rules, limits and
    events see one address.
    """
    peer: str = environ.get("REMOTE_ADDR", "")
    if not trusted_proxies:
        return usual_spelling(peer) if ":" in peer else peer
    said = [
        item.strip()
        for name, value in headers
        if name == "X-FORWARDED-FOR"
        for item in value.split(",")
    ]
    chain = [*said, peer]
    address = chain[max(0, len(chain) - 1 - trusted_proxies)]
    if address.strip(_IN_ADDRESSES):
        # The number of proxies may be wrong, and these be the client's own words.
        address = sanitizer.clean(address)
    return usual_spelling(address[:_MAX_ADDRESS_CHARS])


def client_of(environ: dict[str, Any], trusted_proxies: int) -> str:
    """:func:`client_address` of a request that is no :class:`ClientRequest`."""
    lines = getattr(environ["wsgi.input"], "header_lines", None)
    headers = _header_lines(environ) if lines is None else lines
    return client_address(headers, environ, trusted_proxies)


def check_path(path: str) -> None:
    """Only ``/v1/…``, and no dot segments: what ``..`` means is decided where it is resolved.
    Nothing that anybody could take for ``/v1/proxy/…``, which is ours.

    Raises ClientError. ``%2F`` and ``//`` are the upstream's to understand and pass as they are.
    """
    if not path.startswith("/v1/"):
        raise ClientError(code="endpoint_not_found")
    if ("%" in path or "proxy" in path.lower()) and _is_reserved(path):
        raise ClientError("Below `/v1/proxy` nothing is relayed.", code="endpoint_not_found")
    if "." in path or "%" in path:
        for segment in unquote(path, "latin-1").replace("\\", "/").split("/"):
            # Servlet containers cut off `;…` before they resolve: `..;` is a `..` to them.
            if segment.partition(";")[0] in (".", ".."):
                raise ClientError("The path must not contain `.` or `..` segments.")


def _is_reserved(path: str) -> bool:
    """Whether any reading of the path lies below ``/v1/proxy``."""
    for _ in range(_MAX_DECODINGS):
        found: list[str] = []
        for segment in path.lower().replace("\\", "/").split("/"):
            name = segment.strip(_BLANKS)
            plain = name.partition(";")[0]
            if plain == "..":
                del found[-1:]
            elif plain not in ("", "."):
                found.append(name)
        if len(found) > 1 and _RESERVED.match(found[1]):
            return True
        decoded = unquote(path, "latin-1")
        if decoded == path:
            return False
        path = decoded
    return False


def _header_lines(environ: dict[str, Any]) -> Headers:
    """For servers other than ours (Flask's test client): the best the environ can tell."""
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
