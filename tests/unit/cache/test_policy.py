"""What may be read, stored and shared: the tables of requests and of response heads."""

import math
from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.access import CacheAccess
from proxy.cache.completeness import Rejection
from proxy.cache.key import IGNORED_HEADERS
from proxy.cache.policy import Forward, HeadVerdict, RequestVerdict, head_verdict, read_request
from proxy.providers.base import OutboundRequest
from tests.support.cached_responses import NOW, cached_response

ON = CacheAccess(mode="on", scope="p", project_id="p", coalesce=True)
OPT_IN = CacheAccess(mode="opt_in", scope="p", project_id="p", coalesce=True)
OFF = CacheAccess(mode="off", scope="p", project_id="p", idempotency=True, hold=True)
CHATS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
TTL = 300.0
JSON = ("Content-Type", "application/json")
EVENTS = ("Content-Type", "text/event-stream; charset=utf-8")
DATE = ("Date", "Sat, 28 Nov 2026 06:00:00 GMT")

CAN = {"lookup": True, "store": True, "share": True}
CANNOT = dict.fromkeys(CAN, False)


def verdict(
    body: bytes | Iterable[bytes] | None = b'{"model":"m"}',
    *,
    method: str = "POST",
    path: str = CHATS,
    control: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    access: CacheAccess = ON,
    ttl: float = TTL,
    stale_if_error: float = 0.0,
) -> RequestVerdict:
    lines = [*headers, *([] if control is None else [("Cache-Control", control)])]
    request = OutboundRequest(method, path.encode(), lines, body)
    return read_request(access, method, path, request, ttl, stale_if_error)


def can(found: RequestVerdict) -> dict[str, bool]:
    return {"lookup": found.lookup, "store": found.store, "share": found.share}


def body(**members: Any) -> bytes:
    return orjson.dumps({"model": "m", **members})


# Requests.


@pytest.mark.parametrize(
    "path",
    [
        CHATS,
        "/v1/completions",
        "/v1/embeddings",
        RESPONSES,
        "/v1/moderations",
        MESSAGES,
    ],
)
def test_posts_that_bring_a_result(path: str) -> None:
    found = verdict(path=path)
    assert can(found) == CAN
    assert found == RequestVerdict(**CAN, ttl=TTL, forward=Forward.MISS)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gpt-4.1", "/v1/models/org/name"])
@pytest.mark.parametrize("nothing", [None, b""])
def test_models(path: str, nothing: bytes | None) -> None:
    assert can(verdict(nothing, method="GET", path=path)) == CAN


@pytest.mark.parametrize(
    "path", ["/v1/responses/resp_1", "/v1/batches/b", "/v1/files", "/v1/modelsx", "/v1/chat"]
)
def test_other_gets_are_stored_alone(path: str) -> None:
    """They are polled: to share one would have each poll wait for the head of another."""
    found = verdict(None, method="GET", path=path)
    assert can(found) == {**CAN, "share": False}
    assert not found.forget


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/v1/models/ft:x", "/v1/files/f", CHATS])
def test_changes_are_not_stored_and_forget(method: str, path: str) -> None:
    found = verdict(None, method=method, path=path)
    assert found == RequestVerdict(forget=True, detail="method")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files",
        "/v1/images/generations",
        "/v1/audio/speech",
        "/v1/responses/r/cancel",
        "/v1/x",
        "/v1/chat/completions/",
        "/V1/chat/completions",
        "/v1/chat%2fcompletions",
    ],
)
def test_other_posts_are_not_stored(path: str) -> None:
    assert verdict(path=path) == RequestVerdict(forget=True, detail="endpoint")


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE"])
def test_other_methods_forget_nothing(method: str) -> None:
    found = verdict(None, method=method, path="/v1/models")
    assert found == RequestVerdict(detail="method")


@pytest.mark.parametrize("path", [CHATS, RESPONSES, MESSAGES])
@pytest.mark.parametrize(
    "unread",
    [
        None,
        iter([b"{}"]),
        b"",
        b"[]",
        b"null",
        b'{"model":"m"',
        b'{"a":1}x',
        b'{"a":"\xff"}',
        b'{"tools":[],"tools":[]}',
        b'{"tools":[],"t\\u006fols":[]}',
        b"--b\r\nContent-Disposition: form-data\r\n\r\n{}\r\n--b--",
    ],
)
def test_bodies_that_are_not_read(unread: Any, path: str) -> None:
    assert verdict(unread, path=path) == RequestVerdict(detail="body")


def test_a_body_with_an_encoding_is_not_read() -> None:
    assert verdict(headers=[("Content-Encoding", "gzip")]).detail == "body"
    assert can(verdict(headers=[("Content-Encoding", "identity")])) == CAN


def test_a_get_with_a_body_and_an_upgrade_are_not_stored() -> None:
    assert verdict(b"{}", method="GET", path="/v1/models").detail == "body"
    assert verdict(iter([b"a"]), method="GET", path="/v1/models").detail == "body"
    found = verdict(None, method="GET", path="/v1/realtime", headers=[("UPGRADE", "websocket")])
    assert found == RequestVerdict(detail="upgrade")


FUNCTION = {"type": "function", "name": "f"}
STATEFUL: list[tuple[str, dict[str, Any], str]] = [
    (RESPONSES, {"previous_response_id": "resp_1"}, "previous_response_id"),
    (RESPONSES, {"conversation": "conv_1"}, "conversation"),
    (RESPONSES, {"conversation": {"id": "conv_1"}}, "conversation"),
    (RESPONSES, {"background": True}, "background"),
    (RESPONSES, {"prompt": {"id": "pmpt_1"}}, "prompt"),
    *(
        (RESPONSES, {"tools": [FUNCTION, {"type": kind}]}, "tools")
        for kind in (
            "web_search",
            "web_search_preview",
            "code_interpreter",
            "mcp",
            "computer",
            "computer_use_preview",
            "file_search",
            "image_generation",
            "new_in_2027",
        )
    ),
    (RESPONSES, {"tools": {}}, "tools"),
    (RESPONSES, {"tools": [1]}, "tools"),
    (RESPONSES, {"tools": [{"type": None}]}, "tools"),
    (CHATS, {"web_search_options": {}}, "web_search_options"),
    (CHATS, {"tools": [{"type": "browser_search"}]}, "tools"),
    (MESSAGES, {"tools": [{"type": "web_search_20250305"}]}, "tools"),
    (MESSAGES, {"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    (MESSAGES, {"container": "c"}, "container"),
]
STATELESS: list[tuple[str, dict[str, Any]]] = [
    (RESPONSES, {"previous_response_id": None, "conversation": None, "background": False}),
    (RESPONSES, {"tools": [FUNCTION, {"type": "custom", "name": "g"}]}),
    (RESPONSES, {"tools": None}),
    (RESPONSES, {"tools": []}),
    (RESPONSES, {"input": [{"background": True, "tools": [{"type": "mcp"}]}]}),
    (RESPONSES, {"input": '"background":true', "metadata": {"conversation": "c"}}),
    (CHATS, {"tools": [{"type": "function", "function": {}}], "background": True}),
    (CHATS, {"messages": [{"tools": 1}, {"tools": 2}], "tools": []}),
    (MESSAGES, {"tools": [{"name": "f"}, {"type": "custom"}, {"type": "bash_20250124"}]}),
    ("/v1/embeddings", {"input": ["a"]}),
]
#: Bodies that are parsed at once, for their text; and by slices, for their brackets and size.
PADDINGS = {
    "small": "",
    "plain": "a" * 200_000,
    "many parts": [[]] * 70_000,
    "large": "\u00e4" * 700_000,
}


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("path", "members", "detail"), STATEFUL)
def test_what_hangs_on_state_is_not_stored(
    path: str, members: dict[str, Any], detail: str, padding: str
) -> None:
    for document in ({"pad": PADDINGS[padding], **members}, {**members, "x": PADDINGS[padding]}):
        assert verdict(orjson.dumps(document), path=path) == RequestVerdict(detail=detail)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("path", "members"), STATELESS)
def test_what_hangs_on_no_state_is_stored(path: str, members: dict[str, Any], padding: str) -> None:
    assert can(verdict(body(pad=PADDINGS[padding], **members), path=path)) == CAN


def test_many_tools_are_looked_at() -> None:
    function = {**FUNCTION, "description": "a" * 1000, "parameters": [[]] * 50}
    tools = [function] * 1200
    assert can(verdict(body(tools=tools), path=RESPONSES)) == CAN
    assert verdict(body(tools=[*tools, {"type": "mcp"}]), path=RESPONSES).detail == "tools"


@pytest.mark.parametrize("padding", PADDINGS)
def test_a_name_that_is_looked_at_is_there_once(padding: str) -> None:
    pad = orjson.dumps(PADDINGS[padding])
    spellings = [b'"background":true,"background":false', b'"background":true,"b\\u0061ckground":0']
    for twice in spellings:
        assert verdict(b'{"pad":%b,%b}' % (pad, twice), path=RESPONSES).detail == "body"
    escaped = b'{"pad":%b,"b\\u0061ckground":true}' % pad
    assert verdict(escaped, path=RESPONSES).detail == "background"


@given(
    st.sampled_from([CHATS, RESPONSES, MESSAGES]),
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["tools", "type", "background"]), inner)
        ),
        max_leaves=6,
    ).map(orjson.dumps),
)
def test_no_body_raises(path: str, given_body: bytes) -> None:
    verdict(given_body, path=path)


# Modes.


def test_without_a_cache_all_is_off() -> None:
    for found in (verdict(access=OFF), verdict(ttl=0.0), verdict(access=OFF, method="DELETE")):
        assert found == RequestVerdict(detail="off")
    assert not verdict(access=OFF, control="only-if-cached").only_if_cached


@pytest.mark.parametrize(
    ("control", "ttl"),
    [
        ("public, max-age=60", 60),
        ("max-age=60, public", 60),
        ("public, max-age=900", TTL),
        (None, None),
        ("public", None),
        ("max-age=60", None),
        ("private, max-age=60", None),
    ],
)
def test_opt_in(control: str | None, ttl: float | None) -> None:
    found = verdict(access=OPT_IN, control=control)
    if ttl is None:
        assert found == RequestVerdict(detail="opt-in")
    else:
        assert can(found) == CAN
        assert found.ttl == ttl


def test_opt_in_changes_nothing_for_what_is_never_stored() -> None:
    found = verdict(access=OPT_IN, control="public, max-age=60", path="/v1/images/generations")
    assert found.detail == "endpoint"
    assert verdict(access=OPT_IN, method="DELETE").forget


def test_without_coalesce_nothing_is_shared() -> None:
    alone = CacheAccess(mode="on", scope="p", project_id="p")
    assert can(verdict(access=alone)) == {**CAN, "share": False}


# Directives of the client.

REFRESH = {"lookup": False, "store": True, "share": False}


def test_no_store() -> None:
    found = verdict(control="no-store, max-age=60, public")
    assert found == RequestVerdict(forward=Forward.REQUEST, detail="no-store")


@pytest.mark.parametrize("control", ["no-cache", "max-age=0", "no-cache, max-age=60"])
def test_a_refresh_replaces_the_entry(control: str) -> None:
    found = verdict(control=control, stale_if_error=60)
    assert can(found) == REFRESH
    assert found.ttl == TTL
    assert found.stale_if_error == 0
    assert (found.forward, found.detail) == (Forward.REQUEST, "no-cache")


def test_pragma_refreshes() -> None:
    assert can(verdict(headers=[("PRAGMA", "no-cache")])) == REFRESH
    assert can(verdict(headers=[("PRAGMA", "no-cache")], control="max-age=9")) == CAN


def test_max_age() -> None:
    found = verdict(control="max-age=60")
    assert (found.max_age, found.ttl) == (60, TTL)
    found = verdict(control="public, max-age=60")
    assert (found.max_age, found.ttl) == (60, 60)
    found = verdict(control="public, max-age=0")
    assert can(found) == CANNOT
    assert found.ttl == 0
    found = verdict(control="no-cache, public, max-age=60")
    assert (can(found), found.ttl) == (REFRESH, 60)


def test_what_is_only_cached() -> None:
    assert verdict(control="only-if-cached").only_if_cached
    assert verdict(control="only-if-cached").lookup
    for never in (
        verdict(control="only-if-cached", path="/v1/images/generations"),
        verdict(control="only-if-cached, no-store"),
        verdict(control="only-if-cached, no-cache"),
        verdict(control="only-if-cached", access=OPT_IN),
    ):
        assert never.only_if_cached
        assert not never.lookup


@pytest.mark.parametrize(
    ("control", "allowed", "max_stale", "stale_if_error"),
    [
        (None, 0, 0, 0),
        (None, 60, 0, 60),
        ("max-stale", 0, 0, 0),
        ("max-stale", 60, 60, 60),
        ("max-stale=9", 60, 9, 60),
        ("stale-if-error=9", 60, 0, 9),
        ("stale-if-error=0", 60, 0, 0),
        ("stale-if-error=90", 60, 0, 60),
        ("stale-if-error=9", 0, 0, 0),
    ],
)
def test_stale_responses(
    control: str | None, allowed: float, max_stale: float, stale_if_error: float
) -> None:
    found = verdict(control=control, stale_if_error=allowed)
    assert (found.max_stale, found.stale_if_error) == (max_stale, stale_if_error)


@pytest.mark.parametrize(
    ("limits", "age", "accepted"),
    [
        ({}, 0, True),
        ({}, 99, True),
        ({}, 100, False),
        ({"max_age": 10}, 10, True),
        ({"max_age": 10}, 11, False),
        ({"min_fresh": 10}, 90, True),
        ({"min_fresh": 10}, 91, False),
        ({"max_stale": 10}, 110, True),
        ({"max_stale": 10}, 111, False),
        ({"max_stale": 10, "max_age": 105}, 106, False),
        ({"max_stale": 10, "min_fresh": 1}, 101, False),
        ({"stale_if_error": 50}, 101, False),
    ],
)
def test_which_entries_a_request_accepts(
    limits: dict[str, float], age: float, accepted: bool
) -> None:
    entry = cached_response(ttl=100.0)
    assert RequestVerdict(**limits).accepts(entry, NOW + age) is accepted


@pytest.mark.parametrize(
    ("limits", "age", "accepted"),
    [
        ({}, 99, True),
        ({}, 100, False),
        ({"stale_if_error": 10}, 100, True),
        ({"stale_if_error": 10}, 110, True),
        ({"stale_if_error": 10}, 111, False),
        ({"max_stale": 20, "stale_if_error": 10}, 115, True),
        ({"max_age": 10, "stale_if_error": 10}, 50, False),
    ],
)
def test_which_entries_serve_while_the_upstream_fails(
    limits: dict[str, float], age: float, accepted: bool
) -> None:
    entry = cached_response(ttl=100.0)
    assert RequestVerdict(**limits).accepts_on_error(entry, NOW + age) is accepted


@pytest.mark.parametrize("control", ["must-revalidate", "proxy-revalidate", "no-cache"])
def test_what_must_be_revalidated_is_never_stale(control: str) -> None:
    entry = cached_response(ttl=100.0, headers=[JSON, ("cache-control", control)])
    found = RequestVerdict(max_stale=50, stale_if_error=50)
    assert found.accepts(entry, NOW + 99)
    assert not found.accepts(entry, NOW + 101)
    assert not found.accepts_on_error(entry, NOW + 101)


# Heads of responses.


def head(
    *headers: tuple[str, str], status: int = 200, method: str = "POST", path: str = CHATS
) -> HeadVerdict:
    lines = list(headers)
    if not any(name == "Content-Type" for name, _ in lines):
        lines.append(JSON)
    return head_verdict(status, lines, method, path)


def polled(*headers: tuple[str, str], **rest: Any) -> HeadVerdict:
    return head(*headers, method="GET", path="/v1/batches/b", **rest)


def refused(reason: Rejection) -> HeadVerdict:
    return HeadVerdict(storable=False, reason=reason)


@pytest.mark.parametrize(
    ("status", "cap"), [(200, math.inf), (201, math.inf), (400, 60), (401, 10)]
)
def test_statuses_that_are_stored(status: int, cap: float) -> None:
    assert head(status=status) == HeadVerdict(storable=True, ttl_cap=cap)


@pytest.mark.parametrize(
    "status",
    [
        *(100, 202, 203, 204, 206, 300, 301, 302, 304, 307, 308, 402, 403, 404, 408, 409, 410, 413),
        *(422, 425, 429, 451, 500, 501, 502, 503, 504, 529),
    ],
)
def test_statuses_that_are_not(status: int) -> None:
    assert head(("Cache-Control", "public, max-age=60"), status=status) == refused(Rejection.STATUS)


@pytest.mark.parametrize(
    ("control", "reason"),
    [
        ("no-store", Rejection.NO_STORE),
        ("No-Store, max-age=60", Rejection.NO_STORE),
        ("private", Rejection.PRIVATE),
        ("private, max-age=60", Rejection.PRIVATE),
        ('private="x-a"', Rejection.PRIVATE),
    ],
)
def test_what_forbids_storing(control: str, reason: Rejection) -> None:
    assert head(("cache-control", control)) == refused(reason)
    assert polled(("cache-control", control)) == refused(reason)


def test_a_cookie_does_not_forbid_it() -> None:
    cookies = [("Set-Cookie", "__cf_bm=a"), ("set-cookie", "_cfuvid=b")]
    assert head(*cookies).storable


@pytest.mark.parametrize("control", ["no-cache", "no-cache, must-revalidate", "max-age=0"])
def test_what_is_to_be_revalidated(control: str) -> None:
    said = ("Cache-Control", control)
    assert head(said) == HeadVerdict(storable=True, overridden=True)
    assert head(said, status=401) == HeadVerdict(storable=True, ttl_cap=10, overridden=True)
    assert head(said, ("ETag", '"a"')) == refused(Rejection.NO_CACHE)
    assert head(said, ("last-modified", DATE[1])) == refused(Rejection.NO_CACHE)
    assert polled(said) == refused(Rejection.NO_CACHE)


def test_must_revalidate_alone_is_about_stale_responses() -> None:
    said = [("Cache-Control", "must-revalidate"), ("ETag", '"a"')]
    assert head(*said) == HeadVerdict(storable=True)


def test_freshness_is_a_cap() -> None:
    assert head(("Cache-Control", "max-age=7")).ttl_cap == 7
    assert head(("Cache-Control", "max-age=700"), status=400).ttl_cap == 60
    assert head(("Cache-Control", "max-age=7"), status=400).ttl_cap == 7
    assert head(("Expires", "Sat, 28 Nov 2026 06:01:00 GMT"), DATE).ttl_cap == 60


@pytest.mark.parametrize("name", ["Origin", "Accept-Encoding, Accept", "x-a", "Authorization"])
def test_what_it_varies_by_is_part_of_the_key(name: str) -> None:
    assert head(("Vary", name)).storable


@pytest.mark.parametrize("name", [*sorted(IGNORED_HEADERS), "*", "X-Stainless-Lang", "If-Match"])
def test_what_it_varies_by_must_be_part_of_the_key(name: str) -> None:
    assert head(("Vary", f"Origin, {name.title()}")) == refused(Rejection.VARY)


def test_types_that_cannot_be_judged() -> None:
    assert head(EVENTS).storable
    assert head(("Content-Type", "application/problem+json")).storable
    for kind in ("text/html", "audio/mpeg", "", "application/x-ndjson"):
        assert head(("Content-Type", kind)) == refused(Rejection.CONTENT_TYPE)
    assert head(EVENTS, status=400) == refused(Rejection.CONTENT_TYPE)


def test_encodings_that_cannot_be_judged() -> None:
    for encoding in ("gzip", "X-Gzip", "deflate", "identity", ""):
        assert head(("Content-Encoding", encoding)).storable
        assert head(("Content-Encoding", encoding), EVENTS).storable
    for encoding in ("br", "zstd", "gzip, gzip"):
        assert head(("Content-Encoding", encoding)) == refused(Rejection.CONTENT_TYPE)
        assert head(("Content-Encoding", encoding), EVENTS) == refused(Rejection.CONTENT_TYPE)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m"])
def test_models_need_no_freshness(path: str) -> None:
    assert head(method="GET", path=path) == HeadVerdict(storable=True)


@pytest.mark.parametrize("path", ["/v1/responses/r", "/v1/batches/b", "/v1/files", "/v1/modelsx"])
def test_other_gets_need_freshness(path: str) -> None:
    """A copy of five minutes would hang whoever polls."""
    assert head(method="GET", path=path) == refused(Rejection.NO_FRESHNESS)
    fresh = head(("Cache-Control", "max-age=60"), method="GET", path=path)
    assert fresh == HeadVerdict(storable=True, ttl_cap=60)


def test_other_gets_may_bring_anything_but_a_stream() -> None:
    fresh = ("Cache-Control", "max-age=60")
    assert polled(fresh, ("Content-Type", "application/octet-stream")).storable
    assert polled(fresh, ("Content-Type", "text/plain"), ("Content-Encoding", "br")).storable
    assert polled(fresh, EVENTS) == refused(Rejection.CONTENT_TYPE)
    aged = polled(("Cache-Control", "max-age=60"), ("Age", "60"))
    assert aged == refused(Rejection.NO_CACHE)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Cache-Control", "Vary", "Expires", "Date", "Age", "Content-Type"]),
            st.text(max_size=12) | st.sampled_from(["max-age=60", "application/json"]),
        ),
        max_size=5,
    ),
    st.integers(100, 599),
)
def test_no_head_raises(headers: list[tuple[str, str]], status: int) -> None:
    found = head_verdict(status, headers, "POST", CHATS)
    assert found.storable is (found.reason == "")
