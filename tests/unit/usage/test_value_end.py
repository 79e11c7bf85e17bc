from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.usage.value_end import ValueEnd
from tests.support.json_values import VALUES
from tests.support.meter_cases import chunked


def end_of(text: bytes, cuts: list[float]) -> int | None:
    """Where the value at the beginning of ``text`` ends; None when it does not."""
    finder, before = ValueEnd(), 0
    for piece in chunked(text, cuts):
        if not piece:
            continue
        at = finder.skip(piece, 0)
        if not finder.open:
            return before + at
        assert at == len(piece)
        before += len(piece)
    return None


# Long enough for blocks to be counted, with strings that look like brackets.
LONG = st.lists(VALUES | st.just('["}\\') | st.just("x" * 20_000), min_size=40, max_size=200).map(
    lambda items: items * 20
)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    (st.dictionaries(st.text(), VALUES) | LONG | st.text()).map(
        lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    ),
    st.lists(st.floats(0, 1), max_size=10),
)
def test_finds_the_end_wherever_the_pieces_end(text: bytes, cuts: list[float]) -> None:
    assert end_of(text, []) == len(text)
    assert end_of(text + b',"]}"}]', cuts) == len(text)
    assert end_of(text[:-1], cuts) is None


@pytest.mark.parametrize("size", [16 * 1024 + shift for shift in range(-6, 7)])
@pytest.mark.parametrize("filling", [b"x", b"\\\\", b'\\"', b"]"])
def test_strings_over_the_border_of_a_block(size: int, filling: bytes) -> None:
    begin = b"[" + b"[]," * 40
    text = b'"' + filling * ((size - len(begin)) // len(filling)) + b'"'
    value = begin + text + b",[]" * 9000 + b"]"
    assert end_of(value + b"]]", []) == len(value)
    assert end_of(value[:-1], []) is None


def test_one_value_after_the_other() -> None:
    finder, text = ValueEnd(), b'{"a":[1]}["b"]"c"'
    ends, at = [], 0
    while at < len(text):
        at = finder.skip(text, at)
        ends.append(at)
    assert ends == [9, 14, 17]


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 4_000_000,
        b"[" + b"[]," * 1_000_000,
        b"[" + b'"",' * 1_000_000,
        b'["' + b'\\"' * 10**6,
    ],
    ids=["open", "pairs", "strings", "escapes"],
)
def test_hostile_values_cost_little_a_piece(text: bytes, monkeypatch: Any) -> None:
    """Steps of the regular expression, and not time: one bracket at a time is the slow way."""
    finder, slow = ValueEnd(), 0
    pattern = __import__("proxy.usage.value_end", fromlist=["x"])._TO_BRACKET

    class Counting:
        def match(self, *given: Any) -> Any:
            nonlocal slow
            slow += 1
            return pattern.match(*given)

    monkeypatch.setattr("proxy.usage.value_end._TO_BRACKET", Counting())
    for start in range(0, len(text), 65_536):
        finder.skip(text[start : start + 65_536], 0)
    assert finder.open
    assert slow < len(text) // 65_536 * 200


@given(st.binary(min_size=1), st.binary(min_size=1))
def test_hostile_bytes_never_raise(first: bytes, second: bytes) -> None:
    finder = ValueEnd()
    finder.skip(b"[" + first, 0)
    if finder.open:
        finder.skip(second, 0)
