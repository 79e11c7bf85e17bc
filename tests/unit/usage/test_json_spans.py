"""proxy/usage/json_spans.py: what is found is what a parser finds, at the top level."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.usage.json_spans import top_members
from tests.support.json_values import VALUES


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.text() | st.sampled_from(['"', "\\", "usage", "}", "{"]), VALUES, max_size=6
    ),
    st.sampled_from([None, 0, 2]),
    st.sampled_from([(",", ":"), (" , ", " : "), (",\n", ":\t")]),
    st.booleans(),
)
def test_finds_what_a_parser_finds(
    value: dict[str, object], indent: int | None, separators: tuple[str, str], ascii_only: bool
) -> None:
    written = json.dumps(value, indent=indent, separators=separators, ensure_ascii=ascii_only)
    text = b" " + written.encode("utf-8", "surrogatepass") + b"\r\n"
    found = [
        (json.loads(member.name), json.loads(text[member.value_start : member.end]))
        for member in top_members(text)
    ]
    assert found == list(value.items())
    for member in top_members(text):
        assert text[member.start :].startswith(member.name)


def test_equal_names_are_all_found() -> None:
    assert [m.name for m in top_members(b'{"a":1,"a":[{"a":2}],"\\u0061":"a"}')] == [
        b'"a"',
        b'"a"',
        b'"\\u0061"',
    ]


@pytest.mark.parametrize(
    "text", [b"{", b'{"a', b'{"a"', b'{"a":', b'{"a":[', b'{"a":[}', b'{"a":}']
)
def test_what_is_no_object_does_no_harm(text: bytes) -> None:
    top_members(text)


def test_long_and_deep_values() -> None:
    size = 1024 * 1024
    for value in (
        b'"' + b"x" * size + b'"',
        b'"' + b"\\n" * size + b'"',
        b"[" * size + b"]" * size,
    ):
        (member,) = top_members(b'{"a":' + value + b"}")
        assert member.end - member.value_start == len(value)
