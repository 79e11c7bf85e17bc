"""The cache of header lines. Its verdict is that of gunicorn: see `test_request_parser.py`."""

import pytest
from gunicorn.config import Config

from proxy.server.request_parser import HeaderLineCache, Line, NeedsFullParse, head_class


@pytest.fixture
def known() -> HeaderLineCache:
    return head_class(Config()).known


def test_a_line_is_judged_once(known: HeaderLineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    own: dict[bytes, Line] = {}
    assert known.field(b"accept: */*", own) == ("ACCEPT", "*/*")
    assert known.fields == {b"accept: */*": ("ACCEPT", "*/*")}
    parts = known.first(b"GET /v1/models HTTP/1.1")
    monkeypatch.setattr(known, "_parser", None)
    assert known.first(b"GET /v1/models HTTP/1.1") is parts
    assert not own


@pytest.mark.parametrize(
    "line", [b"Authorization: Bearer x", b"Cookie: a=b", b"X-Api-Key: k", b"X-Stainless: no"]
)
def test_what_may_be_a_secret_belongs_to_its_connection(
    known: HeaderLineCache, line: bytes
) -> None:
    own: dict[bytes, Line] = {}
    pair = known.field(line, own)
    assert not known.fields
    assert own == {line: pair}


def test_what_changes_the_request_is_not_for_a_line_alone(known: HeaderLineCache) -> None:
    with pytest.raises(NeedsFullParse):
        known.field(b"Expect: 100-continue", {})
    assert not known.fields


def test_a_query_and_a_long_line_are_not_remembered(known: HeaderLineCache) -> None:
    for target in (b"/v1/models?key=secret", b"http://u:secret@h/v1/x", b"http://h/v1/x"):
        line = b"GET %b HTTP/1.1" % target
        assert known.first(line) is not known.first(line)
    long = b"Accept: " + b"x" * 600
    own: dict[bytes, Line] = {}
    known.field(long, own)
    assert not known.fields
    assert not own
