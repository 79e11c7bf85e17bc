"""One client of ``manage.py bench``: a kept-alive connection, a request on it, the answer's times.

The thing to get wrong: a time is when the socket was ready, which the generator is sent, and not
the clock when its turn came; so the client's work on other answers is no part of this latency.
"""

import re
import selectors
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from proxy.cli.channel import Address, Channel
from proxy.cli.framing import EventTimes, Malformed, UntilClose, body_of

_LONGEST_HEAD: Final = 256 * 1024
_ERROR_KEPT: Final = 16 * 1024  # of an error's body, where its code stands
_CODE: Final = re.compile(r"[a-z0-9_]{1,60}")  # no token or key looks like this


@dataclass(frozen=True, slots=True)
class Asked:
    """What is sent, every time the same: head and body as they go out. ``stream``: time events."""

    address: Address
    method: str
    request: bytes
    stream: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Seconds since it was written; ``upstream`` as the answer's headers say.

    ``status`` 0 and ``problem``: no valid, complete answer. ``code``: what an error's body says.
    """

    status: int
    head: float = 0.0
    total: float = 0.0
    upstream: float | None = None
    events: int = 0
    first_event: float | None = None
    stall: float = 0.0
    code: str = ""
    problem: str = ""

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status < 300


class Client:
    """Generators that wait for the socket at each ``yield`` and are sent when it was ready."""

    def __init__(self, asked: Asked, selector: selectors.BaseSelector) -> None:
        self._asked = asked
        self.channel = Channel(asked.address, selector, self)

    def connect(self) -> Generator[None, float, None]:
        """Before a turn: connect, unless connected. The request will meet a failure again."""
        try:
            self.channel.close_if_stale()
            if not self.channel.is_open:
                yield from self.channel.open()
        except OSError:
            self.channel.close()

    def call(self) -> Generator[None, float, Sample]:
        """One request and its whole answer; what goes wrong is in the sample."""
        try:
            if not self.channel.is_open:
                yield from self.channel.open()
            began = yield from self.channel.send(self._asked.request)
            return (yield from self._answer(began))
        except OSError as error:
            problem = error.strerror or str(error) or type(error).__name__
        except Malformed as error:
            problem = str(error)
        self.channel.close()
        return Sample(0, problem=problem)

    def _answer(self, began: float) -> Generator[None, float, Sample]:
        status, fields, data, at = yield from self._head()
        head_at = at
        body = body_of(self._asked.method, status, fields)
        events = EventTimes()
        kept = b""
        while True:
            if data:
                found = body.feed(data)
                if self._asked.stream:
                    events.feed(found, at)
                if status >= 400 and len(kept) < _ERROR_KEPT:
                    kept += found
            if body.ended:
                break
            at = yield
            received = self.channel.received()
            if received is None:
                if isinstance(body, UntilClose):
                    break
                raise Malformed("the answer was cut off")
            data = received
        events.end(at)
        if isinstance(body, UntilClose) or b"close" in fields.get(b"connection", b"").lower():
            self.channel.close()
        return Sample(
            status,
            head=head_at - began,
            total=at - began,
            upstream=_upstream(fields),
            events=events.count,
            first_event=None if events.first_at is None else events.first_at - began,
            stall=events.stall,
            code=_code(kept) if kept else "",
        )

    def _head(self) -> Generator[None, float, tuple[int, dict[bytes, bytes], bytes, float]]:
        """Status, fields, what came behind, and when; of the final answer, not of a 1xx."""
        data = b""
        while True:
            at = yield
            piece = self.channel.received()
            if piece is None:
                raise Malformed("the connection was closed before the end of the response head")
            data += piece
            while (end := data.find(b"\r\n\r\n")) >= 0:
                status, fields = _parsed(data[:end])
                data = data[end + 4 :]
                if status >= 200:
                    return status, fields, data, at
            if len(data) > _LONGEST_HEAD:
                raise Malformed("too much came before the end of the response head")


def _parsed(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    first, *lines = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
        raise Malformed("what came is not HTTP/1")
    fields = {}
    for line in lines:
        name, _, value = line.partition(b":")
        fields[name.lower()] = value.strip()
    if version == b"HTTP/1.0":
        fields.setdefault(b"connection", b"close")
    return int(rest[:3]), fields


def _upstream(fields: Mapping[bytes, bytes]) -> float | None:
    start = fields.get(b"x-upstream-request-start", b"")
    stop = fields.get(b"x-upstream-request-stop", b"")
    return (int(stop) - int(start)) / 1e9 if start.isdigit() and stop.isdigit() else None


def _code(body: bytes) -> str:
    try:
        code = orjson.loads(body)["error"]["code"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""
