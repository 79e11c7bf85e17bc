"""proxy/usage/request_usage.py: a member is inserted, and nothing else changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.errors import ClientError
from proxy.usage import splice
from proxy.usage.large import LargeObject
from proxy.usage.request_usage import ask_for_usage, demand_usage
from tests.support.json_values import VALUES
from tests.support.loop_probe import served_while

ASKING = b'"stream_options":{"include_usage":true}'


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"stream":true}', b'{"stream":true,' + ASKING + b"}"),
        (b' {"stream" : true}\r\n', b' {"stream" : true,' + ASKING + b"}\r\n"),
        # A name twice that says nothing about the stream is the upstream's to judge.
        (
            b'{"n":1,"n":1.50,"m":"\\u00e9\\/","stream":true }',
            b'{"n":1,"n":1.50,"m":"\\u00e9\\/","stream":true ,' + ASKING + b"}",
        ),
        # The same word elsewhere.
        (
            b'{"stream":true,"tools":[{"stream":false}],"x":"stream"}',
            b'{"stream":true,"tools":[{"stream":false}],"x":"stream",' + ASKING + b"}",
        ),
        (b'{"stream_options":null,"stream":true}', b"{" + ASKING + b',"stream":true}'),
        (
            b'{"stream_options": { } ,"stream":true}',
            b'{"stream_options": { "include_usage":true} ,"stream":true}',
        ),
        (
            b'{"stream":true,"stream_options":{ "include_obfuscation":false }, "n":1}',
            b'{"stream":true,"stream_options":{ "include_obfuscation":false ,"include_usage":true},'
            b' "n":1}',
        ),
        (
            b'{"stream":true,"stream_options":{"include_usage": false ,"a":[]}}',
            b'{"stream":true,"stream_options":{"include_usage": true ,"a":[]}}',
        ),
        (
            b'{"stream":true,"stream_options":{"include_usage":null}}',
            b'{"stream":true,"stream_options":{"include_usage":true}}',
        ),
    ],
)
def test_asks(body: bytes, expected: bytes) -> None:
    assert ask_for_usage(body) == expected
    assert ask_for_usage(expected) is None


@pytest.mark.parametrize(
    "odd", [b'"\\ud83d"', b"1e400", b"[" * 1100 + b"]" * 1100, b'{"stream":"\\ud83d"}'], ids=repr
)
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"stream":true,"x":%b}', b'{"stream":true,"x":%b,' + ASKING + b"}"),
        (
            b'{"x":%b,"stream_options":null,"stream":true}',
            b'{"x":%b,' + ASKING + b',"stream":true}',
        ),
        (
            b'{"x":%b,"stream_options":{"include_usage":false},"stream":true}',
            b'{"x":%b,"stream_options":{"include_usage":true},"stream":true}',
        ),
    ],
)
def test_asks_in_what_a_parser_refuses(odd: bytes, body: bytes, expected: bytes) -> None:
    assert ask_for_usage(body % odd) == expected % odd


LONG = b'{"stream":true,"tools":[{"stream":1}],"x":"' + b"x" * 300_000 + b'"}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"stream":false}',
        b'{"stream":"true"}',
        b'{"stream":1}',
        b'{"messages":[{"stream":true}]}',
        b'["stream",true]',
        b'"stream"',
        b'{"stream":true',
        b'{"stream":true}}',
        b'\xef\xbb\xbf{"stream":true}',
        b'{"stream":true,"x":"\xff"}',
        '{"stream":true}'.encode("utf-16"),
        b'{"stream":true,"stream_options":{"include_usage":true}}',
        b'{"stream":true,"stream_options":{"include_usage":"no"}}',
        b'{"stream":true,"stream_options":{"include_usage":0}}',
        b'{"stream":true,"stream_options":[]}',
        b'{"stream":true,"stream_options":false}',
        # A name twice, in whatever spelling.
        b'{"stream":false,"stream":true}',
        b'{"\\u0073tream":false,"stream":true}',
        b'{"strea\\u006D":false,"stream":true}',
        b'{"stream":true,"stream_options":{},"stream_options":{}}',
        b'{"stream":true,"stream_options":{"include_usage":false,"include_usage":false}}',
        b'{"stream":true,"stream_options":{"include_usag\\u0065":false}}',
        b'{"stream":true,"stream_option\\u0073":{"include_usage":false}}',
        # No JSON, which a parser may read all the same.
        b'{"stream":true,"x":NaN}',
        b'{"stream":true,"x":"\x1b"}',
        b'{"stream":true,"x":"\\ud83d",}',
        b'{"stream":true,"stream":true,"x":"\\ud83d"}',
        b'{"stream":true,"stream_options":{"x":"\\ud83d"}}',
        # Too much to look at.
        b'{"stream":true,"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"stream":true,"x":[' + b"[]," * 40_000 + b"0]}",
        b'{"stream":true,"x":{' + b'"a":1,' * 40_000 + b'"b":0}}',
        b'{"stream":true,"x":"' + b"x" * 5_000_000 + b'"}',
        LONG,
    ],
    ids=lambda body: repr(body[:60]),
)
def test_stays_as_it_is(body: bytes) -> None:
    assert ask_for_usage(body) is None


def test_long_bodies_are_asked_while_it_is_plain_what_they_say() -> None:
    asked = ask_for_usage(LONG.replace(b'{"stream":1}', b"1"))
    assert asked is not None
    assert asked.endswith(b'xxx",' + ASKING + b"}")


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text() | st.sampled_from(["stream", "tools"]), VALUES, max_size=6),
    st.sampled_from([..., None, {}, {"include_obfuscation": False}, {"include_usage": False}]),
    st.sampled_from([None, 1]),
    st.randoms(use_true_random=False),
)
def test_the_rest_says_the_same(
    value: dict[str, Any], options: Any, indent: int, order: Any
) -> None:
    value["stream"] = True
    value.pop("stream_options", None)
    if options is not ...:
        value["stream_options"] = options
    names = list(value)
    order.shuffle(names)
    value = {name: value[name] for name in names}
    text = json.dumps(value, indent=indent).encode()
    asked = ask_for_usage(text)
    if b"Infinity" in text and asked is None:
        return
    assert asked is not None
    expected = {**value, "stream_options": {**(options if options not in (..., None) else {})}}
    expected["stream_options"]["include_usage"] = True
    assert json.loads(asked) == expected
    assert list(json.loads(asked)) == list(expected)


@settings(max_examples=300, deadline=None)
@given(st.binary() | st.text('{}[]":,\\stream\\u0073 true').map(str.encode))
def test_hostile_bodies_do_no_harm(body: bytes) -> None:
    ask_for_usage(body)
    ask_for_usage(b'{"stream":true,' + body)
    ask_for_usage(b'{"stream":true,"stream_options":' + body + b"}")


BIG = b'"messages":[%b"%b"]' % (b'{"role":"user"},' * 10_000, b"x" * 200_000)


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (b'{"stream":true,%b}' % BIG, b'{"stream":true,%b,%b}' % (BIG, ASKING)),
        (b'{%b,"stream" : true }' % BIG, b'{%b,"stream" : true ,%b}' % (BIG, ASKING)),
        (b'{%b,"stream":false}' % BIG, None),
        (b'{%b,"stream":true,}' % BIG, None),
        (b'{"strea\\u006d":false,%b,"stream":true}' % BIG, None),
    ],
    ids=range(5),
)
def test_large_bodies_are_read_by_slices(body: bytes, asked: bytes | None) -> None:
    assert ask_for_usage(body) == asked


def test_asking_in_a_large_body_leaves_others_their_turn() -> None:
    body = b'{"stream":true,%b}' % BIG
    assert served_while(lambda: ask_for_usage(body)) >= 3


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (b"null", b'{"include_usage":true}'),
        (b'{"a":1}', b'{"a":1,"include_usage":true}'),
        (b'{"include_usage":false}', b'{"include_usage":true}'),
    ],
)
def test_large_bodies_are_made_to_ask_in_place(
    monkeypatch: pytest.MonkeyPatch, options: bytes, asked: bytes
) -> None:
    monkeypatch.setattr(splice, "_COPIED_AT_ONCE", 1000)
    body = b'{"stream":true,"stream_options":%b,%b}' % (options, BIG)
    read = LargeObject(body, 100, 100_000)
    assert sum(1 for _ in read.steps()) > 3
    assert demand_usage(body, read.values) == body.replace(options, asked, 1)


def test_a_large_body_that_says_it_twice_is_refused() -> None:
    body = b'{"stream":true,"stream_options":{"include_usage":true,"include_usage":false},%b}' % BIG
    read = LargeObject(body, 100, 100_000)
    list(read.steps())
    with pytest.raises(ClientError, match="twice"):
        demand_usage(body, read.values)
