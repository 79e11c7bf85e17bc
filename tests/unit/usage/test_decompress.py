from __future__ import annotations

import contextlib
import gzip
import os
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.usage.decompress import Inflater

TEXT = b"data: some text, some text, some more text\n\n" * 50


def raw_deflate(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush()


def inflate(encoding: str, *chunks: bytes, **bounds: int) -> bytes:
    inflater = Inflater(encoding, **bounds)
    return b"".join(piece for chunk in chunks for piece in inflater.feed(chunk))


GZIP = gzip.compress(TEXT)
FORMS = {
    "gzip": ("gzip", gzip.compress(TEXT)),
    "x-gzip": ("x-gzip", gzip.compress(TEXT)),
    "gzip with a name": ("gzip", GZIP[:3] + b"\x08" + GZIP[4:10] + b"name\0" + GZIP[10:]),
    "gzip of two members": ("gzip", gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])),
    "gzip with padding": ("gzip", gzip.compress(TEXT) + b"\0" * 100 + gzip.compress(b"unseen")),
    "zlib": ("deflate", zlib.compress(TEXT)),
    "zlib, fast": ("deflate", zlib.compress(TEXT, 1)),
    "zlib with padding": ("deflate", zlib.compress(TEXT) + b"\x1f\x8b"),
    "raw": ("deflate", raw_deflate(TEXT)),
    "raw, stored": (
        "deflate",
        b"\x01"
        + len(TEXT).to_bytes(2, "little")
        + (65535 - len(TEXT)).to_bytes(2, "little")
        + TEXT,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_in_one_chunk_and_byte_by_byte(form: str) -> None:
    encoding, data = FORMS[form]
    assert inflate(encoding, data) == TEXT
    assert inflate(encoding, *(data[i : i + 1] for i in range(len(data)))) == TEXT


def test_what_was_flushed_comes_out_at_once() -> None:
    deflate = zlib.compressobj(wbits=31)
    inflater = Inflater("gzip")
    for event in (b"data: one\n\n", b"data: two\n\n"):
        chunk = deflate.compress(event) + deflate.flush(zlib.Z_SYNC_FLUSH)
        assert b"".join(inflater.feed(chunk)) == event


def test_a_large_response_comes_whole_through_small_pieces() -> None:
    data = os.urandom(300_000) + bytes(700_000) + os.urandom(300_000)
    assert inflate("gzip", gzip.compress(data)) == data


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_rubbish_is_a_value_error(encoding: str) -> None:
    with pytest.raises(ValueError, match="broken"):
        inflate(encoding, b"\xff" * 100)


def test_a_wrong_checksum_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="broken"):
        inflate("gzip", gzip.compress(TEXT)[:-8] + bytes(8))


def test_a_bomb_is_refused_early_and_takes_no_memory() -> None:
    bomb = gzip.compress(bytes(100_000_000))
    inflater = Inflater("gzip")
    seen = 0
    tracemalloc.start()
    try:
        with contextlib.suppress(ValueError):
            for piece in inflater.feed(bomb):
                seen += len(piece)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert seen <= 4 * 1024 * 1024


def test_a_slow_bomb_is_refused_too() -> None:
    bomb = gzip.compress(bytes(3_000_000))
    with pytest.raises(ValueError, match="too much"):
        inflate("gzip", *(bomb[i : i + 10] for i in range(0, len(bomb), 10)), max_total=1_000_000)


def test_thousands_of_empty_members_are_refused() -> None:
    with pytest.raises(ValueError, match="members"):
        inflate("gzip", gzip.compress(b"") * 1000)


@given(st.sampled_from(["gzip", "deflate"]), st.lists(st.binary()))
def test_hostile_bytes_raise_nothing_but_value_error(encoding: str, chunks: list[bytes]) -> None:
    with contextlib.suppress(ValueError):
        inflate(encoding, *chunks)


@pytest.mark.parametrize("name", ["gzip", "gzip with padding", "zlib", "zlib with padding", "raw"])
def test_it_is_complete_once_the_compressed_data_has_ended(name: str) -> None:
    encoding, body = FORMS[name]
    end = len(GZIP if encoding == "gzip" else zlib.compress(TEXT) if "zlib" in name else body)
    inflater = Inflater(encoding)
    assert not inflater.complete
    for at in range(len(body)):
        list(inflater.feed(body[at : at + 1]))
        assert inflater.complete is (at + 1 >= end)
