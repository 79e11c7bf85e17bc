"""proxy/tools/verify/runner.py: the upstream is asked again before the proxy is blamed."""

from typing import Any

import pytest

from proxy.tools.verify import runner as module
from proxy.tools.verify.probes import Probe
from proxy.tools.verify.raw_client import Endpoint, NoResponse, Unreachable, WireResponse
from proxy.tools.verify.runner import Pair, Row, Side
from tests.support.verify_responses import answer, proxied

UPSTREAM, PROXY = Endpoint("http://upstream"), Endpoint("http://proxy")
GET = Probe("get", "GET", "/v1/x")
POST = Probe("post", "POST", "/v1/x", generative=True)
JSON = (("Content-Type", "application/json"),)
SLOW = tuple((0.03 * i, 1) for i in range(10))


class Wire:
    """Stands for the network: hands out what was prepared for each side, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[Endpoint, list[Any]] = {}
        monkeypatch.setattr(module, "call", self)

    def __call__(self, endpoint: Endpoint, *_: object) -> WireResponse:
        found: WireResponse | Exception = self.answers[endpoint].pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def examine(
        self, probe: Probe, direct: list[Any], relayed: list[Any], *, exact: bool = False
    ) -> Row:
        self.answers = {UPSTREAM: direct, PROXY: relayed}
        made = Pair(Side(UPSTREAM, "sk-key"), Side(PROXY, "sk-token"), exact)
        row = made.examine(probe)
        assert self.answers == {UPSTREAM: [], PROXY: []}
        return row


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch)


def keys(row: Row) -> tuple[list[str], list[str]]:
    return [f.key for f in row.found.differences], [f.key for f in row.found.varies]


def test_two_calls_when_nothing_differs(wire: Wire) -> None:
    assert keys(wire.examine(GET, [answer(b"x")], [proxied(b"x")])) == ([], [])


def test_what_the_upstream_varies_itself(wire: Wire) -> None:
    direct = [answer(b"1", (("X-Build", "a"),)), answer(b"2", (("X-Build", "b"),))]
    row = wire.examine(GET, direct, [proxied(b"3", (("X-Build", "c"),))])
    assert keys(row) == ([], ["x-build", "bytes"])


def test_what_it_does_not(wire: Wire) -> None:
    direct = [answer(b"1", (("X-Build", "a"),)), answer(b"2", (("X-Build", "a"),))]
    row = wire.examine(GET, direct, [proxied(b"3", (("X-Build", "c"),))])
    assert keys(row) == (["x-build"], ["bytes"])


def test_exact_forgives_no_bytes(wire: Wire) -> None:
    direct = [answer(b'{"a": 1}', JSON), answer(b'{"a": 2}', JSON)]
    row = wire.examine(POST, direct, [proxied(b'{"a": 3}', JSON)], exact=True)
    assert keys(row) == (["bytes"], [])


def test_a_second_answer_of_another_kind_forgives_nothing(wire: Wire) -> None:
    limited = answer(b"slow down", status=429)
    row = wire.examine(GET, [answer(b"1"), limited], [proxied(b"2")])
    assert keys(row) == (["bytes"], [])


def test_holding_back_must_be_seen_twice(wire: Wire) -> None:
    slow, at_once = {"pieces": SLOW}, {"pieces": ((0.0, 10),)}
    direct = [answer(b"x" * 10, **slow), answer(b"x" * 10, **slow)]
    once = [proxied(b"x" * 10, **at_once), proxied(b"x" * 10, **slow)]
    assert keys(wire.examine(GET, list(direct), once)) == ([], ["pieces"])
    twice = [proxied(b"x" * 10, **at_once), proxied(b"x" * 10, **at_once)]
    assert keys(wire.examine(GET, list(direct), twice)) == (["pieces"], [])


def test_without_the_proxys_mark_it_is_not_the_proxy(wire: Wire) -> None:
    assert keys(wire.examine(GET, [answer(b"x")], [answer(b"x")])) == (["x-proxy-request-id"], [])


@pytest.mark.parametrize("status", [204, 401])
def test_cors_is_asked_for_when_it_matters(wire: Wire, status: int) -> None:
    direct = answer(b"x", (("Access-Control-Allow-Origin", "*"),))
    own = answer(headers=(("X-Proxy-Request-ID", "1"),), status=status)
    again = [] if status == 204 else [direct]
    row = wire.examine(GET, [direct, *again], [proxied(b"x"), own])
    assert keys(row) == ([] if status == 204 else ["access-control-allow-origin"], [])


def test_no_answer_of_one_side_is_a_row(wire: Wire) -> None:
    row = wire.examine(GET, [answer(b"x")], [NoResponse("silence")])
    assert [f.text for f in row.found.differences] == ["no response from http://proxy: silence"]
    row = wire.examine(GET, [NoResponse("silence")], [])
    assert [f.text for f in row.found.differences] == ["no response from http://upstream: silence"]
    assert not row.found.complete


def test_nobody_there_ends_it(wire: Wire) -> None:
    with pytest.raises(Unreachable, match=r"^no response from http://upstream: refused$"):
        wire.examine(GET, [Unreachable("refused")], [])
