"""A request's head, composed of lines that gunicorn's parser has accepted before.

Clients repeat themselves: of fifteen header lines, all but one or two are the same every time. So
an accepted line is cached with its parsed form, and most heads cost one look-up per line.

Invariant: only gunicorn's parser accepts. A line that is not cached goes to that parser by itself.
A head that is unusual as a whole goes to it unchanged, and it alone decides: a head that did not
arrive in one piece, or that has a bare line feed, a folded line, too many lines, an `Expect`, or
two lines of a header that must be unique.
"""

from typing import Any, Final

import gevent
from gunicorn.http import errors as http_errors
from gunicorn.http.body import ChunkedReader, LengthReader
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader

from proxy.core.errors import ClientError
from proxy.server.chunked_body import Chunks
from proxy.server.connections import ClientBytes
from proxy.server.head_checks import check_host, check_name, check_target, origin_form
from proxy.server.request_body import ArrivingBody

#: Lines cached by a worker and by a connection; longer lines are not cached.
_MAX_LINES: Final = 4096
_MAX_OWN_LINES: Final = 12
_MAX_LINE_BYTES: Final = 256
#: Headers that a worker may cache. The values of all others may be secrets: they are kept only as
#: long as the connection that sent them.
_PUBLIC: Final = frozenset(
    {
        "ACCEPT",
        "ACCEPT-ENCODING",
        "ACCEPT-LANGUAGE",
        "CONNECTION",
        "CONTENT-LENGTH",
        "CONTENT-TYPE",
        "HOST",
        "OPENAI-BETA",
        "ORIGIN",
        "TRANSFER-ENCODING",
        "USER-AGENT",
    }
)
_PUBLIC_PREFIX: Final = "X-STAINLESS-"

Line = tuple[str, str]


class NeedsFullParse(Exception):
    """gunicorn's parser must parse the head as a whole."""


class HeaderLineCache:
    """One per worker. `parser` is a configured class of gunicorn's requests."""

    def __init__(self, parser: type[Any]) -> None:
        self._parser = parser
        # Raw request lines and header lines → their parts. Emptied when full.
        self._firsts: dict[bytes, tuple[Any, ...]] = {}
        self.fields: dict[bytes, Line] = {}

    def first(self, line: bytes) -> tuple[Any, ...]:
        """Parse a request line: method, target, path, query, fragment, version."""
        parts = self._firsts.get(line)
        if parts is not None:
            return parts
        parser = self._new_parser()
        if len(line) > parser.limit_request_line > 0:
            raise NeedsFullParse
        parser.parse_request_line(line)
        parts = (
            parser.method,
            parser.uri,
            parser.path,
            parser.query,
            parser.fragment,
            parser.version,
        )
        if len(line) <= _MAX_LINE_BYTES and parser.uri == parser.path:  # no query, user or fragment
            if len(self._firsts) >= _MAX_LINES:
                self._firsts.clear()
            self._firsts[line] = parts
        return parts

    def field(self, line: bytes, own: dict[bytes, Line]) -> Line:
        """Parse a header line that is not cached: its name in upper case, and its value.

        `own` has the lines that are cached for this connection alone.
        """
        pairs = self._new_parser().parse_headers(line)
        if len(pairs) != 1 or pairs[0][0] == "EXPECT":
            raise NeedsFullParse
        pair: Line = pairs[0]
        if len(line) <= _MAX_LINE_BYTES:
            public = pair[0] in _PUBLIC or pair[0].startswith(_PUBLIC_PREFIX)
            memory, max_lines = (self.fields, _MAX_LINES) if public else (own, _MAX_OWN_LINES)
            if len(memory) >= max_lines:
                memory.clear()
            memory[line] = pair
        return pair

    def _new_parser(self) -> Any:
        parser: Any = object.__new__(self._parser)
        parser.peer_addr = ("", 0)
        parser.version = (1, 1)
        return parser


#: Maximum size of a head. gunicorn alone would allow fields times field size, 3 MB.
_MAX_HEAD_BYTES: Final = 128 * 1024
#: Headers whose repetition gunicorn's parser decides about.
_ONCE: Final = ("HOST", "CONTENT-TYPE", "CONTENT-LENGTH", "TRANSFER-ENCODING")


class RequestHead(Request):  # type: ignore[misc]
    """One request of gunicorn's, with its head read and its body still to come.

    `by_name` has the first value of each header, names in upper case; `single` is true if no name
    occurs twice. Made by `ConnectionParser`. What all requests of a worker share is in the class,
    see `head_class`.
    """

    known: HeaderLineCache
    body: Any
    scheme = "http"
    must_close = False
    _expected_100_continue = False
    _use_fast = False

    def __init__(self, connection: "ConnectionParser", timeout: float) -> None:
        """Wait up to `timeout` seconds for a head that did not arrive in one piece.

        Raises StopIteration when the client has closed, gunicorn's parse errors, and ClientError
        408.
        """
        # The base class's would read the configuration again, attribute by attribute.
        self.unreader = unreader = connection.unreader
        self.peer_addr = self.remote_addr = connection.source_addr
        self.req_number = connection.req_count
        self.trailers: list[Line] = []
        self.proxy_protocol_info: dict[str, Any] = {}
        data = unreader.read()
        if not data:
            raise StopIteration
        try:
            self._parse_cached(data, connection.own)
        except (NeedsFullParse, http_errors.ParseException):
            unreader.unread(data)
            with gevent.Timeout(timeout, ClientError(code="request_timeout")):
                self._parse_fully()

    def _parse_cached(self, data: bytes, own: dict[bytes, Line]) -> None:
        """Compose a head that arrived whole from cached lines."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            raise NeedsFullParse
        first, *lines = data[:end].split(b"\r\n")
        if len(lines) > self.limit_request_fields or data.count(b"\n", 0, end) != len(lines):
            raise NeedsFullParse
        known = self.known
        self.method, self.uri, self.path, self.query, self.fragment, self.version = known.first(
            first
        )
        pairs, ask = known.fields, known.field
        self.headers: list[Line] = [
            pairs.get(line) or own.get(line) or ask(line, own) for line in lines
        ]
        self.by_name = by_name = dict(reversed(self.headers))
        self.single = len(by_name) == len(lines)
        if not self.single:
            names = [name for name, _ in self.headers]
            if any(names.count(name) > 1 for name in _ONCE):
                raise NeedsFullParse
        if self.uri[0] != "/" or "HOST" not in by_name:
            self._check_whole()
        if "TRANSFER-ENCODING" in by_name:
            self.set_body_reader()
            self._check_coding()
            reader: Any = self.body.reader
        else:
            reader = LengthReader(self.unreader, _length(by_name.get("CONTENT-LENGTH")))
        if len(data) > end + 4:
            self.unreader.unread(data[end + 4 :])
        self.body = ArrivingBody(self, reader)

    def _parse_fully(self) -> None:
        """Let gunicorn's parser read everything."""
        self.headers = []
        self.unreader.unread(self.parse(self.unreader))
        self.by_name = dict(reversed(self.headers))
        self.single = len(self.by_name) == len(self.headers)
        self._check_whole()
        self.set_body_reader()
        self._check_coding()
        self.body = ArrivingBody(self, self.body.reader)
        self.proxy_protocol_info = self.proxy_protocol_info or {}

    # Called once for each new line.

    def parse_request_line(self, line: bytes) -> None:
        """As gunicorn's. Raises ClientError, too."""
        super().parse_request_line(line)
        check_target(self.uri)

    def _apply_header_policy(self, name: str, value: str, *args: Any, **more: Any) -> Line | None:
        """As gunicorn's, which would refuse every name with an underscore."""
        if "_" in name:
            check_name(name)
            return name, value
        if name == "HOST":
            check_host(value)
        pair: Line | None = super()._apply_header_policy(name, value, *args, **more)
        return pair

    def _check_whole(self) -> None:
        """Check what no single line shows. An absolute-form target becomes origin-form."""
        host = self.by_name.get("HOST")
        if host is None and self.version >= (1, 1):
            raise ClientError("An HTTP/1.1 request needs a `Host` header.")  # RFC 9112 §3.2
        if self.uri[0] != "/":
            self.uri = origin_form(self.uri, host, self.unreader)
            self.path = self.path or "/"

    def set_body_reader(self) -> None:
        """As gunicorn's, but the framing of a chunked body is bounded."""
        super().set_body_reader()
        if isinstance(self.body.reader, ChunkedReader):
            self.body.reader = Chunks(self, self.unreader)

    def _check_coding(self) -> None:
        """Refuse codings besides `chunked`.

        gunicorn accepts `gzip, chunked` and decodes only the chunks: the coded bytes would be
        relayed as if they were the body.
        """
        if any(
            name == "TRANSFER-ENCODING" and value.lower() != "chunked"
            for name, value in self.headers
        ):
            raise http_errors.UnsupportedTransferCoding("not chunked alone")

    def should_close(self) -> bool:
        """As gunicorn's, without reading all lines."""
        if self.must_close or self.method == "CONNECT":
            return True
        connection = self.by_name.get("CONNECTION")
        if connection is None:
            return bool(self.version <= (1, 0))
        if connection == "keep-alive" and self.single:
            return False
        # The whole list, where gunicorn's looks for only these two (RFC 9112 §9.6).
        listed = ",".join([value for name, value in self.headers if name == "CONNECTION"])
        options = {item.strip() for item in listed.lower().split(",")}
        if "close" in options or "keep-alive" in options:
            return "close" in options
        return bool(self.version <= (1, 0))


def head_class(cfg: Any) -> type[RequestHead]:
    """`RequestHead` for a worker with gunicorn's configuration `cfg`."""
    limits = Request.__new__(Request)
    limits.parse = lambda unreader: b""  # only what the constructor reads of the configuration
    limits.set_body_reader = lambda: None
    Request.__init__(limits, cfg, SocketUnreader(None), ("", 0))
    shared = {
        "cfg": cfg,
        "limit_request_line": limits.limit_request_line,
        "limit_request_fields": limits.limit_request_fields,
        "limit_request_field_size": limits.limit_request_field_size,
        "max_buffer_headers": min(limits.max_buffer_headers, _MAX_HEAD_BYTES),
    }
    kind: type[RequestHead] = type("ConfiguredHead", (RequestHead,), shared)
    kind.known = HeaderLineCache(kind)
    return kind


class ConnectionParser(RequestParser):  # type: ignore[misc]
    """Parses the requests of one connection, one after the other."""

    mesg: RequestHead | None

    def __init__(
        self, kind: type[RequestHead], client: Any, peer: Any, min_body_rate: float = 0.0
    ) -> None:
        # The base class's is not called: `kind` makes the parser.
        self._kind = kind
        self.unreader = ClientBytes(client, min_body_rate)
        self.mesg = None
        self.source_addr = peer
        self.req_count = 0
        #: Header lines cached for this connection alone.
        self.own: dict[bytes, Line] = {}

    def reset(self) -> None:
        """Release the last request, which is finished: it and its body refer to each other."""
        if self.mesg is not None:
            self.mesg.body = None
            self.mesg = None

    @property
    def pipelined(self) -> bool:
        """Whether bytes of the next request have arrived already."""
        return bool(self.unreader.buf.tell())

    def parse_next(self, timeout: float) -> RequestHead:
        """Parse the next request; the one before must be finished. Raises as `RequestHead` does."""
        self.req_count += 1
        self.unreader.credit = None
        self.mesg = self._kind(self, timeout)
        return self.mesg


def _length(value: str | None) -> int:
    if value is None:
        return 0
    if len(value) > 18 or not (value.isascii() and value.isdigit()):
        raise NeedsFullParse
    return int(value)
