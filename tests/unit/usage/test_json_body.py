from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.usage.counts import Usage
from proxy.usage.extract import read_response
from proxy.usage.json_body import JsonBody
from tests.support.usage_samples import BODIES, CHAT_BODY, CHAT_COUNTED

FLOATS = b"[" + b"0.0023064255,-0.009327292," * 20_000 + b"1]"  # 500 kB
TEXT = b'"' + b'say \\"usage\\":{\\"prompt_tokens\\":5}, \\n[{ \xc3\xa9' * 20_000 + b'"'  # 800 kB
COUNTED = Usage("m", "r", 5, 1, 2, 3)
USAGE = b'"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}'


def read(body: bytes, max_bytes: int = 10**9, step: int = 5000) -> Usage:
    reader = JsonBody(max_bytes)
    for start in range(0, len(body), step):
        reader.feed(body[start : start + step])
    return read_response(reader.result())


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("max_bytes", [10**9, 100, 1])
def test_bodies_whole_and_while_they_pass(name: str, max_bytes: int) -> None:
    body, expected = BODIES[name]
    assert read(body, max_bytes=max_bytes, step=1) == expected
    assert read(body, max_bytes=max_bytes) == expected


@pytest.mark.parametrize("long", [FLOATS, TEXT], ids=["floats", "text"])
@pytest.mark.parametrize(
    "form",
    [
        b'{"id":"r","created":5,"model":"m","long":%s,' + USAGE + b"}",
        b'{"long":%s,"id":"r","created_at":5,"model":"m",' + USAGE + b',"metadata":{}} \n',
        b'{"long":%s ,\n "model": "m" ,\n ' + USAGE + b' , "id": "r", "created": 5 }',
        b'{"id":"r","created":5,"model":"m",' + USAGE + b',"long":%s}',
        b'\xef\xbb\xbf{"id":"r","created":5,"model":"m",' + USAGE + b',"long":%s,"a":1}',
        b'{"id":"r","created":5,"model":"m","long":%s,"usage":null,' + USAGE + b',"usage2":{}}',
        b'{"id":"r","created":5,"model":"m","usage":{},"long":%s,"x_groq":{' + USAGE + b"}}",
        # Between two long parts.
        b'{"id":"r","long":%s,"created":5,"model":"m",' + USAGE + b',"longer":%s}',
        b'{"choices":[{"usage":{}},{"long":%s,"finish_reason":"stop",' + USAGE + b'}],"id":"r",'
        b'"model":"m","created":5}',
        b'{"id":"r","created":5,"model":"m","long":%s,' + USAGE + b',"tools":[{"model":"no",'
        b'"usage":{"prompt_tokens":7}},{"a":1,"usage":{"prompt_tokens":7}}]}',
    ],
)
def test_a_long_body_is_read_while_it_passes(form: bytes, long: bytes) -> None:
    body = form.replace(b"%s", long)
    assert read(body) == COUNTED
    assert read(body, step=len(body)) == COUNTED
    assert read(body, step=64) == COUNTED


@pytest.mark.parametrize(
    "form",
    [
        b'{"model":"m","long":%s,"a":{"b":1,' + USAGE + b"}}",
        b'{"model":"m","long":%s,"a":[{"b":1,' + USAGE + b"}]}",
        b'{"model":"m","long":%s,"usage":{"prompt_tokens":1},"usage":null}',
        b'{"model":"m","a":{' + USAGE + b'},"long":%s}',
        b'[{"model":"n","long":1,' + USAGE + b'},{"model":"m","long":%s,' + USAGE + b"}]",
    ],
)
def test_nested_look_alikes_of_a_long_body_do_not_count(form: bytes) -> None:
    assert not read(form % FLOATS).has_counts


def test_of_a_long_body_that_was_cut_all_that_came_is_known() -> None:
    behind = b'{"model":"m","long":%s,' % FLOATS + USAGE + b',"a":[1,2'
    assert read(behind) == Usage("m", None, None, 1, 2, 3)
    assert read(behind[: behind.index(USAGE) + len(USAGE) - 1]) == Usage("m")
    before = b'{"model":"m",' + USAGE + b',"long":' + FLOATS
    assert read(before) == Usage("m", None, None, 1, 2, 3)


def test_a_short_body_that_was_cut() -> None:
    usage_ends = CHAT_BODY.index(b'"service_tier"') - 1
    assert read(CHAT_BODY[:usage_ends]) == CHAT_COUNTED
    assert read(CHAT_BODY[: usage_ends - 1]) == Usage(
        CHAT_COUNTED.model, CHAT_COUNTED.response_id, CHAT_COUNTED.created
    )
    assert read(b"") == Usage()


@pytest.mark.parametrize(
    "odd",
    [
        b'"\\ud83d"',
        b'"\x1b\x00"',
        b'"\xff"',
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"[" * 1500 + b"]" * 1500,
    ],
)
def test_what_orjson_refuses_in_the_middle_does_not_hide_the_usage(odd: bytes) -> None:
    body = b'{"id":"r","created":5,"model":"m","choices":[%s],' % odd + USAGE + b"}"
    assert read(body) == COUNTED


def test_memory_is_bounded() -> None:
    reader = JsonBody(10**9)
    for _ in range(1000):
        reader.feed(b"x" * 10_000)
        assert len(reader._held) < 512 * 1024


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 300_000,
        b'{"a":1' + b',"usage":{}' * 60_000,
        b'{"a":1' + b', "model": "' * 30_000,
        b'{"' + b'",' * 200_000,
        b"{" + b"," * 300_000,
        b'{"a":"' + b"\\" * 300_000,
        b'{"a"' + b", " + b" " * 300_000,
        b"]}" * 200_000,
    ],
)
def test_hostile_bodies_take_no_time(body: bytes) -> None:
    start = time.perf_counter()
    assert not read(body, step=65_536).has_counts
    assert time.perf_counter() - start < 0.5


@given(st.binary() | st.text('{}[]",:\\ausge', max_size=60).map(str.encode))
def test_hostile_bytes_never_raise(body: bytes) -> None:
    read(body)
    read(body, max_bytes=3)
