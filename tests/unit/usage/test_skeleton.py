"""proxy/usage/skeleton.py against a parser: the members at the known places, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.usage.skeleton import Skeleton, members_of
from tests.support.meter_cases import chunked

LEAVES = {"id", "model", "object", "type", "created", "created_at", "status", "usage", "x_groq"}
LEAVES |= {"service_tier"}
CHOICE: dict[str, Any] = dict.fromkeys(("finish_reason", "usage"))
RESPONSE: dict[str, Any] = {
    **dict.fromkeys(LEAVES),
    "choices": [CHOICE],
    "delta": {"stop_reason": None},
}
MODEL: dict[str, Any] = {"model": None}
SESSION = {
    **MODEL,
    "input_audio_transcription": MODEL,
    "audio": {"input": {"transcription": MODEL}},
}
EVENT = {
    **RESPONSE,
    "response": RESPONSE,
    "message": RESPONSE,
    "session": SESSION,
}


def reduced(value: dict[str, Any], shape: dict[str, Any]) -> dict[str, Any]:
    """What must be found of a decoded object."""
    found: dict[str, Any] = {}
    for name, member in value.items():
        if name not in shape:
            continue
        inner = shape[name]
        if inner is None:
            found[name] = member
        elif isinstance(inner, dict) and isinstance(member, dict):
            found[name] = reduced(member, inner)
        elif isinstance(inner, list) and isinstance(member, list):
            items = [reduced(item, inner[0]) for item in member if isinstance(item, dict)]
            found[name] = items
    return found


NAMES = st.sampled_from([*EVENT, *SESSION, "transcription", "input", "a", 'b"', "{", "\\"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["", "text", ',"usage":{"total_tokens":1}', '{"', "\\", "\\\\", "\u2028\n[{"]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=25,
)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(NAMES, VALUES, max_size=6),
    st.lists(st.floats(0, 1), max_size=12),
    st.sampled_from([None, 1]),
    st.booleans(),
)
@example({"choices": [1, {"usage": 2}]}, [], None, True)
def test_any_pieces_give_what_a_parser_gives(
    value: dict[str, Any], cuts: list[float], indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    expected = reduced(value, EVENT)
    skeleton = Skeleton()
    for piece in chunked(text, cuts):
        skeleton.feed(piece)
    assert skeleton.members == expected
    bytewise = Skeleton()
    for byte in text:
        bytewise.feed(bytes((byte,)))
    assert bytewise.members == expected


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=6), st.floats(0, 1))
def test_a_cut_text_gives_nothing_that_is_not_there(value: dict[str, Any], where: float) -> None:
    text = json.dumps(value).encode()
    found = members_of(text[: int(len(text) * where)])
    expected = reduced(value, EVENT)
    for name, member in found.items():
        if EVENT[name] is None:
            assert expected[name] == member


@pytest.mark.parametrize(
    "odd",
    [b'"\\ud83d"', b'"\x1b\x00"', b'"\xff\xfe"', b"NaN", b"-Infinity", b"1e999", b"'"],
    ids=repr,
)
@pytest.mark.parametrize("place", [b'{"x":%s,', b'{"x":{"y":[1,%s]},', b'{"choices":[{"x":%s}],'])
def test_what_strict_parsers_refuse_hides_nothing(odd: bytes, place: bytes) -> None:
    found = members_of(place % odd + b'"usage":{"total_tokens":1}}')
    assert odd == b"'" or found["usage"] == {"total_tokens": 1}


def test_kept_values_that_strict_parsers_refuse() -> None:
    assert members_of(b'{"model":"a\\ud83db\x1b\xff"}') == {"model": "a\ufffdb\x1b\ufffd"}
    usage = b'{"usage":{"total_tokens":1,"queue_time":NaN,"x":"\\udc00"}}'
    assert members_of(usage)["usage"]["total_tokens"] == 1
    assert members_of(b'{"usage":' + b"[" * 3000 + b"]" * 3000 + b',"model":"m"}') == {
        "usage": None,
        "model": "m",
    }


def test_the_last_of_two_equal_names_counts() -> None:
    assert members_of(b'{"usage":1,"usage":{"x":2},"\\u0075sage":3}') == {"usage": 3}


def test_what_follows_the_object_is_another_text() -> None:
    assert members_of(b'{"model":"m"}\n{"model":"n","usage":{}}') == {"model": "m"}
    assert members_of(b'\xef\xbb\xbf {"model":"m"}') == {"model": "m"}


@pytest.mark.parametrize("text", [b"[1]", b'"x"', b"5", b"", b"{", b"{5}", b'{"a" 5}', b"{:}"])
def test_what_is_no_object_has_no_members(text: bytes) -> None:
    assert members_of(text) == {}


def test_what_is_kept_is_bounded() -> None:
    large = b'"' + b"x" * 100_000 + b'"'
    assert members_of(b'{"model":' + large + b',"id":"r"}') == {"id": "r"}
    assert members_of(b'{"' + b"x" * 5000 + b'":1,"id":"r"}') == {"id": "r"}
    assert len(members_of(b'{"choices":[' + b"{}," * 1000 + b"{}]}")["choices"]) == 128
    many = b"{" + b'"a":1,' * 10_000 + b'"id":"r"}'
    assert members_of(many) == {}
    endless = Skeleton()
    for _ in range(100):
        endless.feed(b'{"' + b"n" * 10_000)
    assert len(endless._carried) < 20_000


@given(st.lists(st.binary() | st.text('{}[]",:\\ausge1 ', max_size=60).map(str.encode), max_size=9))
def test_hostile_bytes_never_raise(pieces: list[bytes]) -> None:
    skeleton = Skeleton()
    skeleton.feed(b"{")
    for piece in pieces:
        skeleton.feed(piece)
    members_of(b"".join(pieces))
