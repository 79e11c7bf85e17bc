"""What a client and an upstream say about caching: `Cache-Control`, `Pragma`, `Expires`, `Vary`.

The grammar is that of RFC 9111 §5.2, read tolerantly: names in any case, values as a token or
quoted, directives that are not known here ignored. Where a line can be read in two ways, the
stricter one holds: of two values the one that allows less, for a broken value the one that allows
nothing, for a quote without an end the directives behind it.

Seconds are whole numbers, cut to 2³¹ (RFC 9111 §1.2.2).
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from operator import itemgetter
from typing import Final

Lines = Sequence[tuple[str, str]]

_MAX_SECONDS: Final = 2**31
_FOREVER: Final = float(_MAX_SECONDS)
# All quantifiers are possessive: this runs over hostile text, and must not backtrack.
_DIRECTIVE: Final = re.compile(
    r"[\s,]*+([!#$%&'*+\-.^_`|~0-9A-Za-z]++)"
    r'(?:\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s,"]*+)))?+'
)
_ESCAPE: Final = re.compile(r"\\(.)")
_DIGITS: Final = re.compile(r"[0-9]++")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientDirectives:
    """What a client asks of caches (RFC 9111 §5.2.1, RFC 5861 §4). Times are in seconds.

    `public` is no directive of requests: with `max_age` it asks for the response to be stored.
    """

    no_store: bool = False
    no_cache: bool = False
    public: bool = False
    only_if_cached: bool = False
    max_age: float | None = None
    min_fresh: float = 0.0
    max_stale: float = 0.0
    #: None: the client does not say.
    stale_if_error: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamDirectives:
    """What an upstream allows caches (RFC 9111 §5.2.2).

    `must_revalidate` means that the response is not served once it has expired. `freshness` is in
    seconds from now; None: the upstream does not say, 0: it has expired already.
    """

    no_store: bool = False
    private: bool = False
    no_cache: bool = False
    must_revalidate: bool = False
    freshness: float | None = None


_NOTHING_ASKED: Final = ClientDirectives()
_NOTHING_SAID: Final = UpstreamDirectives()
#: Header lines with directives: of a request, and of a response.
_ASKING: Final = frozenset({"cache-control", "pragma"})
_ALLOWING: Final = frozenset({"cache-control", "expires"})
_name_of = itemgetter(0)


def names_of(headers: Lines) -> frozenset[str]:
    """Return the names of header lines, in lower case."""
    # Without a loop of Python's: most requests and responses have none of the names looked for.
    return frozenset(map(str.lower, map(_name_of, headers)))


def values_of(headers: Lines, lower_name: str) -> list[str]:
    """Return the values of all header lines of one name, in their order."""
    return [value for name, value in headers if name.lower() == lower_name]


def client_directives(headers: Lines) -> ClientDirectives:
    """Return what the header lines of a request ask. `Pragma` counts where it stands alone."""
    if names_of(headers).isdisjoint(_ASKING):
        return _NOTHING_ASKED
    control, pragma = values_of(headers, "cache-control"), values_of(headers, "pragma")
    if control:
        return _client_directives(control)
    if pragma and any(name == "no-cache" for name, _ in _directives(pragma)):
        return ClientDirectives(no_cache=True)
    return _NOTHING_ASKED


def _client_directives(lines: Sequence[str]) -> ClientDirectives:
    flags: set[str] = set()
    max_age: float | None = None
    stale_if_error: float | None = None
    min_fresh, max_stale, has_max_stale = 0.0, _FOREVER, False
    for name, value in _directives(lines):
        if name == "max-age":
            max_age = min(_seconds(value), _FOREVER if max_age is None else max_age)
        elif name == "min-fresh":
            min_fresh = max(min_fresh, _seconds(value, broken=_FOREVER))
        elif name == "max-stale":
            # Without a value, any age will do.
            has_max_stale = True
            max_stale = min(max_stale, _FOREVER if value is None else _seconds(value))
        elif name == "stale-if-error":
            limit = _FOREVER if stale_if_error is None else stale_if_error
            stale_if_error = min(_seconds(value), limit)
        else:
            flags.add(name)
    return ClientDirectives(
        no_store="no-store" in flags,
        no_cache="no-cache" in flags,
        public="public" in flags,
        only_if_cached="only-if-cached" in flags,
        max_age=max_age,
        min_fresh=min_fresh,
        max_stale=max_stale if has_max_stale else 0.0,
        stale_if_error=stale_if_error,
    )


def upstream_directives(
    headers: Lines, clock: Callable[[], float] = time.time
) -> UpstreamDirectives:
    """Return what the header lines of a response allow.

    `no-cache` and `private` count with a list of header names, too (RFC 9111 §5.2.2.4: many caches
    read them so).
    """
    if names_of(headers).isdisjoint(_ALLOWING):
        return _NOTHING_SAID
    control: list[str] = []
    expires: list[str] = []
    date = age = None
    for name, value in headers:
        lower = name.lower()
        if lower == "cache-control":
            control.append(value)
        elif lower == "expires":
            expires.append(value)
        elif lower == "date":
            date = value
        elif lower == "age":
            age = value
    flags: set[str] = set()
    lifetimes: dict[str, float] = {}
    for name, argument in _directives(control):
        flags.add(name)
        if name in ("max-age", "s-maxage"):
            lifetimes[name] = min(_seconds(argument), lifetimes.get(name, _FOREVER))
    lifetime = lifetimes.get("s-maxage", lifetimes.get("max-age"))
    if lifetime is None and expires:
        lifetime = min(_until(each, date, clock) for each in expires)
    if lifetime is not None and age is not None:
        lifetime = max(0.0, lifetime - _seconds(age.strip(), broken=_FOREVER))
    return UpstreamDirectives(
        no_store="no-store" in flags,
        private="private" in flags,
        no_cache="no-cache" in flags,
        must_revalidate=not flags.isdisjoint(
            ("must-revalidate", "proxy-revalidate", "s-maxage", "no-cache")
        ),
        freshness=lifetime,
    )


def varying_names(headers: Lines) -> frozenset[str]:
    """Return the names in `Vary`, in lower case; `*` is one of them."""
    if "vary" not in names_of(headers):
        return frozenset()
    names = (
        item.strip().lower() for value in values_of(headers, "vary") for item in value.split(",")
    )
    return frozenset(filter(None, names))


def http_date(value: str) -> float | None:
    """Return an HTTP date (RFC 9110 §5.6.7) in Unix seconds; None for another text."""
    try:
        parsed = parsedate_to_datetime(value)
        if parsed.tzinfo is None:
            parsed = parsed.replace(tzinfo=UTC)
        return parsed.timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _directives(lines: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each name, in lower case, with its value; None where it has none."""
    for line in lines:
        at = 0
        while at < len(line):
            found = _DIRECTIVE.match(line, at)
            if found is not None:
                quoted, plain = found[2], found[3]
                value = plain if quoted is None else _ESCAPE.sub(r"\1", quoted)
                yield found[1].lower(), value
                at = found.end()
            # Whatever is left of a broken one ends with the next comma.
            comma = line.find(",", at)
            at = len(line) if comma < 0 else comma + 1


def _seconds(value: str | None, broken: float = 0.0) -> float:
    if value is None or not _DIGITS.fullmatch(value):
        return broken
    digits = value.lstrip("0") or "0"
    return _FOREVER if len(digits) > 10 else float(min(int(digits), _MAX_SECONDS))


def _until(expires: str, date: str | None, clock: Callable[[], float]) -> float:
    end = http_date(expires)
    if end is None:  # "0", above all (RFC 9111 §5.3)
        return 0.0
    begin = None if date is None else http_date(date)
    return min(max(0.0, end - (clock() if begin is None else begin)), _FOREVER)
