"""proxy/tools/verify/probes.py: requests from text, to the byte."""

import pytest

from proxy.tools.verify.probes import built_in, parse_request


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_file(newline: bytes) -> None:
    lines = [
        b"POST /v1/x%2Fy?a=1&a=",
        b"Content-Type: application/json",
        b"X-Empty:",
        b"x-twice: 1",
        b"x-twice:  2 ",
        b"Accept-Encoding: br, gzip;q=0.5, zstd",
        b"Authorization: Bearer sk-mine",
        b"Host: elsewhere",
        b"content-length: 3",
        b"",
        b"{}\n\nmore\r\n\r\n",
    ]
    probe = parse_request("name", newline.join(lines))
    assert (probe.name, probe.method, probe.target) == ("name", "POST", "/v1/x%2Fy?a=1&a=")
    assert probe.headers == (
        ("Content-Type", "application/json"),
        ("X-Empty", ""),
        ("x-twice", "1"),
        ("x-twice", "2"),
        ("Accept-Encoding", "gzip;q=0.5"),
    )
    assert probe.body == b"{}\n\nmore\r\n\r\n"
    assert probe.generative


@pytest.mark.parametrize(
    "text", [b"GET /v1/models", b"GET /v1/models\n", b"GET /v1/models\r\n\r\n"]
)
def test_the_shortest_file(text: bytes) -> None:
    probe = parse_request("name", text)
    assert (probe.method, probe.target, probe.headers, probe.body) == ("GET", "/v1/models", (), b"")
    assert not probe.generative


def test_a_body_with_an_empty_line_of_the_other_kind() -> None:
    assert parse_request("name", b"POST /v1/x\n\na\r\n\r\nb").body == b"a\r\n\r\nb"
    assert parse_request("name", b"POST /v1/x\r\n\r\na\n\nb").body == b"a\n\nb"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"", 1),
        (b"GET", 1),
        (b"GET /models\n\n", 1),
        (b"GET http://host/v1/models\n\n", 1),
        (b"GET /v1/a b c\n\n", 1),
        (b"G\xc3T /v1/a\n\n", 1),
        (b"GET /v1/\x01\n\n", 1),
        (b"GET /v1/a\nno colon sk-secret\n\n", 2),
        (b"GET /v1/a\nA: 1\nbad name: sk-secret\n\n", 3),
        (b"GET /v1/a\nA: sk-secret\rB: 2\n\n", 2),
        (b"POST /v1/a\nTransfer-Encoding: chunked\n\n", 2),
    ],
)
def test_what_is_no_request(text: bytes, line: int) -> None:
    with pytest.raises(ValueError, match=f"^line {line}: ") as caught:
        parse_request("name", text)
    assert "secret" not in str(caught.value)


def test_a_preflight() -> None:
    text = b"OPTIONS /v1/a\norigin: x\nAccess-Control-Request-Method: GET\n\n"
    assert parse_request("name", text).asks_for_cors
    assert not parse_request("name", text.replace(b"origin", b"x")).asks_for_cors
    assert not parse_request("name", text.replace(b"OPTIONS", b"GET")).asks_for_cors


def test_the_built_in_set() -> None:
    probes = built_in("m")
    assert len({probe.name for probe in probes}) == len(probes)
    assert b'"include_usage":true' in probes[2].body
    assert {probe.method for probe in probes} == {"GET", "POST", "HEAD"}
