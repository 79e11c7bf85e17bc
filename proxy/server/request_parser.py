"""A request's head, put together of lines that gunicorn's parser has accepted before.

Clients repeat themselves: of fifteen header lines, all but one or two are the same every time. So
an accepted line is remembered with what it was parsed to, and most heads cost a look-up per line.

The thing to get wrong: nothing is accepted here. A line that is not remembered is given to
gunicorn's parser by itself; and a head that is unusual as a whole (it did not come in one piece, it
has a bare line feed, a folded line, too many lines, an ``Expect``, twice what must come once) goes
to that parser untouched, which decides alone.
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

#: Lines remembered, by a worker and by a connection; longer ones are not.
_LINES: Final = 4096
_OWN_LINES: Final = 12
_LONGEST_LINE: Final = 256
#: What a worker may remember. The values of all others may be secrets: they live as long as the
#: connection that sent them.
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
    """Left to gunicorn's parser as a whole."""


class HeaderLineCache:
    """One per worker. ``judge`` is a class of gunicorn's requests, configured."""

    def __init__(self, judge: type[Any]) -> None:
        self._judge = judge
        # Request lines and header lines as they came → their parts. Emptied when full.
        self._firsts: dict[bytes, tuple[Any, ...]] = {}
        self.fields: dict[bytes, Line] = {}

    def first(self, line: bytes) -> tuple[Any, ...]:
        """A request line: method, target, path, query, fragment, version."""
        parts = self._firsts.get(line)
        if parts is not None:
            return parts
        judge = self._new_judge()
        if len(line) > judge.limit_request_line > 0:
            raise NeedsFullParse
        judge.parse_request_line(line)
        parts = (judge.method, judge.uri, judge.path, judge.query, judge.fragment, judge.version)
        if len(line) <= _LONGEST_LINE and judge.uri == judge.path:  # no query, user or fragment
            if len(self._firsts) >= _LINES:
                self._firsts.clear()
            self._firsts[line] = parts
        return parts

    def field(self, line: bytes, own: dict[bytes, Line]) -> Line:
        """A header line that is not known yet: name in upper case, value; ``own`` is what is known
        of its connection alone."""
        pairs = self._new_judge().parse_headers(line)
        if len(pairs) != 1 or pairs[0][0] == "EXPECT":
            raise NeedsFullParse
        pair: Line = pairs[0]
        if len(line) <= _LONGEST_LINE:
            public = pair[0] in _PUBLIC or pair[0].startswith(_PUBLIC_PREFIX)
            memory, most = (self.fields, _LINES) if public else (own, _OWN_LINES)
            if len(memory) >= most:
                memory.clear()
            memory[line] = pair
        return pair

    def _new_judge(self) -> Any:
        judge: Any = object.__new__(self._judge)
        judge.peer_addr = ("", 0)
        judge.version = (1, 1)
        return judge


#: A head may have so many bytes; gunicorn alone would allow fields times field size, 3 MB.
_MAX_HEAD: Final = 128 * 1024
#: A second one of these is for gunicorn to judge.
_ONCE: Final = ("HOST", "CONTENT-TYPE", "CONTENT-LENGTH", "TRANSFER-ENCODING")


class RequestHead(Request):  # type: ignore[misc]
    """One request of gunicorn's, head read and body to come.

    ``by_name``: the first value of each header line, names in upper case; ``single``: whether no
    name comes twice. Made by :class:`ConnectionParser`; what all requests of a worker share is in
    the class, see :func:`head_class`.
    """

    known: HeaderLineCache
    body: Any
    scheme = "http"
    must_close = False
    _expected_100_continue = False
    _use_fast = False

    def __init__(self, heads: "ConnectionParser", timeout: float) -> None:
        """Waits up to ``timeout`` seconds for a head that did not come in one piece.

        Raises StopIteration when the client has closed, gunicorn's parse errors, and ClientError
        408.
        """
        # Not the base class's: it reads the configuration anew, attribute by attribute.
        self.unreader = unreader = heads.unreader
        self.peer_addr = self.remote_addr = heads.source_addr
        self.req_number = heads.req_count
        self.trailers: list[Line] = []
        self.proxy_protocol_info: dict[str, Any] = {}
        data = unreader.read()
        if not data:
            raise StopIteration
        try:
            self._take(data, heads.own)
        except (NeedsFullParse, http_errors.ParseException):
            unreader.unread(data)
            with gevent.Timeout(timeout, ClientError(code="request_timeout")):
                self._take_slowly()

    def _take(self, data: bytes, own: dict[bytes, Line]) -> None:
        """A head that has come whole, out of known lines."""
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

    def _take_slowly(self) -> None:
        """All by gunicorn's parser."""
        self.headers = []
        self.unreader.unread(self.parse(self.unreader))
        self.by_name = dict(reversed(self.headers))
        self.single = len(self.by_name) == len(self.headers)
        self._check_whole()
        self.set_body_reader()
        self._check_coding()
        self.body = ArrivingBody(self, self.body.reader)
        self.proxy_protocol_info = self.proxy_protocol_info or {}

    # Judged once for each line that is new.

    def parse_request_line(self, line: bytes) -> None:
        """As gunicorn's; raises ClientError too."""
        super().parse_request_line(line)
        check_target(self.uri)

    def _apply_header_policy(self, name: str, value: str, *args: Any, **more: Any) -> Line | None:
        """gunicorn's, which would refuse every name with an underscore."""
        if "_" in name:
            check_name(name)
            return name, value
        if name == "HOST":
            check_host(value)
        pair: Line | None = super()._apply_header_policy(name, value, *args, **more)
        return pair

    def _check_whole(self) -> None:
        """What no line shows by itself. An absolute-form target becomes origin-form."""
        host = self.by_name.get("HOST")
        if host is None and self.version >= (1, 1):
            raise ClientError("An HTTP/1.1 request needs a `Host` header.")  # RFC 9112 §3.2
        if self.uri[0] != "/":
            self.uri = origin_form(self.uri, host, self.unreader)
            self.path = self.path or "/"

    def set_body_reader(self) -> None:
        """As gunicorn's; a chunked body is bounded."""
        super().set_body_reader()
        if isinstance(self.body.reader, ChunkedReader):
            self.body.reader = Chunks(self, self.unreader)

    def _check_coding(self) -> None:
        """gunicorn takes `gzip, chunked` and undoes only the chunks: coded bytes would go on as if
        they were the body."""
        if any(
            name == "TRANSFER-ENCODING" and value.lower() != "chunked"
            for name, value in self.headers
        ):
            raise http_errors.UnsupportedTransferCoding("not chunked alone")

    def should_close(self) -> bool:
        """As gunicorn's, without going through all lines."""
        if self.must_close or self.method == "CONNECT":
            return True
        connection = self.by_name.get("CONNECTION")
        if connection is None:
            return bool(self.version <= (1, 0))
        if connection == "keep-alive" and self.single:
            return False
        # All of the list, where gunicorn's looks for these two alone (RFC 9112 §9.6).
        said = ",".join([value for name, value in self.headers if name == "CONNECTION"])
        options = {item.strip() for item in said.lower().split(",")}
        if "close" in options or "keep-alive" in options:
            return "close" in options
        return bool(self.version <= (1, 0))


def head_class(cfg: Any) -> type[RequestHead]:
    """:class:`RequestHead` for a worker with gunicorn's configuration ``cfg``."""
    limits = Request.__new__(Request)
    limits.parse = lambda unreader: b""  # only what the constructor reads of the configuration
    limits.set_body_reader = lambda: None
    Request.__init__(limits, cfg, SocketUnreader(None), ("", 0))
    shared = {
        "cfg": cfg,
        "limit_request_line": limits.limit_request_line,
        "limit_request_fields": limits.limit_request_fields,
        "limit_request_field_size": limits.limit_request_field_size,
        "max_buffer_headers": min(limits.max_buffer_headers, _MAX_HEAD),
    }
    kind: type[RequestHead] = type("ConfiguredHead", (RequestHead,), shared)
    kind.known = HeaderLineCache(kind)
    return kind


class ConnectionParser(RequestParser):  # type: ignore[misc]
    """The requests of one connection, one after the other."""

    mesg: RequestHead | None

    def __init__(
        self, kind: type[RequestHead], client: Any, peer: Any, min_body_rate: float = 0.0
    ) -> None:
        # Not the base class's: its parser is made by `kind`.
        self._kind = kind
        self.unreader = ClientBytes(client, min_body_rate)
        self.mesg = None
        self.source_addr = peer
        self.req_count = 0
        #: Header lines known of this connection alone.
        self.own: dict[bytes, Line] = {}

    def forget(self) -> None:
        """The last request, which is finished: it and its body refer to each other."""
        if self.mesg is not None:
            self.mesg.body = None
            self.mesg = None

    @property
    def pipelined(self) -> bool:
        """Whether bytes of a next request are here already."""
        return bool(self.unreader.buf.tell())

    def take(self, timeout: float) -> RequestHead:
        """The next request; the one before must be finished. Raises as :class:`RequestHead`."""
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
