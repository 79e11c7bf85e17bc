"""Conditional requests against stored validators (RFC 9110 §13)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.conditional import is_not_modified, not_modified

TAG = ("ETag", '"a"')
MODIFIED = ("Last-Modified", "Sat, 28 Nov 2026 06:00:00 GMT")
EARLIER, LATER = "Sat, 28 Nov 2026 05:59:59 GMT", "Sat, 28 Nov 2026 06:00:01 GMT"


def matches(asked: str, tag: str = '"a"') -> bool:
    return is_not_modified("GET", [("IF-NONE-MATCH", asked)], 200, [("etag", tag)])


@pytest.mark.parametrize(
    "asked",
    ['"a"', 'W/"a"', '"b", "a"', '"b","a","c"', ' , "a" ,', "*", " * ", '"x,y", W/"a"'],
)
@pytest.mark.parametrize("tag", ['"a"', 'W/"a"', ' "a" '])
def test_a_weak_comparison(asked: str, tag: str) -> None:
    assert matches(asked, tag)


@pytest.mark.parametrize(
    "asked",
    ['"b"', "a", "", '"A"', '"a', 'w/"a"', '"ba"', '"x,"a"', '"b" "a"', 'x"a"', '*, "a"', '"a"x'],
)
def test_what_does_not_match(asked: str) -> None:
    assert not matches(asked)


def test_tags_may_have_commas_and_nothing() -> None:
    assert matches('"a,b"', '"a,b"')
    assert not matches('"a"', '"a,b"')
    assert matches('""', '""')


def test_several_lines_are_one_list() -> None:
    asked = [("If-None-Match", '"b"'), ("if-none-match", '"a"')]
    assert is_not_modified("GET", asked, 200, [TAG])


def test_a_validator_is_not_invented() -> None:
    assert not is_not_modified("GET", [("If-None-Match", '"a"')], 200, [])
    assert not is_not_modified("GET", [("If-None-Match", '""')], 200, [("ETag", "a")])
    assert not is_not_modified("GET", [("If-None-Match", '"a"')], 200, [TAG, ("ETag", '"b"')])
    assert not is_not_modified("GET", [("If-Modified-Since", LATER)], 200, [TAG])


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (MODIFIED[1], True),
        (LATER, True),
        (EARLIER, False),
        ("Saturday, 28-Nov-26 06:00:00 GMT", True),
        ("soon", False),
        ("", False),
    ],
)
def test_dates(since: str, expected: bool) -> None:
    asked = [("If-Modified-Since", since)]
    assert is_not_modified("GET", asked, 200, [MODIFIED]) is expected
    assert is_not_modified("HEAD", asked, 200, [MODIFIED]) is expected


def test_a_tag_decides_alone() -> None:
    asked = [("If-Modified-Since", LATER), ("If-None-Match", '"b"')]
    assert not is_not_modified("GET", asked, 200, [TAG, MODIFIED])
    asked = [("If-Modified-Since", EARLIER), ("If-None-Match", '"a"')]
    assert is_not_modified("GET", asked, 200, [TAG, MODIFIED])


def test_two_dates_are_none() -> None:
    asked = [("If-Modified-Since", LATER), ("If-Modified-Since", LATER)]
    assert not is_not_modified("GET", asked, 200, [MODIFIED])


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_methods_have_no_304(method: str) -> None:
    assert not is_not_modified(method, [("If-None-Match", '"a"')], 200, [TAG])


@pytest.mark.parametrize("status", [201, 400, 401])
def test_other_statuses_have_no_304(status: int) -> None:
    assert not is_not_modified("GET", [("If-None-Match", "*")], status, [TAG])


def test_without_a_condition_all_is_sent() -> None:
    assert not is_not_modified("GET", [("If-Match", '"a"')], 200, [TAG, MODIFIED])


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_text_raises(asked: str, stored: str) -> None:
    lines = [("If-None-Match", asked)]
    is_not_modified("GET", lines, 200, [("ETag", stored)])
    is_not_modified("GET", [("If-Modified-Since", asked)], 200, [("Last-Modified", stored)])


@pytest.mark.parametrize("text", ['"a",' * 20_000 + "x", '"' * 50_000, "," * 100_000])
def test_long_lists_take_no_time(text: str) -> None:
    assert not matches(text)


def test_a_304_does_not_describe_the_body() -> None:
    kept = [
        ("ETag", '"a"'),
        ("Cache-Control", "max-age=60"),
        ("Content-Location", "/x"),
        ("Expires", "0"),
        ("Vary", "Origin"),
        ("x-request-id", "r"),
    ]
    body = [("Content-Type", "a"), ("content-length", "2"), ("Content-Encoding", "gzip")]
    assert not_modified([*body, *kept]) == kept
