"""Lines of request heads that gunicorn's parser has accepted, and what it made of them.

The thing to get wrong: header values can be secrets, and a worker must not remember a secret for
longer than the client that sent it stays. So only what is public by its name is remembered for all.
"""

from typing import Any, Final

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


class Unusual(Exception):
    """Left to gunicorn's parser as a whole."""


class KnownLines:
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
            raise Unusual
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
            raise Unusual
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
