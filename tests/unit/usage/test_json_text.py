"""Values that stay text: read by pieces they say the same, and they are written as they came."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.usage import json_text
from proxy.usage.json_text import JSONText, LargeDict, LargeList, LongString, encoded_in_turns

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def long_string(value: str, *, plain: bool = False) -> LongString:
    """A string in the middle of a document."""
    text = b"##" + json.dumps(value, ensure_ascii=plain).encode() + b"##"
    return LongString(text, 3, len(text) - 3)


@pytest.fixture(params=[16, json_text.SLICE])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The largest piece in bytes."""
    monkeypatch.setattr(json_text, "SLICE", request.param)
    monkeypatch.setattr(json_text, "_COPIED_AT_ONCE", request.param)
    return int(request.param)


TEXTS = ["", "a", "word " * 20, 'li"ne\n\\' * 9, "é" * 40, "😀" * 20, "\x00\x1f/" * 9, "   \n" * 9]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("value", TEXTS)
def test_it_says_the_same_by_pieces(piece: int, value: str, plain: bool) -> None:
    made = long_string(value, plain=plain)
    pieces = list(made.decoded())
    assert "".join(pieces) == value
    assert all(0 < len(each) <= piece for each in pieces)
    assert made.head == (pieces[0] if pieces else "")
    assert json.loads(b"".join(made.copied())) == value
    assert made.is_blank() == (not value.strip())


@pytest.mark.parametrize("plain", [False, True])
@given(value=_TEXT, count=st.integers(0, 40))
def test_what_follows_some_characters(value: str, count: int, plain: bool) -> None:
    rest = long_string(value, plain=plain).behind(count)
    assert "".join(rest.decoded()) == value[count:]


def test_a_string_of_pieces() -> None:
    made = LongString.of(["a\n", "", "é😀", '"'])
    assert json.loads(b"".join(made.copied())) == 'a\né😀"'


@pytest.mark.parametrize("before", range(12, 20))
def test_a_word_is_found_wherever_it_stands(piece: int, before: int) -> None:
    made = LongString(b"x" * before + b"\\u0020" + b"x" * 40 + b"%", before - 12)
    assert made.is_written_with(b"%")
    assert made.is_written_with(b"-", b"\\u0020")
    assert not made.is_written_with(b"-", b"y")
    assert not LongString(b"x%", 0, 1).is_written_with(b"%"), "behind its end"


def test_its_text_is_in_no_message() -> None:
    assert repr(LongString(b"secret")) == "LongString(6 bytes)"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 500) | _TEXT | st.builds(JSONText, st.just(b"[1]")),
    lambda inner: (
        st.lists(inner, max_size=20)
        | st.dictionaries(_TEXT, inner, max_size=20)
        | st.builds(LargeList, st.lists(inner, max_size=20))
        | st.builds(LargeDict, st.dictionaries(_TEXT, inner, max_size=20))
        | st.builds(long_string, _TEXT)
    ),
    max_leaves=40,
)


def plain(value: Any) -> Any:
    """The value as all others would hold it."""
    if isinstance(value, LongString):
        return "".join(value.decoded())
    if isinstance(value, JSONText):
        return json.loads(b"".join(value.copied()))
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


@given(_VALUES)
def test_any_value_is_written(value: Any) -> None:
    text = b"".join(encoded_in_turns(value))
    assert orjson.loads(text) == plain(value)
    assert b" :" not in text.replace(b'" :"', b"")


def test_a_large_value_is_written_by_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[None] = []
    monkeypatch.setattr(json_text, "turn_if_due", lambda: turns.append(None))
    value = LargeDict(a=LargeList(["x"] * 1000), b=["y"] * 1000, c={"d": LongString(b"z" * 2**21)})
    pieces = encoded_in_turns(value)
    assert orjson.loads(b"".join(pieces)) == plain(value)
    assert max(map(len, pieces)) <= 2**20
    assert len(turns) >= 1000 / 16 + 2


def test_what_cannot_be_written() -> None:
    with pytest.raises(TypeError):
        encoded_in_turns(LargeDict(a=object()))
