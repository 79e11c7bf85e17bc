"""What clients and upstreams say about caching."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.directives import (
    ClientDirectives,
    UpstreamDirectives,
    client_directives,
    http_date,
    upstream_directives,
    varying_names,
)

FOREVER = 2.0**31
DATE = ("Date", "Sat, 28 Nov 2026 06:00:00 GMT")


def asked(*values: str, pragma: str | None = None) -> ClientDirectives:
    lines = [("CACHE-CONTROL", value) for value in values]
    return client_directives([*lines, *([] if pragma is None else [("Pragma", pragma)])])


def allowed(*values: str, **headers: str) -> UpstreamDirectives:
    lines = [("Cache-Control", value) for value in values]
    return upstream_directives([*lines, *headers.items()], clock=lambda: 0.0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", {}),
        ("no-store", {"no_store": True}),
        ("No-Store", {"no_store": True}),
        ("no-cache", {"no_cache": True}),
        ("public", {"public": True}),
        ("only-if-cached", {"only_if_cached": True}),
        ("max-age=60", {"max_age": 60}),
        ('max-age="60"', {"max_age": 60}),
        ("max-age = 60", {"max_age": 60}),
        ("max-age=0060", {"max_age": 60}),
        ("max-age=0", {"max_age": 0}),
        ("max-age=99999999999999999999", {"max_age": FOREVER}),
        ("max-age=00000000000000000000007", {"max_age": 7}),
        ("public,max-age=300", {"public": True, "max_age": 300}),
        ("max-age=60 , public", {"public": True, "max_age": 60}),
        ("min-fresh=5", {"min_fresh": 5}),
        ("max-stale", {"max_stale": FOREVER}),
        ("max-stale=5", {"max_stale": 5}),
        ("stale-if-error=5", {"stale_if_error": 5}),
        ("no-transform, x-new=1, no-store", {"no_store": True}),
        (',, ,no-store,"', {"no_store": True}),
        ("no-store=1", {"no_store": True}),
        # A quoted value may hold what looks like a directive.
        ('x="a, no-store"', {}),
        (r'x="a\", no-store", public', {"public": True}),
        # What cannot be read says the strictest thing.
        ("max-age", {"max_age": 0}),
        ("max-age=", {"max_age": 0}),
        ("max-age=-1", {"max_age": 0}),
        ("max-age=1.5", {"max_age": 0}),
        ("max-age=soon", {"max_age": 0}),
        ("max-age=\u0664", {"max_age": 0}),
        ("min-fresh=soon", {"min_fresh": FOREVER}),
        ("max-stale=soon", {}),
        ("stale-if-error", {"stale_if_error": 0}),
        ('x="a, no-store', {"no_store": True}),
        ('@"no-store", public', {"public": True}),
        ("no-store@, public", {"no_store": True, "public": True}),
        # Of two, the stricter one holds.
        ("max-age=60, max-age=5", {"max_age": 5}),
        ("max-age=5, max-age=60", {"max_age": 5}),
        ("min-fresh=5, min-fresh=9", {"min_fresh": 9}),
        ("min-fresh=9, min-fresh=5", {"min_fresh": 9}),
        ("max-stale=9, max-stale", {"max_stale": 9}),
        ("stale-if-error=5, stale-if-error=9", {"stale_if_error": 5}),
    ],
)
def test_what_a_client_asks(value: str, expected: dict[str, Any]) -> None:
    assert asked(value) == ClientDirectives(**expected)


def test_lines_add_up() -> None:
    assert asked("max-age=60", "no-store", "max-age=5") == ClientDirectives(
        no_store=True, max_age=5
    )


def test_pragma_counts_alone() -> None:
    assert asked(pragma="no-cache") == ClientDirectives(no_cache=True)
    assert asked(pragma="x") == ClientDirectives()
    assert asked("max-age=5", pragma="no-cache") == ClientDirectives(max_age=5)


def test_nothing_is_asked() -> None:
    assert client_directives([]) == ClientDirectives()
    assert client_directives([("X-Cache-Thing", "no-store"), ("pragmb", "no-cache")]) == (
        ClientDirectives()
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("no-store", {"no_store": True}),
        ("private", {"private": True}),
        ('private="set-cookie"', {"private": True}),
        ("no-cache", {"no_cache": True, "must_revalidate": True}),
        ('no-cache="x"', {"no_cache": True, "must_revalidate": True}),
        ("must-revalidate", {"must_revalidate": True}),
        ("proxy-revalidate", {"must_revalidate": True}),
        ("public, max-age=60", {"freshness": 60}),
        ("max-age=60, max-age=5", {"freshness": 5}),
        ("max-age=60, s-maxage=5", {"freshness": 5, "must_revalidate": True}),
        ("s-maxage=60, max-age=5", {"freshness": 60, "must_revalidate": True}),
        ("max-age=0", {"freshness": 0}),
        ("max-age=soon", {"freshness": 0}),
        ("public, immutable, no-transform", {}),
    ],
)
def test_what_an_upstream_allows(value: str, expected: dict[str, Any]) -> None:
    assert allowed(value) == UpstreamDirectives(**expected)


@pytest.mark.parametrize(
    ("expires", "date", "freshness"),
    [
        ("Sat, 28 Nov 2026 06:01:00 GMT", DATE[1], 60),
        ("Saturday, 28-Nov-26 06:01:00 GMT", DATE[1], 60),
        ("Sat Nov 28 06:01:00 2026", DATE[1], 60),
        ("Sat, 28 Nov 2026 05:00:00 GMT", DATE[1], 0),
        ("0", DATE[1], 0),
        ("-1", DATE[1], 0),
        ("soon", DATE[1], 0),
        # Without a date, by the clock, which stands at 0 here.
        ("Thu, 01 Jan 1970 00:01:00 GMT", None, 60),
        ("Thu, 01 Jan 1970 00:01:00 GMT", "soon", 60),
    ],
)
def test_expires(expires: str, date: str | None, freshness: float) -> None:
    headers = {"Expires": expires} | ({} if date is None else {"Date": date})
    assert allowed(**headers).freshness == freshness


def test_max_age_is_stronger_than_expires() -> None:
    assert allowed("max-age=5", Expires="Sat, 28 Nov 2026 06:01:00 GMT").freshness == 5


@pytest.mark.parametrize(("age", "freshness"), [("20", 40), ("90", 0), ("old", 0)])
def test_an_age_is_taken_off(age: str, freshness: float) -> None:
    assert allowed("max-age=60", Age=age).freshness == freshness
    assert allowed(Age=age).freshness is None


def test_of_two_expiries_the_earlier_one_holds() -> None:
    lines = [("expires", "Sat, 28 Nov 2026 06:01:00 GMT"), ("expires", "0"), DATE]
    assert upstream_directives(lines).freshness == 0


@given(st.text(max_size=40))
def test_no_text_raises(text: str) -> None:
    asked(text, pragma=text)
    allowed(text, Expires=text, Date=text, Age=text, Vary=text)
    http_date(text)


@pytest.mark.parametrize("text", ['x="' + "\\" * 50_000, "a" * 100_000, "," * 100_000, "=" * 9999])
def test_long_lines_take_no_time(text: str) -> None:
    """They are read in one pass: a pattern that tried again would take minutes."""
    assert asked(text + ", no-store").no_store


@given(
    st.lists(st.sampled_from(["no-store", "max-age=5", 'x="a, b"', "max-stale=1", ""]), max_size=5)
)
def test_one_line_is_as_many(values: list[str]) -> None:
    assert asked(", ".join(values)) == asked(*values)


def test_names_that_a_response_varies_by() -> None:
    lines = [("Vary", "Accept-Encoding, Origin"), ("vary", " X-A ,,"), ("Very", "x")]
    assert varying_names(lines) == {"accept-encoding", "origin", "x-a"}
    assert varying_names([("VARY", "*")]) == {"*"}
    assert varying_names([]) == frozenset()


def test_dates() -> None:
    assert http_date("Sun, 06 Nov 1994 08:49:37 GMT") == 784111777
    assert http_date("Sunday, 06-Nov-94 08:49:37 GMT") == 784111777
    assert http_date("Sun Nov  6 08:49:37 1994") == 784111777
    assert http_date("Sun, 99 Nov 1994 08:49:37 GMT") is None
