"""Cache keys: what is part of them, and what is not."""

import copy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.cache.access import CacheAccess
from proxy.cache.key import KeyMaker, is_ignored
from proxy.providers.base import HeaderList, OutboundRequest
from tests.support.paths import ROOT

UPSTREAM = "https://api.example.com"
SECRET = b"s" * 32
MAKER = KeyMaker(SECRET)
ACCESS = CacheAccess(mode="on", scope="p", project_id="p", epoch=3)
HEADERS: HeaderList = [
    ("Accept", "application/json"),
    ("Accept-Encoding", "gzip, deflate"),
    ("Content-Type", "application/json"),
    ("Openai-Organization", "org-1"),
    ("User-Agent", "OpenAI/Python 3.52.0"),
    ("X-Stainless-Retry-Count", "0"),
]
REQUEST = OutboundRequest("POST", b"/v1/chat/completions", HEADERS, b'{"model":"m"}')

TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "strict": True,
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
#: Every parameter of the two, as their reference lists them.
CHAT: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief.", "name": "boss"},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ],
    "model": "gpt-4.1",
    "audio": {"format": "mp3", "voice": "alloy"},
    "frequency_penalty": 0.5,
    "function_call": "auto",
    "functions": [{"name": "g"}],
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "max_completion_tokens": 100,
    "max_tokens": 100,
    "metadata": {"team": "a"},
    "modalities": ["text"],
    "n": 2,
    "parallel_tool_calls": True,
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": 0.5,
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"a": 1}}},
    "safety_identifier": "u-1",
    "seed": 7,
    "service_tier": "flex",
    "stop": ["\n"],
    "store": False,
    "stream": False,
    "stream_options": {"include_usage": True},
    "temperature": 0.2,
    "tool_choice": "auto",
    "tools": [TOOL],
    "top_logprobs": 3,
    "top_p": 0.9,
    "user": "u",
    "verbosity": "low",
    "web_search_options": {"search_context_size": "low"},
}
RESPONSES: dict[str, Any] = {
    "background": False,
    "conversation": None,
    "include": ["reasoning.encrypted_content"],
    "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
    "instructions": "Be brief.",
    "max_output_tokens": 100,
    "max_tool_calls": 4,
    "metadata": {"team": "a"},
    "model": "gpt-4.1",
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt": {"id": "pmpt_1", "version": "2"},
    "prompt_cache_key": "k",
    "reasoning": {"effort": "low", "summary": "auto"},
    "safety_identifier": "u-1",
    "service_tier": "flex",
    "store": False,
    "stream": False,
    "stream_options": {"include_obfuscation": False},
    "temperature": 0.2,
    "text": {"format": {"type": "text"}, "verbosity": "low"},
    "tool_choice": "auto",
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
    "top_logprobs": 3,
    "top_p": 0.9,
    "truncation": "auto",
    "user": "u",
}


def digest(request: OutboundRequest = REQUEST, **access: Any) -> bytes:
    return MAKER.key(replace(ACCESS, **access), request, UPSTREAM).digest


def with_headers(*lines: tuple[str, str]) -> bytes:
    return digest(replace(REQUEST, headers=list(lines)))


def with_body(body: object) -> bytes:
    return digest(replace(REQUEST, body=orjson.dumps(body)))


def leaves(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values that are no containers."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from leaves(item, (*path, key))
    else:
        yield path


def changed(body: dict[str, Any], path: tuple[Any, ...], value: object) -> dict[str, Any]:
    found = copy.deepcopy(body)
    inner: Any = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return found


def test_the_name_is_the_beginning_of_the_digest() -> None:
    key = MAKER.key(ACCESS, REQUEST, UPSTREAM)
    assert len(key.digest) == 32
    assert key.name == key.digest.hex()[:16]
    assert key.scope == "p"


def test_the_layout_is_pinned() -> None:
    """Another digest would make all that is stored unreadable: then the version is raised."""
    key = MAKER.key(ACCESS, REQUEST, UPSTREAM)
    assert key.digest.hex() == ("f8e86bb4cac9692f585efb74ac51e80cce0d83b3014446a177666a592eadb0c7")


@pytest.mark.parametrize("body", [CHAT, RESPONSES], ids=["chat", "responses"])
def test_each_member_changed_alone_is_another_key(body: dict[str, Any]) -> None:
    others = [changed(body, path, "other") for path in leaves(body)]
    others += [{key: item for key, item in body.items() if key != name} for name in body]
    digests = [with_body(each) for each in (body, *others)]
    assert len(set(digests)) == len(digests)


@given(st.data(), st.sampled_from([CHAT, RESPONSES]), st.text() | st.integers(-9, 9) | st.none())
def test_any_value_changed_is_another_key(
    data: st.DataObject, body: dict[str, Any], value: object
) -> None:
    path = data.draw(st.sampled_from(list(leaves(body))))
    other = changed(body, path, value)
    assume(orjson.dumps(other) != orjson.dumps(body))
    assert with_body(other) != with_body(body)


def test_the_same_response_format_is_the_same_key() -> None:
    assert with_body(CHAT) == with_body(copy.deepcopy(CHAT))


def test_the_order_of_members_and_the_spelling_of_numbers_count() -> None:
    spellings = [b'{"a":1,"b":2}', b'{"b":2,"a":1}', b'{"a":1.0,"b":2}', b'{"a":1, "b":2}']
    assert len({digest(replace(REQUEST, body=body)) for body in spellings}) == 4


def test_a_stream_is_another_response() -> None:
    assert with_body({**CHAT, "stream": True}) != with_body({**CHAT, "stream": False})


def test_no_body_is_no_empty_body() -> None:
    assert digest(replace(REQUEST, body=None)) != digest(replace(REQUEST, body=b""))


def test_a_streamed_body_has_no_key() -> None:
    with pytest.raises(TypeError, match="streamed"):
        digest(replace(REQUEST, body=iter([b"{}"])))


@pytest.mark.parametrize(
    "request_",
    [
        replace(REQUEST, method="PUT"),
        replace(REQUEST, target=b"/v1/completions"),
        replace(REQUEST, target=b"/v1/chat/completions?a=1"),
        replace(REQUEST, target=b"/v1/chat%2Fcompletions"),
    ],
)
def test_method_and_target_count(request_: OutboundRequest) -> None:
    assert digest(request_) != digest()


def test_scope_epoch_upstream_and_secret_count() -> None:
    digests = {
        digest(),
        digest(scope="q"),
        digest(epoch=4),
        MAKER.key(ACCESS, REQUEST, UPSTREAM + "/").digest,
        KeyMaker(b"t" * 32).key(ACCESS, REQUEST, UPSTREAM).digest,
    }
    assert len(digests) == 5


def test_what_the_project_asks_for_besides_does_not_count() -> None:
    assert digest(mode="opt_in", coalesce=True, idempotency=True, hold=True) == digest()


def test_a_fingerprint_has_no_epoch_and_is_no_key() -> None:
    later = replace(ACCESS, epoch=9)
    fingerprint = MAKER.fingerprint(ACCESS, REQUEST, UPSTREAM)
    assert MAKER.fingerprint(later, REQUEST, UPSTREAM) == fingerprint
    assert MAKER.fingerprint(ACCESS, replace(REQUEST, body=b"{}"), UPSTREAM) != fingerprint
    assert fingerprint != digest()


# Header lines.


@pytest.mark.parametrize("name", ["Accept", "Content-Type", "Openai-Organization"])
def test_each_kept_line_counts(name: str) -> None:
    changed_line = [(each, "other" if each == name else value) for each, value in HEADERS]
    without = [line for line in HEADERS if line[0] != name]
    assert len({digest(), with_headers(*changed_line), with_headers(*without)}) == 3


@pytest.mark.parametrize(
    "name", ["X-New", "Openai-Beta", "Origin", "X-Body-Hash", "Authorization", "Cookie", "X-If-"]
)
def test_a_line_that_is_not_known_counts(name: str) -> None:
    assert with_headers(*HEADERS, (name, "1")) != digest()
    assert with_headers(*HEADERS, (name, "1")) != with_headers(*HEADERS, (name, "2"))
    assert not is_ignored(name)


@pytest.mark.parametrize(
    "name",
    [
        "user-agent",
        "traceparent",
        "tracestate",
        "baggage",
        "sentry-trace",
        "b3",
        "x-request-id",
        "x-correlation-id",
        "cache-control",
        "pragma",
        "idempotency-key",
        "content-length",
        "x-stainless-retry-count",
        "x-stainless-read-timeout",
        "x-stainless-lang",
        "if-none-match",
        "if-match",
        "if-modified-since",
        "if-unmodified-since",
        "if-range",
    ],
)
def test_ignored_lines_do_not_count(name: str) -> None:
    assert with_headers(*HEADERS, (name.title(), "1")) == digest()
    assert with_headers((name.upper(), "2"), *HEADERS) == digest()
    assert is_ignored(name.title())


def test_the_case_of_names_and_the_order_of_lines_do_not_count() -> None:
    lines = [(name.upper(), value) for name, value in reversed(HEADERS)]
    assert with_headers(*lines) == digest()


def test_the_case_of_values_and_the_order_of_one_name_count() -> None:
    digests = {
        with_headers(*HEADERS, ("X-A", "1"), ("X-A", "2")),
        with_headers(*HEADERS, ("X-A", "2"), ("X-A", "1")),
        with_headers(*HEADERS, ("X-A", "1, 2")),
        with_headers(*HEADERS, ("X-A", "a")),
        with_headers(*HEADERS, ("X-A", "A")),
    }
    assert len(digests) == 5


def test_accept_encoding_is_a_set() -> None:
    def encoded(*values: str) -> bytes:
        return with_headers(*[("Accept-Encoding", value) for value in values])

    same = {
        encoded("gzip, deflate"),
        encoded("deflate,gzip"),
        encoded("GZIP,  deflate, gzip"),
        encoded("deflate", "gzip"),
    }
    assert len(same) == 1
    others = {encoded("gzip"), encoded("gzip;q=0, deflate"), encoded("identity"), encoded()}
    assert len(others) == 4
    assert same.isdisjoint(others)


def test_the_accepted_encoding_is_one_line_among_others() -> None:
    assert with_headers(("X", "1"), ("Accept-Encoding", "gzip")) == with_headers(
        ("Accept-Encoding", "gzip"), ("X", "1")
    )


# Two requests that differ have sequences that differ.

TEXTS = st.text(st.characters(max_codepoint=0x17F), max_size=6) | st.sampled_from(
    ["", "1:", "0:,", ",", "1:a,", "12", "-"]
)
NAMES = st.sampled_from(["a", "aa", "a:", "1", "x"])
REQUESTS = st.tuples(
    TEXTS,
    st.integers(0, 99),
    TEXTS,
    TEXTS,
    st.binary(max_size=6) | st.sampled_from([b"1:", b"0:,", b","]),
    st.lists(st.tuples(NAMES, TEXTS), max_size=3),
    st.none() | st.binary(max_size=6) | st.sampled_from([b"-", b"0:,"]),
)


@given(REQUESTS, REQUESTS)
def test_no_two_splits_into_fields_collide(one: Any, other: Any) -> None:
    def made(parts: Any) -> tuple[bytes, Any]:
        scope, epoch, upstream, method, target, headers, body = parts
        access = CacheAccess(mode="on", scope=scope, project_id="p", epoch=epoch)
        request = OutboundRequest(method, target, headers, body)
        meaning = (*parts[:5], sorted(headers, key=lambda line: line[0]), body)
        return MAKER.key(access, request, upstream).digest, meaning

    (one_digest, one_meaning), (other_digest, other_meaning) = made(one), made(other)
    assert (one_digest == other_digest) == (one_meaning == other_meaning)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([("a", "1"), ("b", "2")], [("a", "1b2")]),
        ([("a", "1:b,")], [("a1", ":b,")]),
        ([("a", "")], [("", "a")]),
        ([("a", "b"), ("a", "c")], [("a", "b, c")]),
        ([("a", "0:,0:,")], [("a", "0:,"), ("", "")]),
    ],
)
def test_lines_that_look_alike_when_joined(one: HeaderList, other: HeaderList) -> None:
    assert with_headers(*one) != with_headers(*other)


def test_another_process_makes_the_same_key() -> None:
    """Nothing of it hangs on the order of sets or on what a process has seen before."""
    code = (
        "from proxy.cache.access import CacheAccess\n"
        "from proxy.cache.key import KeyMaker\n"
        "from proxy.providers.base import OutboundRequest\n"
        f"print(KeyMaker({SECRET!r}).key({ACCESS!r}, {REQUEST!r}, {UPSTREAM!r}).digest.hex())\n"
    )
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == digest().hex()
