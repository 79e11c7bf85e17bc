"""Whatever comes in, the management API answers with a 2xx or a 4xx: no input is a defect of ours.

Every field of every call is given JSON as no client writes it: nested, of every size, in other
encodings, with NULs and half surrogates. On each database, which has limits of its own.
"""

import string
from typing import Any, Final
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as some

from proxy.web.api import audit, minting, projects, tokens, usage
from proxy.web.api.fields import MAX_DEPTH
from tests.support.management_client import ABSENT, UPSTREAM_KEY, Management

QUERIES: Final = {
    "/projects": frozenset({"limit", "after"}),
    "/tokens": tokens._QUERY,
    "/audit": audit._PARAMETERS,
    "/usage": usage._PARAMETERS,
}


def nested(opening: str, closing: str, inner: str, depth: int) -> bytes:
    return (opening * depth + inner + closing * depth).encode()


_ODD_NUMBERS: Final = """
    0 -0 1.0 1e0 60.0 1e400 -1e400 1e-400 1e308 0.1 -1 01 0x10 1_0 NaN Infinity -Infinity +1 . 1. .5
    1e 9223372036854775807 9223372036854775808 -9223372036854775808 -9223372036854775809
    18446744073709551615 18446744073709551616
"""
#: JSON numbers of every size and kind, and what only looks like one.
NUMBERS: Final = some.one_of(
    some.sampled_from(_ODD_NUMBERS.split()),
    some.integers(0, 5000).map(lambda digits: "1" * digits),
    some.integers().map(str),
    some.floats().map(repr),
).map(str.encode)
#: JSON strings, escaped or raw, with characters that something behind us might stumble over.
CHARACTERS: Final = some.one_of(
    some.sampled_from(
        [
            rb"\u0000",
            rb"\ud800",
            rb"\udfff",
            rb"\ud83d\ude00",
            rb"\uffff",
            rb"\u202e",
            rb"\"",
            rb"\x",
        ]
    ),
    some.sampled_from(
        [b"\x00", b"\x7f", b"\xff", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"%", b"*"]
    ),
    some.sampled_from([character.encode("utf-16") for character in "aé😀"]),
    some.characters(codec="utf-8").map(str.encode),
    some.sampled_from([c.encode() for c in "٠²ⅷ／:./[]@#?*-_ \t\n" + string.ascii_letters[:6]]),
)
TEXTS: Final = some.one_of(
    some.lists(CHARACTERS, max_size=8).map(b"".join),
    some.builds(lambda piece, times: piece * times, CHARACTERS, some.integers(0, 6000)),
    some.sampled_from(
        [
            *(b"0000-01-01T00:00:00Z 9999-12-31T23:59:59-23:59 0001-01-01T00:00:00+23:59").split(),
            *(b"2026-05-20T24:00:00Z 2026-05-20T23:59:60Z 2026-05-20T00:00:00+99:99").split(),
            *(b"::1 127.0.0.1/33 ::ffff:1.2.3.4 fe80::1%eth0 http://[::1 http://a:99999").split(),
            *(b"https://*.* https://xn--a /v1/**/x // GET sk- sk-abc...1234").split(),
            UPSTREAM_KEY.encode(),
            ABSENT.encode(),
        ]
    ),
)
STRINGS: Final = TEXTS.map(lambda text: b'"' + text + b'"')
NESTED: Final = some.builds(
    nested,
    some.sampled_from(["[", '{"a":', '[{"a":']),
    some.just(""),
    some.sampled_from(["1", "[]", '"x"']),
    some.sampled_from([50, 99, 100, 101, 200, 253, 254, 255, 300, 1000, 1023, 1024, 1025, 60_000]),
).map(lambda raw: raw + bytes({123: 125, 91: 93}[byte] for byte in reversed(raw) if byte in b"[{"))
LEAVES: Final = some.one_of(
    NUMBERS, STRINGS, NESTED, some.sampled_from([b"null", b"true", b"[]", b"{}", b""])
)
VALUES: Final = some.one_of(
    LEAVES,
    some.lists(LEAVES, max_size=3).map(lambda parts: b"[" + b",".join(parts) + b"]"),
    some.builds(lambda name, value: b"{%b:%b}" % (name, value), STRINGS, LEAVES),
    some.builds(lambda name, value: b"{%b:[%b]}" % (name, value), STRINGS, LEAVES),
)
#: Of one text many times over, as a field that only a project or only a token has is refused.
BODIES: Final = {
    "project": projects._CHANGE | {"project_id"},
    "token": tokens._CREATE | tokens._CHANGE | minting._KNOWN,
}
MANY = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Api:
    """The API, a project and a token to be changed, and what a good body is around one field."""

    def __init__(self, url: str) -> None:
        self.api = Management(url)
        self.project = self.api.project("P")["id"]
        self.token = self.api.token(self.project)["id"]

    def send(self, method: str, path: str, body: bytes = b"") -> None:
        answer = self.api.client.open("/manage" + path, method=method, data=body)
        assert answer.status_code < 500, (method, path[:200], body[:200])

    def put(self, field: str, value: bytes, kind: str) -> None:
        good = {"project": {"name": '"N"', "api_key": f'"{UPSTREAM_KEY}"'}}.get(
            kind, {"project_id": f'"{self.project}"', "duration_minutes": "5"}
        )
        if field in ("duration_hours", "expires_at"):
            good.pop("duration_minutes", None)
        given = {name: text.encode() for name, text in good.items()} | {field: value}
        whole = b"{" + b",".join(b'"%b":%b' % (n.encode(), v) for n, v in given.items()) + b"}"
        alone = b'{"%b":%b}' % (field.encode(), value)
        own = self.project if kind == "project" else self.token
        self.send("POST", f"/{kind}s", whole)
        self.send("PATCH", f"/{kind}s/{own}", alone)
        if kind == "project":
            named = b'{"project_id":"%b","%b":%b}' % (own.encode(), field.encode(), value)
            self.send("PATCH", "/projects", named)
        self.send("DELETE", f"/{kind}s", b'{"token":%b}' % value)
        # What was taken must be shown, too: in answers, lists and the audit log.
        for path in (f"/{kind}s/{own}", f"/{kind}s", "/audit"):
            self.send("GET", path)


@pytest.fixture
def api(migrated_url: str) -> Api:
    return Api(migrated_url)


DEEP: Final = nested('{"a":', "}", "1", 250)


@MANY
@given(some.sampled_from(sorted(BODIES["project"])), VALUES)
@example("metadata", DEEP)
@example("metadata", nested('{"a":', "}", "1", 600))
@example("metadata", b'{"a":"\\u0000"}')
@example("description", b'"\\ud800"')
def test_every_field_of_a_project(api: Api, field: str, value: bytes) -> None:
    api.put(field, value, "project")


@MANY
@given(some.sampled_from(sorted(BODIES["token"])), VALUES)
@example("max_requests", b"18446744073709551615")
@example("required_headers", b'{"\\u0000":["a"]}')
def test_every_field_of_a_token(api: Api, field: str, value: bytes) -> None:
    api.put(field, value, "token")


@MANY
@given(some.data(), TEXTS)
def test_every_query_and_every_id(api: Api, data: some.DataObject, text: bytes) -> None:
    path = data.draw(some.sampled_from(sorted(QUERIES)))
    name = data.draw(some.sampled_from(sorted(QUERIES[path])))
    given = quote_from_bytes(text[:4000])
    api.send("GET", f"{path}?{name}={given}")
    api.send("GET", f"{path}?{given}={name}")
    if given and path != "/usage":
        for method in ("GET", "PATCH", "DELETE"):
            api.send(method, f"{path}/{given}", b"{}")


@MANY
@given(some.one_of(VALUES, some.binary(max_size=200), TEXTS))
def test_every_body(api: Api, body: bytes) -> None:
    for method, path in (
        ("POST", "/projects"),
        ("PATCH", f"/projects/{api.project}"),
        ("DELETE", "/projects"),
        ("POST", "/tokens"),
        ("DELETE", "/tokens"),
    ):
        api.send(method, path, body)


def test_metadata_may_be_as_deep_as_people_need(sqlite_url: str) -> None:
    api = Management(sqlite_url)
    value: Any = 1
    for _ in range(MAX_DEPTH - 1):
        value = {"a": value}
    made = api.project(metadata={"a": value})
    assert api.call("GET", f"/projects/{made['id']}")["metadata"] == {"a": value}
    body = {"metadata": {"a": {"a": value}}}
    error = api.refused("PATCH", f"/projects/{made['id']}", body, 400, "metadata")
    assert f"{MAX_DEPTH} levels" in error["message"]
