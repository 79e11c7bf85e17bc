"""proxy/tools/verify/compare.py: order, case, duplicates, values; what is added and what varies."""

import pytest

from proxy.tools.verify.compare import HeaderFindings, Headers, compare_headers


def compared(direct: Headers, proxied: Headers, *, cors: bool = False) -> HeaderFindings:
    return compare_headers(direct, proxied, with_length=True, any_length=False, cors=cors)


@pytest.mark.parametrize(
    ("direct", "proxied", "differences"),
    [
        ([("A", "1")], [("A", "1")], []),
        ([("A", "1")], [("a", "1")], [("a", "case: A → a")]),
        ([("A", "1")], [("A", "2")], [("a", "A: '1' → '2'")]),
        ([("A", "1")], [], [("a", "A: one line → none")]),
        ([], [("A", "1")], [("a", "A: none → one line")]),
        ([("A", "1"), ("A", "2")], [("A", "1, 2")], [("a", "A: 2 lines → one line")]),
        (
            [("A", "1"), ("A", "2")],
            [("A", "2"), ("A", "1")],
            [("a", "A: '1' → '2'"), ("a", "A: '2' → '1'")],
        ),
        (
            [("A", "1"), ("B", "2")],
            [("B", "2"), ("A", "1")],
            [("order", "order, from line 1 on: a → b")],
        ),
        ([("Set-Cookie", "a"), ("Set-Cookie", "b")], [("Set-Cookie", "c")], "set-cookie"),
        ([("X-RateLimit-Left", "1")], [], "x-ratelimit-left"),
    ],
)
def test_lines(direct: Headers, proxied: Headers, differences: list[tuple[str, str]] | str) -> None:
    found = compared(direct, proxied).differences
    if isinstance(differences, str):
        assert [name for name, _ in found] == [differences]
    else:
        assert found == differences


def test_values_that_are_new_with_every_call() -> None:
    direct = [("X-Request-Id", "1"), ("Set-Cookie", "a=1"), ("x-ratelimit-remaining", "9")]
    proxied = [("X-Request-Id", "2"), ("Set-Cookie", "a=2"), ("x-ratelimit-remaining", "8")]
    found = compared(direct, proxied)
    assert not found.differences
    assert found.varies == [
        ("x-request-id", "X-Request-Id: varies"),
        ("set-cookie", "Set-Cookie: varies"),
        ("x-ratelimit-remaining", "x-ratelimit-remaining: varies"),
    ]


def test_the_hop_and_the_server() -> None:
    direct = [("Server", "a"), ("Connection", "X-Hop"), ("X-Hop", "1"), ("A", "1")]
    proxied = [("Server", "b"), ("Date", "now"), ("Connection", "keep-alive"), ("A", "1")]
    found = compared(direct, proxied)
    assert (found.differences, found.varies) == ([], [])
    assert found.named == [
        "dropped or replaced: Server: a",
        "dropped or replaced: Connection: X-Hop",
        "dropped or replaced: X-Hop: 1",
        "the proxy's own: Server: b",
        "the proxy's own: Date: now",
        "the proxy's own: Connection: keep-alive",
    ]


def test_an_added_line_that_the_upstream_sends_too() -> None:
    direct = [("Server-Timing", "theirs"), ("A", "1")]
    faithful = [*direct, ("Server-Timing", "ours")]
    assert compared(direct, faithful).named == ["added: Server-Timing: ours"]
    assert not compared(direct, faithful).differences
    replaced = [("A", "1"), ("Server-Timing", "ours")]
    assert compared(direct, replaced).differences
    assert compared(direct, [*faithful, ("Server-Timing", "third")]).differences


def test_lengths() -> None:
    one, other = [("Content-Length", "1")], [("Content-Length", "2")]
    assert compared(one, other).differences
    for with_length, any_length in ((True, True), (False, False)):
        found = compare_headers(one, other, with_length=with_length, any_length=any_length)
        assert not found.differences


def test_cors() -> None:
    direct = [("Vary", "Accept"), ("Access-Control-Allow-Origin", "*"), ("A", "1")]
    proxied = [("Vary", "Accept"), ("A", "1"), ("Vary", "Origin")]
    assert compared(direct, proxied).differences
    assert not compared(direct, proxied, cors=True).differences
