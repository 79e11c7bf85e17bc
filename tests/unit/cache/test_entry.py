"""Stored responses and their binary form."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.cache.entry import CachedResponse, EntryUnreadable, replayable
from proxy.upstream.headers import downstream_headers
from tests.support.cached_responses import cached_response

#: Bytes before the head, and of them those before the checksummed part.
PREFIX, CHECKED = 25, 9

# Header lines and targets are Latin-1, as HTTP/1.1 has them.
LATIN = st.text(st.characters(max_codepoint=0xFF), max_size=20)
TIMES = st.floats(0, 1e11) | st.integers(0, 10**11)
COUNTS = st.none() | st.integers(0, 10**9)


@st.composite
def entries(draw: st.DrawFn) -> CachedResponse:
    chunks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
    return CachedResponse(
        scope=draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=10)),
        method=draw(st.sampled_from(["GET", "POST"])),
        target=draw(LATIN),
        status=draw(st.integers(100, 599)),
        reason=draw(LATIN),
        headers=draw(st.lists(st.tuples(LATIN, LATIN), max_size=4)),
        body=b"".join(chunks),
        chunk_sizes=tuple(map(len, chunks)),
        stored_at=draw(TIMES),
        expires_at=draw(TIMES),
        provider=draw(st.none() | LATIN),
        model=draw(st.none() | LATIN),
        prompt_tokens=draw(COUNTS),
        completion_tokens=draw(COUNTS),
    )


ENTRY = cached_response(
    b"data: a\n\ndata: b\n\n",
    chunk_sizes=(9, 9),
    headers=[("X-Caf\xe9", "\xfc"), ("X-A", "1"), ("X-A", "2")],
    provider="openai",
    model="m",
    prompt_tokens=3,
    completion_tokens=4,
)
DATA = ENTRY.encode()


def sealed(head: bytes, sizes: Sequence[int], body: bytes, version: int = 1) -> bytes:
    """What has the layout of an entry and a right checksum, whatever it says."""
    lengths = struct.pack("<IIQ", len(head), len(sizes), len(body))
    checked = lengths + head + struct.pack(f"<{len(sizes)}I", *sizes) + body
    return b"OPRC" + struct.pack("<BI", version, zlib.crc32(checked)) + checked


def head_of(**changes: Any) -> bytes:
    """The head of `ENTRY`, with other values."""
    names = [field.name for field in fields(ENTRY) if field.name not in ("body", "chunk_sizes")]
    return orjson.dumps([changes.get(name, getattr(ENTRY, name)) for name in names])


@given(entries())
def test_what_is_encoded_is_decoded(entry: CachedResponse) -> None:
    assert CachedResponse.decode(entry.encode()) == entry


def test_the_layout_is_pinned() -> None:
    """Another layout needs another version: workers of two versions share a store."""
    assert sealed(head_of(), ENTRY.chunk_sizes, ENTRY.body) == DATA
    assert orjson.loads(head_of())[:3] == ["project-1", "POST", "/v1/chat/completions"]


@given(st.binary(max_size=200))
def test_noise_is_unreadable(noise: bytes) -> None:
    with pytest.raises(EntryUnreadable):
        CachedResponse.decode(noise)
    with pytest.raises(EntryUnreadable):
        CachedResponse.decode(DATA[:PREFIX] + noise)


@pytest.mark.parametrize("length", range(len(DATA)))
def test_a_cut_entry_is_unreadable(length: int) -> None:
    with pytest.raises(EntryUnreadable):
        CachedResponse.decode(DATA[:length])


@pytest.mark.parametrize("place", range(len(DATA)))
def test_each_bit_counts(place: int) -> None:
    for bit in range(8):
        damaged = bytearray(DATA)
        damaged[place] ^= 1 << bit
        with pytest.raises(EntryUnreadable):
            CachedResponse.decode(bytes(damaged))


@given(entries(), st.integers(0, 10**6), st.binary(max_size=5), st.integers(0, 5))
def test_a_damaged_entry_is_unreadable(
    entry: CachedResponse, place: int, put: bytes, taken: int
) -> None:
    data = entry.encode()
    at = place % (len(data) + 1)
    damaged = data[:at] + put + data[at + taken :]
    if damaged == data:
        assert CachedResponse.decode(damaged) == entry
        return
    with pytest.raises(EntryUnreadable):
        CachedResponse.decode(damaged)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(0, 1) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=13),
    max_leaves=16,
)


@given(JSON_VALUES, st.lists(st.integers(0, 2**32 - 1), max_size=3), st.binary(max_size=4))
def test_a_wrong_head_is_unreadable(head: Any, sizes: list[int], body: bytes) -> None:
    assume(not isinstance(head, list) or len(head) != len(fields(ENTRY)) - 2)
    with pytest.raises(EntryUnreadable):
        CachedResponse.decode(sealed(orjson.dumps(head), sizes, body))


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": None},
        {"method": 1},
        {"target": []},
        {"status": "200"},
        {"reason": None},
        {"headers": None},
        {"headers": ["abc"]},
        {"headers": [["a"]]},
        {"headers": [["a", 1]]},
        {"headers": [["a", "b", "c"]]},
        {"stored_at": "1"},
        {"expires_at": None},
        {"provider": 1},
        {"model": 1},
        {"prompt_tokens": "1"},
        {"completion_tokens": 1.5},
    ],
)
def test_each_value_has_its_type(changes: dict[str, Any]) -> None:
    with pytest.raises(EntryUnreadable):
        CachedResponse.decode(sealed(head_of(**changes), ENTRY.chunk_sizes, ENTRY.body))


@pytest.mark.parametrize("sizes", [(18, 0), (9,), (9, 10), (9, 9, 1), (), (2**32 - 1, 19)])
def test_chunks_are_the_body(sizes: tuple[int, ...]) -> None:
    with pytest.raises(EntryUnreadable, match="chunks"):
        CachedResponse.decode(sealed(head_of(), sizes, ENTRY.body))


def test_nothing_follows_the_body() -> None:
    checked = DATA[CHECKED:] + b"x"
    longer = DATA[: CHECKED - 4] + struct.pack("<I", zlib.crc32(checked)) + checked
    with pytest.raises(EntryUnreadable, match="bytes"):
        CachedResponse.decode(longer)


def test_a_chunk_has_64_kib_at_most() -> None:
    body = bytes(65537)
    with pytest.raises(EntryUnreadable, match="chunks"):
        CachedResponse.decode(sealed(head_of(), (65537,), body))
    assert CachedResponse.decode(sealed(head_of(), (65536, 1), body)).body == body


@pytest.mark.parametrize(
    ("sizes", "written"),
    [
        ((0, 5, 0), (5,)),
        ((0,), ()),
        ((65536, 65537), (65536, 65536, 1)),
        ((200_000, 3), (65536, 65536, 65536, 3392, 3)),
        ((131_072,), (65536, 65536)),
    ],
)
def test_chunks_become_writes(sizes: tuple[int, ...], written: tuple[int, ...]) -> None:
    """A transform makes chunks of any size, such as a whole body at its end."""
    entry = cached_response(bytes(sum(sizes)), chunk_sizes=sizes)
    found = CachedResponse.decode(entry.encode())
    assert found.chunk_sizes == written
    assert found.body == entry.body


def test_another_version_is_unreadable() -> None:
    with pytest.raises(EntryUnreadable, match="version 2"):
        CachedResponse.decode(sealed(head_of(), ENTRY.chunk_sizes, ENTRY.body, version=2))


def test_what_is_unreadable_is_not_shown() -> None:
    with pytest.raises(EntryUnreadable) as raised:
        CachedResponse.decode(sealed(b'["secret"', ENTRY.chunk_sizes, ENTRY.body))
    assert "secret" not in str(raised.value)


def test_the_size_is_about_that_of_the_binary_form() -> None:
    for body in (b"", b"a" * 70_000):
        entry = cached_response(body, headers=ENTRY.headers)
        assert len(entry.encode()) <= entry.size <= len(entry.encode()) + 512
    longer = cached_response(b"", headers=[*ENTRY.headers, ("Name", "value")])
    assert longer.size == cached_response(b"", headers=ENTRY.headers).size + len("Name: value\r\n")


# What is replayed.

KEPT = [
    ("Content-Type", "application/json"),
    ("Content-Length", "2"),
    ("Content-Encoding", "gzip"),
    ("ETag", '"a"'),
    ("Last-Modified", "x"),
    ("Vary", "Origin"),
    ("Cache-Control", "max-age=60"),
    ("x-request-id", "req_1"),
    ("request-id", "req_2"),
    ("openai-version", "2020-10-01"),
    ("openai-organization", "org"),
    ("X-Twice", "1"),
    ("x-twice", "2"),
    ("X-Accel-Buffering", "no"),
]


def test_lines_are_replayed_in_their_order() -> None:
    assert replayable(KEPT) == KEPT


@pytest.mark.parametrize(
    "name",
    [
        "Set-Cookie",
        "set-cookie",
        "Date",
        "Age",
        "Server",
        "Alt-Svc",
        "Connection",
        "Keep-Alive",
        "Transfer-Encoding",
        "Trailer",
        "Upgrade",
        "TE",
        "Proxy-Authenticate",
        "x-ratelimit-remaining-requests",
        "anthropic-ratelimit-tokens-reset",
        "RateLimit-Policy",
        "openai-processing-ms",
        "Server-Timing",
        "CF-RAY",
        "cf-cache-status",
        "X-Proxy",
        "X-Proxy-Request-ID",
        "x-proxy-ratelimit-limit-requests",
        "X-Cache",
        "X-Cache-Key",
        "X-Cache-Timestamp",
        "Cache-Status",
        "Idempotent-Replayed",
    ],
)
def test_lines_of_one_exchange_are_not_replayed(name: str) -> None:
    lines = [(name, "1"), *KEPT, (name.upper(), "2")]
    assert replayable(lines) == KEPT


def test_what_does_not_pass_to_a_client_is_not_replayed() -> None:
    lines = [("Connection", "X-Hop"), ("X-Hop", "1"), ("TE", "a"), ("Alt-Svc", "b"), *KEPT]
    assert replayable(downstream_headers(lines)) == KEPT
