"""``*`` and nothing else; and no time that grows with what a client sends."""

import re

from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.globs import Globs, HostGlobs

PATTERNS = st.text(alphabet="ab*.[", max_size=8)
TEXTS = st.text(alphabet="ab.[", max_size=10)


def test_examples() -> None:
    globs = Globs(["gpt-4o*", "o3", "*-mini", "a*b*c", ""])
    for text in ("gpt-4o", "gpt-4o-x", "o3", "o4-mini", "-mini", "abc", "a-b-b-c", ""):
        assert globs.match(text), text
    for text in ("gpt-4", "Gpt-4o", "o3 ", "o3x", "mini", "ab", "acb", "ac", "\n"):
        assert not globs.match(text), text
    assert not Globs([]).match("")


def test_ends_do_not_overlap() -> None:
    assert not Globs(["aba*aba"]).match("ababa")
    assert Globs(["aba*aba"]).match("abaaba")


def test_everything() -> None:
    assert Globs(["x", "**"]).match_all
    assert Globs(["*"]).match_all
    assert not Globs(["x*", ""]).match_all
    assert Globs(["*"]).match("")


@given(PATTERNS, TEXTS)
def test_as_a_regular_expression_would(pattern: str, text: str) -> None:
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
    assert Globs([pattern]).match(text) is expected


def test_a_hostile_text_is_gone_through_once() -> None:
    """A regular expression that goes back would not come to an end here."""
    assert not Globs(["*a" * 40 + "*b"]).match("a" * 100_000)
    assert not Globs(["*ab" * 40 + "*c*"]).match("a" * 100_000)


def test_host_runs() -> None:
    globs = HostGlobs(["https://*.a.test", "http://x.test:*", "exact"])
    for text in ("https://b.a.test", "https://b.c-1.a.test", "http://x.test:80", "exact"):
        assert globs.match(text), text
    for text in ("https://.a.test", "https://b/.a.test", "https://B.a.test", "http://x.test:", ""):
        assert not globs.match(text), text


@given(
    st.text(alphabet="ab*:/", max_size=9),
    st.text(alphabet="ab:/", max_size=12),
)
def test_host_runs_as_a_regular_expression_would(pattern: str, text: str) -> None:
    expected = re.fullmatch("[a-z0-9.-]+".join(map(re.escape, pattern.split("*"))), text)
    assert HostGlobs([pattern]).match(text) is (expected is not None)


def test_a_hostile_origin_is_gone_through_once() -> None:
    assert not HostGlobs(["https://" + "*-" * 40 + "*.test"]).match("https://" + "-" * 100_000)
    assert not HostGlobs(["*-a" * 40 + "*b*"]).match("-" * 100_000)
