"""HTTP/1.1 to an upstream, without I/O: a request head as bytes, and llhttp as response parser.

Note: llhttp continues with the next message in the same bytes. An interim 1xx, the final response
and whatever a server sends after it arrive through the same callbacks. Only the head and body of
the final response may come out.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from geventhttpclient._parser import HTTPParseError, HTTPResponseParser

#: A response with a larger head is refused. nginx allows 8 KiB by default, Node 16 KiB.
MAX_HEAD_BYTES: Final = 256 * 1024


_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class InvalidResponse(Exception):
    """The bytes are not a valid HTTP response; the message has the reason."""


class HeaderPairs(list[tuple[str, str]]):
    """Header lines in their order, with case and duplicates, in a shape that requests accepts."""

    def items(self) -> Iterator[tuple[str, str]]:
        return iter(self)

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of ``name``, compared without case."""
        lowered = name.lower()
        return next((value for key, value in self if key.lower() == lowered), default)


def request_head(method: str, target: bytes, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return the request line and header lines, with the empty line that ends them.

    ``target`` goes out as it is; names and values are latin-1, as they arrived.
    """
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return b"%s %s HTTP/1.1\r\n%s\r\n" % (method.encode("latin-1"), target, lines.encode("latin-1"))


class _SecondMessage(Exception):
    """Bytes after the response: the connection is dirty, the response is not."""


class ResponseParser(HTTPResponseParser):
    """Parses one response: feed bytes until :attr:`head_complete`, take the body until `complete`.

    ``head_complete`` is about the final response: interim 1xx heads are swallowed (RFC 9110 §15.2).
    """

    def __init__(self, method: str) -> None:
        super().__init__()
        self._bodiless = method == "HEAD"
        self.status = 0
        self.reason = ""
        self.headers = HeaderPairs()
        self.head_complete = False
        self.complete = False
        #: Bytes came after the end of the response; the connection must not be used again.
        self.dirty = False
        self._name = ""
        self._value: str | None = None
        # Names and values of a head that arrives in one piece.
        self._whole: tuple[list[str], list[str]] | None = None
        self._body: list[bytes] = []
        self._head_bytes = 0

    def feed_bytes(self, data: bytes) -> None:
        """Parse ``data``; ``b""`` is the end of the connection. Raises :class:`InvalidResponse`."""
        if not self.head_complete:
            if not data:
                raise InvalidResponse("it closed the connection before its response was complete")
            if not self._head_bytes and b"\r\n\r\n" in data:
                self._expect_whole()
            self._head_bytes += len(data)
        try:
            self.feed(data)
        except (HTTPParseError, _SecondMessage) as error:
            if not self.complete:
                raise InvalidResponse(_reason(error)) from error
            self.dirty = True
        if not self.head_complete and self._head_bytes > MAX_HEAD_BYTES:
            raise InvalidResponse(f"its header is larger than {MAX_HEAD_BYTES} bytes")

    def take_body(self) -> bytes:
        """Return the body bytes parsed since the last call, undecoded."""
        if not self._body:
            return b""
        data = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        return data

    @property
    def has_body(self) -> bool:
        """Whether :meth:`take_body` would return bytes."""
        return bool(self._body)

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request."""
        return self.complete and not self.dirty and bool(self.should_keep_alive())

    # llhttp's callbacks, in the order of a message. Strings arrive decoded as latin-1 and may come
    # in pieces wherever a read ended.

    def _on_message_begin(self) -> None:
        if self.complete:
            raise _SecondMessage

    def _on_status(self, text: str) -> None:
        self.reason += text

    def _on_header_field(self, text: str) -> None:
        if self.head_complete:
            return  # a trailer, which are not relayed (RFC 9110 §6.5.1)
        if self._value is None:
            self._name += text
            return
        self.headers.append((self._name, self._value))
        self._name = text
        self._value = None

    def _on_header_value(self, text: str) -> None:
        if self.head_complete:
            return
        self._value = text if self._value is None else self._value + text

    def _expect_whole(self) -> None:
        """Let lists collect the names and values of a whole head, which halves the parsing time.

        Each name and each value is one piece then, since llhttp refuses folded lines.
        """
        names: list[str] = []
        values: list[str] = []
        self._whole = names, values
        self._on_header_field = names.append  # type: ignore[method-assign, assignment]
        self._on_header_value = values.append  # type: ignore[method-assign, assignment]

    def _on_headers_complete(self) -> bool:
        if self._whole is not None:
            names, values = self._whole
            self._whole = None
            del self._on_header_field, self._on_header_value
            self.headers = HeaderPairs(zip(names, values, strict=True))
        if self._value is not None:
            self.headers.append((self._name, self._value))
            self._name = ""
            self._value = None
        self.status = self.get_code()
        if _CONTROL.search(self.reason):  # the only place where llhttp accepts them
            raise InvalidResponse("its reason phrase has control characters")
        self.head_complete = self.status >= 200
        return self._bodiless

    def _on_body(self, data: bytearray) -> None:
        self._body.append(bytes(data))

    def _on_message_complete(self) -> None:
        if self.head_complete:
            self.complete = True
            return
        # An interim response: the final one follows on the same connection.
        self.reason = ""
        self.headers = HeaderPairs()


def _reason(error: Exception) -> str:
    text = str(error.args[0]) if error.args else type(error).__name__
    if text.startswith("Incomplete response"):
        return "it broke off in the middle of its response"
    return f"its response is not valid HTTP: {text}"
