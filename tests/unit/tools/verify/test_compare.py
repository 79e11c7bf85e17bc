"""proxy/tools/verify/compare.py: which difference is the proxy's, and of which aspect."""

import gzip
from typing import Any

import pytest

from proxy.tools.verify.compare import ASPECTS, Comparison, Finding, compare, timing
from proxy.tools.verify.raw_client import WireResponse
from tests.support.verify_responses import answer, proxied

JSON = (("Content-Type", "application/json"),)
SSE = (("Content-Type", "text/event-stream"),)


def compared(direct: WireResponse, relayed: WireResponse, **options: Any) -> Comparison:
    return compare(direct, relayed, **{"generative": True, "exact": False, **options})


def verdicts(found: Comparison) -> dict[str, str]:
    return {a: found.verdict(a) for a in ASPECTS if found.verdict(a) != "same"}


def test_equal_answers() -> None:
    found = compared(answer(b"{}", JSON), proxied(b"{}", JSON))
    assert verdicts(found) == {}
    assert found.named == [
        "added: X-Proxy-Request-ID: 1",
        "added: X-Upstream-Request-Start: 2",
    ]


def test_words_may_differ_and_structure_may_not() -> None:
    one, other = b'{"text": "one", "n": 1}', b'{"text": "other", "n": 2.5}'
    assert verdicts(compared(answer(one, JSON), proxied(other, JSON))) == {"body": "varies"}
    for body in (b'{"text": null, "n": 2}', b'{"n": 2, "text": "x"}', b"no JSON"):
        assert verdicts(compared(answer(one, JSON), proxied(body, JSON))) == {"body": "differs"}
    for options in ({"exact": True}, {"generative": False}):
        found = compared(answer(one, JSON), proxied(other, JSON), **options)
        assert verdicts(found) == {"body": "differs"}


def test_an_error_is_not_made_anew() -> None:
    one, other = answer(b'{"a": 1}', JSON, status=404), proxied(b'{"a": 2}', JSON, status=404)
    assert verdicts(compared(one, other)) == {"body": "differs"}


def test_structure_is_seen_through_compression() -> None:
    headers = (*JSON, ("Content-Encoding", "gzip"))
    one, same, other = (gzip.compress(x) for x in (b'{"a": 1}', b'{"a": 2}', b'{"b": 1}'))
    assert verdicts(compared(answer(one, headers), proxied(same, headers))) == {"body": "varies"}
    assert verdicts(compared(answer(one, headers), proxied(other, headers))) == {"body": "differs"}


def test_a_body_without_a_structure_may_differ_when_it_is_generated() -> None:
    audio = (("Content-Type", "audio/mpeg"),)
    found = compared(answer(b"\x00\x01", audio), proxied(b"\x00\x02\x03", audio))
    assert verdicts(found) == {"body": "varies"}


def test_a_stream_without_its_end() -> None:
    events = b'data: {"a": 1}\n\ndata: {"a": 2}\n\n'
    found = compared(answer(events + b"data: [DONE]\n\n", SSE), proxied(events, SSE))
    assert [f.text for f in found.differences] == ["structure: 3 → 2 kinds of events"]


@pytest.mark.parametrize(
    ("direct", "relayed", "aspect"),
    [
        ({}, {"status": 201}, "status"),
        ({}, {"reason": "Fine"}, "status"),
        ({}, {"clean": False}, "framing"),
        ({"clean": False}, {}, "framing"),
        ({}, {"framing": "chunked"}, "framing"),
        ({"framing": "chunked"}, {}, "framing"),
    ],
)
def test_status_and_framing(direct: dict[str, Any], relayed: dict[str, Any], aspect: str) -> None:
    assert verdicts(compared(answer(**direct), proxied(**relayed))) == {aspect: "differs"}


def test_what_the_contract_names() -> None:
    direct = answer(framing="close", version="HTTP/1.0", interim=1, trailers=2)
    found = compared(direct, proxied(framing="chunked"))
    assert verdicts(found) == {}
    assert found.named[:4] == [
        "HTTP version: HTTP/1.0, the proxy's HTTP/1.1",
        "interim responses dropped: 1",
        "trailers dropped: 2",
        "framing: close → chunked",
    ]


def test_an_answer_of_the_proxy_itself() -> None:
    headers = (("X-Proxy-Request-ID", "1"),)
    body = b'{"error":{"code":"token_expired","message":"Too late."}}'
    found = compared(answer(b"{}", JSON), answer(body, headers, status=401, reason="No"))
    assert not found.complete
    assert [f.text for f in found.differences] == [
        "the proxy did not ask the upstream: 401 No (token_expired: Too late.)"
    ]


def paced(gap: float, count: int) -> tuple[tuple[float, int], ...]:
    return tuple((gap * i, 10) for i in range(count))


@pytest.mark.parametrize(
    ("direct", "relayed", "verdict"),
    [
        (paced(0.03, 10), paced(0.03, 9), "same"),
        (paced(0.03, 10), paced(0.03, 6), "same"),
        (paced(0.03, 10), paced(0.06, 5), "differs"),
        (paced(0.03, 10), paced(0.0001, 10), "differs"),
        (paced(0.03, 10), ((0.0, 100),), "differs"),
        # Nothing can be told from these.
        (paced(0.03, 3), ((0.0, 30),), "same"),
        (paced(0.003, 5), ((0.0, 50),), "same"),
    ],
)
def test_holding_back(direct: Any, relayed: Any, verdict: str) -> None:
    body = b"x" * 100
    found = compared(answer(body, pieces=direct), proxied(body, pieces=relayed))
    assert found.verdict("timing") == verdict


def test_times() -> None:
    pieces = ((0.01, 5), (0.011, 5), (0.041, 1))
    assert timing(answer(b"x" * 11, pieces=pieces, chunks=2)) == {
        "head_ms": 100.0,
        "first_ms": 10.0,
        "largest_gap_ms": 30.0,
        "last_ms": 41.0,
        "pieces": 3,
        "bursts": 2,
        "chunks": 2,
        "bytes": 11,
    }
    assert timing(answer())["pieces"] == 0


def test_what_the_upstream_shows_itself_is_forgiven() -> None:
    found = Comparison([Finding("headers", "x-a", "a"), Finding("headers", "x-b", "b")])
    found.forgive({("headers", "x-a"), ("body", "x-b")})
    assert [f.key for f in found.varies] == ["x-a"]
    assert found.difference_keys() == {("headers", "x-b")}
