"""proxy/usage/json_grammar.py against Python's parser, and where that one gives up."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.usage.json_grammar import object_by_grammar
from tests.support.json_values import VALUES


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=6), st.sampled_from([None, 1]), st.booleans())
def test_members_as_they_are_written(
    value: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    text = text.replace(b"Infinity", b"1e999")
    found = object_by_grammar(text)
    assert found is not None
    assert {name: json.loads(member) for name, member in found.items()} == json.loads(text)


@settings(max_examples=500, deadline=None)
@given(st.text('{}[]",:\\u0d8/ab1e+-.0 \n', max_size=24))
def test_what_is_no_object_is_none(inside: str) -> None:
    for text in (inside.encode(), b'{"a":' + inside.encode() + b"}", b"{" + inside.encode() + b"}"):
        try:
            parsed = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
        found = object_by_grammar(text)
        names = len(json.loads(text, object_pairs_hook=list)) if isinstance(parsed, dict) else 0
        expected = isinstance(parsed, dict) and names == len(parsed)
        assert (found is not None) is expected


@pytest.mark.parametrize(
    "value",
    [
        b'"\\ud83d"',
        b'"\\udc00 x"',
        b"1e400",
        b"-1E+999",
        b"9" * 5000,
        b"[" * 3000 + b"]" * 3000,
        b'{"a":' * 3000 + b"1" + b"}" * 3000,
    ],
    ids=lambda value: repr(value[:12]),
)
def test_what_parsers_refuse_and_the_grammar_allows(value: bytes) -> None:
    assert object_by_grammar(b'{"x": %b , "stream":true}' % value) == {
        "x": value,
        "stream": b"true",
    }


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"5",
        b"{} {}",
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":01}',
        b'{"a":1.}',
        b'{"a":.5}',
        b'{"a":+1}',
        b'{"a":"\x1b"}',
        b'{"a":"\\x"}',
        b'{"a":"\xff"}',
        b'{"a":1,}',
        b'{"a":[1,]}',
        b'{"a":[,1]}',
        b'{"a" 1}',
        b"{1:1}",
        b'{"a":1]',
        b'{"a":[1}}',
        b'{"a":{]}',
        b'{"a":1 2}',
        b'{"a":1',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
    ],
)
def test_what_the_grammar_does_not_allow(text: bytes) -> None:
    assert object_by_grammar(text) is None


def test_much_is_not_looked_at_and_the_loop_gets_its_turns(monkeypatch: Any) -> None:
    turns = []
    monkeypatch.setattr("proxy.usage.json_grammar.turn_if_due", lambda: turns.append(1))
    assert object_by_grammar(b'{"a":[' + b"1," * 1_000_000 + b"1]}") is None
    assert len(turns) == 64
    assert object_by_grammar(b'{"a":"' + b"x" * 4_000_000 + b'"}') is not None
    assert len(turns) == 65


@pytest.mark.parametrize("text", [b"[0", b"[0]", b' ["a"', b"[[", b"[{}", b"{", b" ", b"", b"0"])
def test_what_is_no_object_has_no_members(text: bytes) -> None:
    assert object_by_grammar(text) is None


@given(st.binary())
def test_hostile_bytes_never_raise(text: bytes) -> None:
    object_by_grammar(text)
    object_by_grammar(b'{"a":' + text + b"}")
