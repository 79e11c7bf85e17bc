"""Large JSON objects by slices, held against the parser that reads them whole.

The slices are small here, so that every kind of cut comes.
"""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.usage import large
from proxy.usage.estimate import text_bytes
from proxy.usage.large import LargeObject, LargeValue

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=40)
    | st.text("a\\\"\n\U0001f600é{}[],: ", max_size=300)
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=6)
    | st.dictionaries(st.text(max_size=5), inner, max_size=6),
    max_leaves=60,
)  # fmt: skip
OBJECTS = st.dictionaries(st.text(max_size=8), VALUES, max_size=8)


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "SLICE", 128)


def read(text: bytes, most: int = 1000, brackets: int = 100_000) -> LargeObject:
    read = LargeObject(text, most, brackets)
    for _ in read.steps():
        pass
    return read


def parsed(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def agrees(found: LargeObject, text: bytes) -> None:
    whole = orjson.loads(text)
    assert list(found.values) == list(whole)
    assert [orjson.loads(member.name) for member in found.members] == [
        name for name, _ in json.loads(text, object_pairs_hook=lambda pairs: pairs)
    ]
    for member in found.members:
        assert orjson.loads(text[member.value_start : member.end]) is not ...
    for name, value in found.values.items():
        assert isinstance(value, LargeValue) or value == whole[name]


@pytest.mark.slow
@given(
    value=OBJECTS, escaped=st.booleans(), separators=st.sampled_from([(",", ":"), (" ,\n", " : ")])
)
@settings(max_examples=200)
def test_what_is_valid_is_taken(value: Any, escaped: bool, separators: tuple[str, str]) -> None:
    try:
        text = json.dumps(value, ensure_ascii=escaped, separators=separators).encode()
    except UnicodeEncodeError:
        return
    if parsed(text) is None:
        return  # lone surrogates
    agrees(read(text), text)


@pytest.mark.slow
@given(
    value=OBJECTS,
    at=st.integers(0, 100_000),
    put=st.sampled_from(
        [b"", b",", b":", b'"', b"{", b"}", b"[", b"]", b"0", b" ", b"\\", b"\xff", b"\x00", b"\\u",
         b"\\ud800", b",,", b"[]", b'"a":', b"nul", b"//"]
    ),
    cut=st.integers(0, 3),
)  # fmt: skip
@settings(max_examples=500)
def test_what_is_taken_is_valid(value: Any, at: int, put: bytes, cut: int) -> None:
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    at %= len(text) + 1
    text = text[:at] + put + text[at + cut :]
    try:
        found = read(text)
    except ValueError:
        return
    assert isinstance(parsed(text), dict)
    agrees(found, text)


LONG = b"x" * 500


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":"%b"}' % LONG,
        b'{"a":"%b","a":"%b"}' % (LONG, LONG),
        b'{"a":[%b1],"b":2}' % (b"1," * 500),
        b'{"a":[%b[]],"b":2}' % (b"[]," * 500),
        b'{"a":%b1%b}' % (b"[" * 300, b"]" * 300),
        b'{"a":%b1%b}' % (b'{"b":' * 300, b"}" * 300),
        b'{"a":{%b"b":1}}' % b"".join(b'"%d":"%d",' % (i, i) for i in range(200)),
        b'{"a":["%b",["%b"],{"b":"%b"}]}' % (LONG, LONG, LONG),
        b'{"a":["%b"]}' % ("é\U0001f600".encode() * 100),
        b'{"a":["%b"]}' % (b'\\ud83d\\ude00\\u0061\\n\\\\\\"' * 50),
        *[b'{"a":["%b"],"b":["%b"]}' % (b"y" * n, b"z" * n) for n in range(100, 160)],
        *[b'{"a":["b","%b",1,{"c":"%b"}]}' % (b"y" * n, b"z" * n) for n in range(100, 160)],
        b"{}",
        b' {"a" : 1 } \n',
    ],
)
def test_long_strings_rows_and_depths(text: bytes) -> None:
    agrees(read(text), text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'"%b"' % LONG,
        b"%b{}" % (b" " * 200),
        b"\xef\xbb\xbf{}",
        b'{"a":[%b]}' % (b"1," * 500),
        b'{"a":[%b1}}' % (b"1," * 500),
        b'{"a":[%b1]' % (b"1," * 500),
        b'{"a":[%b1]}}' % (b"1," * 500),
        b'{"a":[%b1]]}' % (b"1," * 500),
        b'{"a":[ ,%b1]}' % (b"1," * 500),
        b'{"a":[%b,1]}' % (b" " * 500),
        b'{"a":{ ,"b":"%b","c":1}}' % LONG,
        b'{"a":["%b".5]}' % LONG,
        b'{"a":{"b":"%b"e5}}' % LONG,
        b'{"a":"%b".5}' % LONG,
        b'{"a":[%b[1].5]}' % (b"1," * 500),
        b'{"a":"%b' % LONG,
        b'{"a":"%b\n"}' % LONG,
        b'{"a":"%b\\ud800"}' % LONG,
        b'{"a":"%b\xe2\x82"}' % LONG,
        b'{"a":"%b\\x"}' % LONG,
        b'{"a":["%b"1]}' % LONG,
        b'{"a":{"%b"}}' % LONG,
        b'{"a":{"b":1,"%b"}}' % LONG,
        b'{"a":["%b":1]}' % LONG,
        b'{"a":%b}' % (b"1" * 500),
        b'{"a":[%b]}' % (b" " * 5000),
        b'{"a":%b1%b}' % (b"[" * 2000, b"]" * 2000),
        b'{"a":1}%b{}' % (b" " * 500),
        b'{"%b":1,"model":1,"model":2}' % LONG,
        b'{"a":1,  %b  "b":1}' % (b" " * 500),
    ],
)
def test_what_is_no_object_or_has_no_end_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read(text)


def test_members_are_bounded() -> None:
    text = orjson.dumps({str(number): number for number in range(10)})
    assert len(read(text, 10).members) == 10
    with pytest.raises(ValueError, match="too many"):
        read(text, 9)


def test_brackets_are_bounded() -> None:
    text = b'{"a":[%b0],"b":{}}' % (b"[]," * 100)
    assert len(read(text, brackets=204).members) == 2
    with pytest.raises(ValueError, match="too many"):
        read(text, brackets=203)


def test_text_is_measured_though_it_is_not_kept() -> None:
    words = {"messages": [{"role": "user", "content": "some words " * 20}] * 30, "input": "w " * 90}
    picture = {"messages": [{"url": "data:image/png;base64," + "iVBO" * 100}]}
    for value in (words, picture):
        found = LargeObject(orjson.dumps(value), 10, 1000, text_bytes)
        for _ in found.steps():
            pass
        for name, large_value in found.values.items():
            assert isinstance(large_value, LargeValue)
            # What stands for other slices counts as a number or two.
            assert 0 <= large_value.text - text_bytes(value[name]) <= 2000


@pytest.mark.slow
def test_a_step_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for body in (b"[]," * 500_000, b'"' + b"x" * 1_500_000 + b'",', b"1," * 750_000):
        found = LargeObject(b'{"a":[%b0]}' % body, 10, 2_000_000)
        assert sum(1 for _ in found.steps()) > len(body) / large.SLICE / 2
