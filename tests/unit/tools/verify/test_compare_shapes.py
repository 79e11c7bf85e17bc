"""proxy/tools/verify/compare.py: equal for other words, different for anything else."""

import gzip
import zlib

import pytest

from proxy.tools.verify.compare import body_shape, decoded, json_shape, stream_shape


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ({"a": 1, "b": [1, 2.5], "c": None}, "{a: number, b: [number], c: null}"),
        ([1, "x", "y", True], "[number, string, bool]"),
        ([], "[]"),
        ([{"a": 1}, {"a": 2}, {"b": 1}], "[{a: number}, {b: number}]"),
    ],
)
def test_json(value: object, shape: str) -> None:
    assert json_shape(value) == shape


STREAM = b'data: {"a": "one"}\n\ndata: {"a": "two"}\n\nevent: end\nid: 7\ndata: [DONE]\n\n'


def test_a_stream() -> None:
    assert stream_shape(STREAM).splitlines() == [
        "lines end with b'\\n'",
        "data: {a: string}",
        "event: end | id: | data: [DONE]",
    ]


@pytest.mark.parametrize(
    "same",
    [
        b'data: {"a": "x"}\n\nevent: end\nid: 8\ndata: [DONE]\n\n',
        b": ping\n\n" + STREAM,
        STREAM.replace(b"event: end", b": comment\nevent: end"),
    ],
)
def test_streams_of_one_shape(same: bytes) -> None:
    assert stream_shape(same) == stream_shape(STREAM)


@pytest.mark.parametrize(
    "other",
    [
        STREAM.replace(b"\n", b"\r\n"),
        STREAM.replace(b"data: [DONE]\n\n", b""),
        STREAM[:-1],
        STREAM.replace(b"event: end", b"event: error"),
        STREAM.replace(b"id: 7\n", b""),
        STREAM.replace(b'data: {"a": "two"}', b"data: words"),
        STREAM.replace(b"data: {", b"data:{"),
        STREAM + b"data: [DONE]\n\ndata: 1\n\n",
    ],
)
def test_streams_of_another(other: bytes) -> None:
    assert stream_shape(other) != stream_shape(STREAM)


def test_what_has_no_shape() -> None:
    assert body_shape(b"words", "application/json") is None
    assert body_shape(b"{}", "application/json; charset=utf-8") == "{}"
    assert body_shape(STREAM, "Text/Event-Stream; charset=utf-8") == stream_shape(STREAM)


def test_decoding() -> None:
    assert decoded(b"x", "") == b"x"
    assert decoded(gzip.compress(b"x"), "gzip") == b"x"
    assert decoded(zlib.compress(b"x"), "Deflate") == b"x"
    for body, encoding in ((b"x", "gzip"), (gzip.compress(b"x")[:-4], "gzip"), (b"x", "br")):
        assert decoded(body, encoding) is None
