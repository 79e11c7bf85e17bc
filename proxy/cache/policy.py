"""What may be read from the cache, stored in it, and shared while it is in flight.

Three verdicts: of the request, before the upstream is asked; of the response's head; of its body,
after the last byte (`proxy.cache.completeness`).

HTTP lets no cache respond to a POST (RFC 9110 §9.3.3). So it is done only for endpoints that are
known to bring a result and to change nothing, and only in projects that ask for it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import orjson

from proxy.cache.access import CacheAccess
from proxy.cache.completeness import Rejection
from proxy.cache.directives import (
    ClientDirectives,
    client_directives,
    names_of,
    upstream_directives,
    values_of,
    varying_names,
)
from proxy.cache.entry import CachedResponse
from proxy.cache.key import is_ignored
from proxy.core.media_type import is_event_stream, is_json
from proxy.providers.base import OutboundRequest
from proxy.runtime.yielding import turn_if_due
from proxy.upstream.headers import content_of, is_plain
from proxy.usage.decompress import ENCODINGS
from proxy.usage.json_slices import decoded_in_turns
from proxy.usage.json_spans import Member, top_members
from proxy.usage.large import LargeObject, LargeValue

#: Seconds for which the response to a bad request is kept, and to a wrong upstream key.
_MAX_TTL_BY_STATUS: Final[Mapping[int, float]] = {
    200: math.inf,
    201: math.inf,
    400: 60.0,
    401: 10.0,
}
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
#: A body of up to `_SMALL_BYTES`, or a plain one up to the other two limits, is parsed at once,
#: which takes a few milliseconds at most. Parts are names, values and brackets.
_SMALL_BYTES: Final = 32 * 1024
_MAX_PLAIN_BYTES: Final = 1024 * 1024
_MAX_PLAIN_PARTS: Final = 32 * 1024
_MAX_MEMBERS: Final = 1000
_MAX_BRACKETS: Final = 512 * 1024

#: Members of a request that make its response depend on what the upstream remembers or finds, or
#: that have it do more than respond. By path; those of them that are null or false count as absent.
_STATEFUL: Final[Mapping[str, frozenset[str]]] = {
    "/v1/chat/completions": frozenset(
        {"web_search_options", "search_parameters", "enable_search", "plugins"}
    ),
    "/v1/completions": frozenset(),
    "/v1/embeddings": frozenset(),
    "/v1/moderations": frozenset(),
    "/v1/responses": frozenset({"previous_response_id", "conversation", "background", "prompt"}),
    "/v1/messages": frozenset({"mcp_servers", "container"}),
}
#: All that is looked at.
_READ: Final = {path: (*names, "tools") for path, names in _STATEFUL.items()}
#: A visible ASCII letter as an escape: a name may be spelled in another way.
_ESCAPED_LETTER: Final = re.compile(rb"\\u00[2-7]")
#: Types of tools that the client runs itself. All others count as the upstream's.
_CLIENT_TOOLS: Final = frozenset({"function", "custom"})
#: Anthropic's tools that the client runs have a date behind their name.
_CLIENT_TOOL_PREFIXES: Final = ("bash_", "text_editor_", "memory_")


class Forward(StrEnum):
    """Why a request goes upstream: values of `fwd` in `Cache-Status` (RFC 9211 §2.2)."""

    #: The cache has nothing to do with such requests.
    BYPASS = "bypass"
    #: The request's directives ask for it.
    REQUEST = "request"
    #: Nothing is stored.
    MISS = "uri-miss"
    #: What is stored has expired.
    STALE = "stale"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestVerdict:
    """What the cache may do for a request.

    Attributes:
        lookup: A stored response may be served.
        store: The response may be stored, for `ttl` seconds at most.
        share: The request may join an identical one in flight, or be joined.
        forget: Stored responses to GET requests for its target are void once it has succeeded.
        ttl: Seconds; 0 where nothing is stored.
        max_age: Seconds since a response was stored, at most. None: any.
        min_fresh: Seconds for which a response must stay fresh.
        max_stale: Seconds since it expired, at most.
        stale_if_error: The same, where the upstream fails.
        only_if_cached: Without a stored response, the client wants a 504 `not_cached`.
        forward: Why the request goes upstream where it does; for `Cache-Status`.
        detail: The same in more detail; "" where there is none.
    """

    lookup: bool = False
    store: bool = False
    share: bool = False
    forget: bool = False
    ttl: float = 0.0
    max_age: float | None = None
    min_fresh: float = 0.0
    max_stale: float = 0.0
    stale_if_error: float = 0.0
    only_if_cached: bool = False
    forward: Forward = Forward.BYPASS
    detail: str = ""

    @property
    def uses_cache(self) -> bool:
        """Whether the cache has anything to do with the request."""
        return self.lookup or self.store or self.share

    def accepts(self, entry: CachedResponse, now: float) -> bool:
        """Whether the client accepts `entry` at the time `now`, in Unix seconds."""
        if self.max_age is not None and now - entry.stored_at > self.max_age:
            return False
        left = entry.expires_at - now
        if left > 0:
            return left >= self.min_fresh
        return not self.min_fresh and _is_stale_within(self.max_stale, -left, entry)

    def accepts_on_error(self, entry: CachedResponse, now: float) -> bool:
        """Whether the client accepts `entry` where the upstream fails (RFC 5861 §4)."""
        since_expiry = now - entry.expires_at
        return self.accepts(entry, now) or (
            since_expiry >= 0 and _is_stale_within(self.stale_if_error, since_expiry, entry)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadVerdict:
    """Whether a response may be stored and shared, as far as its head says.

    Attributes:
        ttl_cap: Seconds for which it is stored, at most, beside the request's `ttl`.
        reason: Why it is not storable, a :class:`Rejection`; "" where it is.
        overridden: It is storable although the upstream would have it revalidated each time: there
            is no validator to do so, and the project asks for its responses to be stored.
    """

    storable: bool
    ttl_cap: float = math.inf
    reason: str = ""
    overridden: bool = False


_OFF: Final = RequestVerdict(detail="off")


def read_request(
    access: CacheAccess,
    method: str,
    path: str,
    request: OutboundRequest,
    ttl: float,
    stale_if_error: float = 0.0,
) -> RequestVerdict:
    """Return what the cache may do for a request.

    `path` is that of the client's target, without its query; `request` is as in `KeyMaker.key`. The
    operator sets the seconds: `ttl` is `CACHE_TTL`, 0 for no cache, and `stale_if_error` is
    `CACHE_STALE_IF_ERROR`. Lets other greenlets run if the body is large.
    """
    if access.mode == "off" or not ttl:
        return _OFF
    asked = client_directives(request.headers)
    detail = _uncacheable(method, path, request)
    if detail:
        return RequestVerdict(
            # RFC 9111 §4.4. A POST that brings a result changes nothing.
            forget=method not in _SAFE_METHODS and not _is_forced(method, path),
            only_if_cached=asked.only_if_cached,
            detail=detail,
        )
    if access.mode == "opt_in" and not (asked.public and asked.max_age is not None):
        return RequestVerdict(only_if_cached=asked.only_if_cached, detail="opt-in")
    if asked.no_store:
        return RequestVerdict(
            only_if_cached=asked.only_if_cached, forward=Forward.REQUEST, detail="no-store"
        )
    shareable = access.coalesce and _is_forced(method, path)
    return _asked(asked, ttl, stale_if_error, shareable=shareable)


def _asked(
    asked: ClientDirectives, ttl: float, stale_if_error: float, *, shareable: bool
) -> RequestVerdict:
    """Return the verdict of a request whose response may be stored."""
    if asked.public and asked.max_age is not None:
        ttl = min(ttl, asked.max_age)
    refresh = asked.no_cache or asked.max_age == 0
    max_stale = min(asked.max_stale, stale_if_error)
    if asked.stale_if_error is not None:
        stale_if_error = min(stale_if_error, asked.stale_if_error)
    return RequestVerdict(
        lookup=not refresh,
        store=ttl > 0,
        # Whoever asks anew does not want a response that began before.
        share=shareable and not refresh,
        ttl=ttl,
        max_age=asked.max_age,
        min_fresh=asked.min_fresh,
        max_stale=max_stale,
        stale_if_error=0.0 if refresh else stale_if_error,
        only_if_cached=asked.only_if_cached,
        forward=Forward.REQUEST if refresh else Forward.MISS,
        detail="no-cache" if refresh else "",
    )


def head_verdict(
    status: int, headers: Sequence[tuple[str, str]], method: str, path: str
) -> HeadVerdict:
    """Return whether the response with this head may be stored and shared.

    `headers` are the upstream's, as they are before or after the lines of its connection were taken
    out. `path` is that of the request.
    """
    if status not in _MAX_TTL_BY_STATUS:
        return _not(Rejection.STATUS)
    said = upstream_directives(headers)
    if said.no_store:
        return _not(Rejection.NO_STORE)
    if said.private:
        return _not(Rejection.PRIVATE)
    names = varying_names(headers)
    if names and ("*" in names or any(map(is_ignored, names))):
        return _not(Rejection.VARY)
    forced = _is_forced(method, path)
    content_type, content_encoding = content_of(headers)
    if not _is_readable(content_type, content_encoding, forced and status < 300, forced):
        return _not(Rejection.CONTENT_TYPE)
    cap, freshness, overridden = _MAX_TTL_BY_STATUS[status], said.freshness, False
    if said.no_cache or freshness == 0:
        if not forced or _has_validator(headers):
            return _not(Rejection.NO_CACHE)
        overridden = True
    elif freshness is not None:
        cap = min(cap, freshness)
    elif not forced:
        return _not(Rejection.NO_FRESHNESS)
    return HeadVerdict(storable=True, ttl_cap=cap, overridden=overridden)


def _not(reason: Rejection) -> HeadVerdict:
    return HeadVerdict(storable=False, reason=reason)


def _is_forced(method: str, path: str) -> bool:
    """Whether responses are stored although the upstream does not say that they may be."""
    if method == "POST":
        return path in _STATEFUL
    return method == "GET" and (path == "/v1/models" or path.startswith("/v1/models/"))


def _is_readable(content_type: str, content_encoding: str, streams: bool, forced: bool) -> bool:
    """Whether it can be told from the body that it is complete."""
    plain = is_plain(content_encoding) or content_encoding.strip().lower() in ENCODINGS
    if is_json(content_type):
        return plain
    if is_event_stream(content_type):
        return plain and streams
    return not forced


def _has_validator(headers: Sequence[tuple[str, str]]) -> bool:
    return not names_of(headers).isdisjoint(("etag", "last-modified"))


def _is_stale_within(limit: float, since_expiry: float, entry: CachedResponse) -> bool:
    """Whether a response that expired so many seconds ago may be served all the same."""
    return (
        limit > 0
        and since_expiry <= limit
        and not upstream_directives(entry.headers).must_revalidate
    )


def _uncacheable(method: str, path: str, request: OutboundRequest) -> str:
    """Return why the response to a request is never stored; "" if it may be."""
    headers, body = request.headers, request.body
    if method == "GET":
        if body:
            return "body"
        return "upgrade" if any(name.lower() == "upgrade" for name, _ in headers) else ""
    if method != "POST":
        return "method"
    if path not in _STATEFUL:
        return "endpoint"
    if not isinstance(body, bytes):
        return "body"
    if "content-encoding" in names_of(headers) and not is_plain(
        ",".join(values_of(headers, "content-encoding"))
    ):
        return "body"
    return _stateful_member(path, body)


def _stateful_member(path: str, body: bytes) -> str:
    members = _members(body, _READ[path])
    if members is None:
        return "body"
    for name in _STATEFUL[path]:
        if members.get(name) not in (None, False):
            return name
    tools = members.get("tools")
    return "" if tools is None or _run_by_client(tools) else "tools"


def _run_by_client(tools: object) -> bool:
    return isinstance(tools, list) and all(
        isinstance(tool, dict) and _is_client_tool(tool.get("type", "function")) for tool in tools
    )


def _is_client_tool(kind: object) -> bool:
    return isinstance(kind, str) and (
        kind in _CLIENT_TOOLS or kind.startswith(_CLIENT_TOOL_PREFIXES)
    )


def _members(body: bytes, read: Sequence[str]) -> Mapping[str, Any] | None:
    """Return the top-level members. None: it is no JSON object, or has one of `read` twice."""
    try:
        if len(body) > _SMALL_BYTES and not _is_plain(body):
            return _large_members(body, read)
        found = orjson.loads(body)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    may_repeat = _ESCAPED_LETTER.search(body) is not None or any(
        body.count(b'"%b"' % name.encode()) > 1 for name in read if name in found
    )
    return None if may_repeat and _has_twice(read, top_members(body)) else found


def _is_plain(body: bytes) -> bool:
    return len(body) <= _MAX_PLAIN_BYTES and (
        sum(map(body.count, (b",", b":", b"{", b"["))) <= _MAX_PLAIN_PARTS
    )


def _has_twice(read: Sequence[str], members: Sequence[Member]) -> bool:
    names = [orjson.loads(member.name) for member in members]
    return any(names.count(name) > 1 for name in read)


def _large_members(body: bytes, read: Sequence[str]) -> Mapping[str, Any] | None:
    """As :func:`_members`. Values that are large and not looked at stay undecoded."""
    large = LargeObject(body, _MAX_MEMBERS, _MAX_BRACKETS)
    for _ in large.steps():
        turn_if_due()
    if _has_twice(read, large.members):
        return None
    if isinstance(large.values.get("tools"), LargeValue):
        (span,) = (each for each in large.members if orjson.loads(each.name) == "tools")
        large.values["tools"] = decoded_in_turns(body, span.value_start, span.end)
    return large.values
