"""Access tokens where other SDKs put them: found, compared, and taken out of the request."""

import json
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import ClientError
from proxy.gateway.credentials import (
    headers_without_tokens,
    query_without_token,
    tokens_in_headers,
    tokens_in_query,
)
from proxy.gateway.request import ClientRequest
from tests.support.relay_factories import SECRET, Access, World, environ

OTHER = "sk-" + "b" * 22
LONGER = "sk-ant-api03-" + "a" * 22
PLACES = ["X-API-KEY", "API-KEY", "X-GOOG-API-KEY"]
UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "k")]
PROTOCOL = "openai-insecure-api-key."


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], set()),
        ([("AUTHORIZATION", f"Bearer {SECRET}")], {SECRET}),
        ([("AUTHORIZATION", f"bEARER   {SECRET} ")], {SECRET}),
        ([("AUTHORIZATION", f"Basic {SECRET}")], set()),
        ([("AUTHORIZATION", SECRET)], set()),
        ([("AUTHORIZATION", f"Bearer x {SECRET}")], set()),
        ([("AUTHORIZATION", f"Bearer {one}") for one in (SECRET, OTHER)], {SECRET, OTHER}),
        *([([(name, SECRET)], {SECRET}) for name in PLACES]),
        *([([(name, "a foreign key"), (name, SECRET)], {SECRET}) for name in PLACES]),
        ([("API-KEY", f"{SECRET}, {SECRET}")], {SECRET}),
        ([("API-KEY", f"Bearer {SECRET}")], {SECRET}),
        ([("API-KEY", SECRET), ("X-API-KEY", OTHER)], {SECRET, OTHER}),
        ([("X-API-KEY", LONGER)], set()),
        ([("X-API-KEY", SECRET + "a")], set()),
        ([("X-API-KEY", "a" + SECRET)], set()),
        ([("X-OTHER", SECRET)], set()),
    ],
)
def test_tokens_in_headers(lines: list[tuple[str, str]], expected: set[str]) -> None:
    assert tokens_in_headers(lines, upgrades=False) == expected


def test_a_subprotocol_counts_for_a_websocket_alone() -> None:
    lines = [("SEC-WEBSOCKET-PROTOCOL", f"realtime, {PROTOCOL}{SECRET}")]
    assert tokens_in_headers(lines, upgrades=True) == {SECRET}
    assert tokens_in_headers(lines, upgrades=False) == set()
    assert headers_without_tokens(lines) == [("SEC-WEBSOCKET-PROTOCOL", "realtime")]


def test_only_what_holds_a_token_is_taken_out_of_headers() -> None:
    lines = [
        ("X-API-KEY", SECRET),
        ("X-API-KEY", "foreign ,  key"),
        ("API-KEY", f"foreign,{SECRET},Bearer {SECRET}"),
        ("X-OTHER", SECRET),
        ("X-GOOG-API-KEY", LONGER),
    ]
    assert headers_without_tokens(lines) == [
        ("X-API-KEY", "foreign ,  key"),
        ("API-KEY", "foreign"),
        ("X-OTHER", SECRET),
        ("X-GOOG-API-KEY", LONGER),
    ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", set()),
        ("key", set()),
        ("key=", set()),
        ("key=foreign", set()),
        (f"key={LONGER}", set()),
        (f"key={SECRET}", {SECRET}),
        (f"a=b&key={SECRET}&c=d", {SECRET}),
        (f"a=b;key={SECRET};c=d", {SECRET}),
        (f"KEY={SECRET}", {SECRET}),
        (f"%6bey={SECRET}", {SECRET}),
        (f"%256Bey={SECRET}", {SECRET}),
        (f"%20key={SECRET}", {SECRET}),
        ("key=" + "".join(f"%{ord(letter):02x}" for letter in SECRET), {SECRET}),
        ("key=" + "".join(f"%25{ord(letter):02X}" for letter in SECRET), {SECRET}),
        (f"key={SECRET}%2541", {SECRET}),
        (f"key=Bearer+{SECRET}", {SECRET}),
        (f"key={SECRET}&key={SECRET}", {SECRET}),
        (f"key={SECRET}&key={OTHER}", {SECRET, OTHER}),
        (f"key=foreign&key={SECRET}", {SECRET}),
        (f"monkey={SECRET}&keys={SECRET}&key[]={SECRET}", set()),
        ("key=%zz%", set()),
    ],
)
def test_tokens_in_a_query(query: str, expected: set[str]) -> None:
    assert tokens_in_query(query) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ""),
        (f"key={SECRET}", ""),
        (f"key={SECRET}&a=%2f+b", "a=%2f+b"),
        (f"a=%2F&key={SECRET}", "a=%2F"),
        (f"a=1;key={SECRET}&b=2", "a=1&b=2"),
        (f"a=1&key={SECRET};b=2", "a=1;b=2"),
        (f"key={SECRET};b", "b"),
        (f"key={SECRET}&key={SECRET}", ""),
        (f"key=foreign&key={SECRET}&&x", "key=foreign&&x"),
        (f"key={OTHER}", f"key={OTHER}"),
        (f"api_key={SECRET}&a", "a"),
        (f"a&key={quote(SECRET, safe='').replace('-', '%2D')}", "a"),
        (f"a=b%26key%3D{SECRET}", ""),
        ("a=%zz&?&b=?", "a=%zz&?&b=?"),
    ],
)
def test_a_query_without_the_token(query: str, expected: str) -> None:
    assert query_without_token(query, SECRET) == expected


def taken(
    target: str = "/v1/models", lines: list[tuple[str, str]] | None = None, **more: Any
) -> tuple[str | None, ClientRequest]:
    request = ClientRequest(environ("GET", target, lines or [], token=None, **more), 0)
    return request.take_access_token(), request


@pytest.mark.parametrize("name", ["x-api-key", "Api-Key", "X-GOOG-API-KEY"])
def test_a_header_will_do(name: str) -> None:
    given, request = taken(lines=[("A", "1"), (name, SECRET), ("B", "2")])
    assert given == f"Bearer {SECRET}"
    assert request.headers == [("A", "1"), ("B", "2")]
    assert request.header(name.upper()) is None


def test_a_query_will_do() -> None:
    given, request = taken(f"/v1/models?a=b&key={SECRET}")
    assert given == f"Bearer {SECRET}"
    assert (request.target, request.path) == ("/v1/models?a=b", "/v1/models")
    assert taken(f"/v1/models?key={SECRET}")[1].target == "/v1/models"


def test_another_key_is_no_credential() -> None:
    for lines in ([("x-api-key", "foreign")], [("authorization", "Bearer foreign")]):
        given, request = taken("/v1/models?key=foreign", lines)
        assert given == dict(lines).get("authorization")
        assert request.target == "/v1/models?key=foreign"
        assert request.headers == [(name.upper(), value) for name, value in lines]


def test_the_token_is_taken_from_where_it_stands() -> None:
    """A credential for a front door, or a foreign one, does not hide the token behind it."""
    for foreign in ("Basic dXNlcjpwYXNz", "Bearer foreign", ""):
        given, _ = taken(lines=[("Authorization", foreign), ("x-api-key", SECRET)])
        assert given == f"Bearer {SECRET}"


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        ("/v1/models", [("Authorization", f"Bearer {SECRET}"), ("x-api-key", OTHER)]),
        ("/v1/models", [("Authorization", f"Bearer {one}") for one in (SECRET, OTHER)]),
        ("/v1/models", [("api-key", SECRET), ("api-key", OTHER)]),
        (f"/v1/models?key={OTHER}", [("Authorization", f"Bearer {SECRET}")]),
        (f"/v1/models?key={OTHER}&key={SECRET}", []),
        (
            "/v1/realtime",
            [
                *UPGRADE,
                ("Authorization", f"Bearer {SECRET}"),
                ("Sec-WebSocket-Protocol", PROTOCOL + OTHER),
            ],
        ),
    ],
)
def test_two_that_differ_are_refused(target: str, lines: list[tuple[str, str]]) -> None:
    with pytest.raises(ClientError) as caught:
        taken(target, lines)
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")
    assert "two different access tokens" in str(caught.value)
    assert not {SECRET, OTHER} & set(str(caught.value).split())


def test_the_order_of_the_checks() -> None:
    lines = [("x-api-key", OTHER)]
    world = World()
    assert world.ask("TRACE", headers=lines).code == 405
    assert world.access.steps == []
    world = World()
    refused = world.ask("GET", "/not/v1", headers=lines)
    assert (refused.code, json.loads(refused.body)["error"]["code"]) == (400, "invalid_request")
    assert world.access.steps == [], "the store is not asked about either of them"
    assert (world.event.outcome, world.event.token_id) == ("rejected", None)
    assert not world.transport.calls


def test_the_same_value_twice_is_fine() -> None:
    lines = [("x-api-key", SECRET), ("X-Api-Key", SECRET), ("api-key", SECRET)]
    world = World()
    assert world.ask("GET", f"/v1/models?key={SECRET}", headers=lines).code == 200
    (call,) = world.transport.calls
    assert call.url == "http://upstream.test/v1/models"


def test_foreign_keys_go_upstream_as_they_came() -> None:
    world = World()
    lines = [("x-api-key", "foreign"), ("api-key", LONGER), ("x-goog-api-key", "AIza")]
    assert world.ask("GET", "/v1/models?key=AIza&x=%2f;y", headers=lines).code == 200
    (call,) = world.transport.calls
    assert call.url == "http://upstream.test/v1/models?key=AIza&x=%2f;y"
    assert [(name.lower(), value) for name, value in call.request.headers[1:4]] == lines


def test_in_pass_through_nothing_of_this_holds() -> None:
    class PassThrough(Access):
        def authenticate(self, authorization: str | None) -> Any:
            self.steps.append(f"authenticate {authorization}")
            return self.principal

    world = World(access=PassThrough(relays_credentials=True))
    lines = [("x-api-key", OTHER), ("api-key", SECRET)]
    target = f"/v1/models?key={OTHER}&key={SECRET}"
    assert world.ask("GET", target, headers=lines, token="mine").code == 200
    assert world.access.steps[0] == "authenticate Bearer mine"
    (call,) = world.transport.calls
    assert call.url == f"http://upstream.test{target}"
    assert [(name.lower(), value) for name, value in call.request.headers[1:3]] == lines


def test_events_do_not_show_the_query() -> None:
    world = World()
    world.ask("GET", f"/v1/models?key={SECRET}", token=None)
    assert world.event.endpoint == "/v1/models"
    assert SECRET not in repr((world.event, world.events.intents))


# However a client combines the places, no byte that goes upstream holds the token.


def escaped(text: str, times: int) -> str:
    for _ in range(times):
        text = "".join(f"%{ord(letter):02x}" for letter in text)
    return text


SPELLINGS = st.sampled_from(
    [SECRET, f"Bearer {SECRET}", f" {SECRET} ", f"{SECRET},{SECRET}", f"x,{SECRET}", f'"{SECRET}"']
)
NAMES = st.sampled_from([*PLACES, *map(str.lower, PLACES), "X-Api-Key", "Sec-WebSocket-Protocol"])
LINES = st.one_of(
    st.tuples(NAMES, SPELLINGS),
    st.tuples(NAMES, st.sampled_from(["foreign", LONGER, ""])),
    st.tuples(st.just("Sec-WebSocket-Protocol"), SPELLINGS.map(lambda each: PROTOCOL + each)),
    st.tuples(st.just("Authorization"), st.sampled_from([f"Bearer {SECRET}", "Basic eA==", "x"])),
)
PARAMETERS = st.one_of(
    st.builds(
        lambda name, value, deep, deeper: f"{escaped(name, deep)}={escaped(value, deeper)}",
        st.sampled_from(["key", "KEY", "Key", "api_key", "key[]", "x"]),
        st.sampled_from([SECRET, f"Bearer {SECRET}", f"{SECRET}/"]),
        st.integers(0, 2),
        st.integers(0, 2),
    ),
    st.sampled_from(["", "key", "key=foreign", "a=%2f", f"a%26key%3d{SECRET}", "%", "=", "b=?"]),
)
QUERIES = st.lists(st.tuples(PARAMETERS, st.sampled_from("&;?")), max_size=5).map(
    lambda pairs: "".join(parameter + separator for parameter, separator in pairs)
)


@given(st.lists(LINES, max_size=5), QUERIES, st.booleans(), st.booleans())
def test_no_placement_leaks(
    lines: list[tuple[str, str]], query: str, upgrading: bool, authorized: bool
) -> None:
    world = World()
    upgrades: list[Any] = []
    world.transport.upgrade = lambda call, timing: upgrades.append(call) or world.response  # type: ignore[attr-defined]
    lines = [*lines, *(UPGRADE if upgrading else ())]
    result = world.ask(
        "GET", f"/v1/models?{query}", headers=lines, token=SECRET if authorized else None
    )
    sent = [*world.transport.calls, *upgrades]
    if authorized:
        assert (result.code, len(sent)) == (200, 1)
    for call in sent:
        text = repr((call.url, call.request.target, call.request.headers))
        for _ in range(3):
            assert SECRET not in text
            text = unquote(text, "latin-1")
    for made in (result.body.decode(), repr(result.headers), repr(world.events)):
        assert SECRET not in made
