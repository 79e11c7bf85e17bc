"""Large values decoded by slices: the same as at once, and with turns in between."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.usage import json_slices
from proxy.usage.json_slices import MAX_NAME_BYTES, MAX_NESTED_BYTES, decoded_in_turns
from proxy.usage.json_text import LargeDict, LargeList, LongString

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 500) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=25,
)


def decoded(text: bytes, *, long_strings: bool = False) -> Any:
    around = b"##" + text + b"##"
    return decoded_in_turns(around, 2, 2 + len(text), long_strings=long_strings)


def resolved(value: Any) -> Any:
    """The value with its long strings read."""
    if isinstance(value, LongString):
        return "".join(value.decoded())
    if isinstance(value, dict):
        return {name: resolved(each) for name, each in value.items()}
    return [resolved(each) for each in value] if isinstance(value, list) else value


@settings(deadline=None, max_examples=300)
@given(_VALUES, st.sampled_from([None, 1]), st.booleans(), st.integers(1, 30))
def test_as_at_once(value: Any, indent: int | None, plain: bool, size: int) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=plain).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_slices, "AT_ONCE", size)
        assert decoded(text) == value
        assert resolved(decoded(text, long_strings=True)) == value


@pytest.mark.parametrize(
    "text",
    [
        b'["\\\\","\\\\\\"","a\\"b,]}"]',
        b'{"a\\"b" : [1 , 2] , "c":{} }',
        b"[ ]",
        b"{ }",
        b"[[],{}]",
    ],
)
@pytest.mark.parametrize("size", [1, 4, 8])
def test_escapes_and_blanks(text: bytes, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_slices, "AT_ONCE", size)
    assert decoded(text) == json.loads(text)


def test_the_last_of_equal_names_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_slices, "AT_ONCE", 4)
    assert decoded(b'{"a":1,"a":[2,3,4,5],"a":6}') == {"a": 6}


def test_other_greenlets_have_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[None] = []
    monkeypatch.setattr(json_slices, "turn_if_due", lambda: turns.append(None))
    items = [{"type": "text", "text": "a"}] * 20_000
    text = orjson.dumps({"content": items, "image": "x" * 1_000_000})
    assert decoded(text) == {"content": items, "image": "x" * 1_000_000}
    # Each look at the clock comes after one slice, or after some marks.
    assert len(turns) >= len(text) // (2 * json_slices.AT_ONCE)


def test_what_is_nested_without_end_is_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_slices, "AT_ONCE", 4)
    depth = 500
    assert json.dumps(decoded(b"[" * depth + b"]" * depth)) == "[" * depth + "]" * depth


def test_what_is_large_is_marked() -> None:
    word = "x" * 100_000
    found = decoded(json.dumps({"a": [word, {}], "b": {"c": 1}, "d": word}).encode())
    assert (type(found), type(found["a"]), type(found["b"])) == (LargeDict, LargeList, dict)
    found = decoded(json.dumps([word, "y"]).encode(), long_strings=True)
    assert list(map(type, found)) == [LongString, str]


@pytest.mark.parametrize("size", [MAX_NESTED_BYTES // 2, MAX_NESTED_BYTES * 2])
def test_what_is_large_and_nested_deep(size: int) -> None:
    text = b"[" * 9 + b"[0]," * (size // 4) + b"[0]" + b"]" * 9
    if size < MAX_NESTED_BYTES:
        assert decoded(text) == json.loads(text)
        return
    with pytest.raises(ValueError, match="nested"):
        decoded(text)
    inner = b'"' + b"x" * size + b'"'  # a string is none, where it stays text
    assert isinstance(decoded(b"[" * 8 + inner + b"]" * 8, long_strings=True), list)


def test_a_long_name() -> None:
    with pytest.raises(ValueError, match="name"):
        decoded(b'{"%b":1}' % (b"x" * (MAX_NAME_BYTES + 1)))


def test_long_items_without_brackets_have_turns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[None] = []
    monkeypatch.setattr(json_slices, "turn_if_due", lambda: turns.append(None))
    text = json.dumps(["x" * 60_000] * 200).encode()
    for _ in json_slices._item_ends(text, 1, len(text) - 1):
        pass
    assert len(turns) >= 90
