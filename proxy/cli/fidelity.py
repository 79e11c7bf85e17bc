"""Two answers to one request, direct and through the proxy: what differs, and whose business it is.

A :class:`Finding` is a *difference* unless the contract names it (docs/relay.md) or the upstream
itself varies there. The thing to get wrong: a value that is new with every call says nothing about
the proxy, but how often its line comes, and where, does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import orjson

from proxy.cli.headerlines import compare_headers
from proxy.cli.shapes import body_shape, decoded
from proxy.cli.wirecall import Answer

ASPECTS: Final = ("status", "headers", "framing", "body", "timing")
#: Pieces that come closer together, in seconds, count as one: the network may join or split them.
_ONE_BURST: Final = 0.002
#: A direct answer that came in fewer bursts, or in less time, tells nothing about holding back.
_FEWEST_BURSTS: Final = 4
_SHORTEST_SPREAD: Final = 0.02


@dataclass(frozen=True, slots=True)
class Finding:
    """``key`` says what of the aspect, so that two comparisons can be held against each other."""

    aspect: str
    key: str
    text: str


@dataclass(slots=True)
class Comparison:
    """What one request showed.

    ``named``: what the contract says the proxy changes. ``complete``: not only the status was
    looked at; it is False where there are not two answers of the upstream.
    """

    differences: list[Finding] = field(default_factory=list)
    varies: list[Finding] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    complete: bool = True

    def verdict(self, aspect: str) -> str:
        if any(finding.aspect == aspect for finding in self.differences):
            return "differs"
        return "varies" if any(finding.aspect == aspect for finding in self.varies) else "same"

    def forgive(self, keys: Iterable[tuple[str, str]]) -> None:
        """Differences that the upstream shows between two calls of its own are not the proxy's."""
        shown = set(keys)
        self.varies += [item for item in self.differences if (item.aspect, item.key) in shown]
        self.differences = [
            item for item in self.differences if (item.aspect, item.key) not in shown
        ]

    def places(self) -> set[tuple[str, str]]:
        return {(finding.aspect, finding.key) for finding in self.differences}


def compare(
    direct: Answer, proxied: Answer, *, generative: bool, exact: bool, cors: bool = False
) -> Comparison:
    """``generative``: a successful answer is made anew each time, so that its words may differ.

    ``exact``: they may not. ``cors``: the proxy has ``CORS_ALLOWED_ORIGINS`` set.
    """
    if answered_by_proxy(proxied):
        text = f"the proxy did not ask the upstream: {_described(proxied)}"
        return Comparison([Finding("status", "own answer", text)], complete=False)
    found = Comparison()
    _compare_status(found, direct, proxied)
    framed_alike = _compare_framing(found, direct, proxied)
    headers = compare_headers(
        direct.headers,
        proxied.headers,
        with_length=framed_alike,
        any_length=bool(direct.body),
        cors=cors,
    )
    found.differences += [Finding("headers", name, text) for name, text in headers.differences]
    found.varies += [Finding("headers", name, text) for name, text in headers.varies]
    found.named += headers.named
    _compare_body(found, direct, proxied, may_vary=generative and direct.status < 300 and not exact)
    _compare_timing(found, direct, proxied)
    return found


def timing(answer: Answer) -> dict[str, float | int]:
    """Times in milliseconds. ``bursts``: pieces, those within 2 ms of each other as one."""
    times = [at for at, _ in answer.pieces]
    return {
        "head_ms": round(answer.head_after * 1000, 3),
        "first_ms": round(times[0] * 1000, 3) if times else 0.0,
        "largest_gap_ms": round(max(_gaps(times), default=0.0) * 1000, 3),
        "last_ms": round(times[-1] * 1000, 3) if times else 0.0,
        "pieces": len(times),
        "bursts": _bursts(times),
        "chunks": answer.chunks,
        "bytes": len(answer.body),
    }


def answered_by_proxy(answer: Answer) -> bool:
    """Whether the proxy spoke for itself: it marks every answer for which it asked an upstream."""
    return bool(answer.values("x-proxy-request-id")) and not answer.values(
        "x-upstream-request-start"
    )


def _compare_status(found: Comparison, direct: Answer, proxied: Answer) -> None:
    if direct.version != proxied.version:
        found.named.append(f"HTTP version: {direct.version}, the proxy's {proxied.version}")
    if direct.status != proxied.status:
        text = f"{_described(direct)} → {_described(proxied)}"
        found.differences.append(Finding("status", "status", text))
    elif direct.reason != proxied.reason:
        text = f"reason: {direct.reason!r} → {proxied.reason!r}"
        found.differences.append(Finding("status", "reason", text))


def _described(answer: Answer) -> str:
    """Status and reason, and what an error says of itself."""
    text = f"{answer.status} {answer.reason}".rstrip()
    try:
        error = orjson.loads(answer.body)["error"]
        return f"{text} ({error.get('code') or error.get('type')}: {error['message']})"
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return text


def _compare_framing(found: Comparison, direct: Answer, proxied: Answer) -> bool:
    """False when the two lengths cannot be compared because only one answer has one."""
    if direct.clean != proxied.clean:
        text = "ends as it should → cut short" if direct.clean else "cut short → looks complete"
        found.differences.append(Finding("framing", "end", text))
    for count, what in ((direct.interim, "interim answers"), (direct.trailers, "trailers")):
        if count:
            found.named.append(f"{what} dropped: {count}")
    if direct.framing == proxied.framing:
        return True
    text = f"{direct.framing} → {proxied.framing}"
    if (direct.framing, proxied.framing) == ("close", "chunked"):
        found.named.append(f"framing: {text}")
    else:
        found.differences.append(Finding("framing", "framing", text))
    return False


def _compare_body(found: Comparison, direct: Answer, proxied: Answer, *, may_vary: bool) -> None:
    if direct.body == proxied.body:
        return
    bytes_differ = Finding("body", "bytes", _where(direct.body, proxied.body))
    if not may_vary:
        found.differences.append(bytes_differ)
        return
    shapes = [_shape(answer) for answer in (direct, proxied)]
    if shapes[0] == shapes[1] is not None or _both_opaque(direct, proxied):
        found.varies.append(bytes_differ)
    else:
        text = "structure: " + _first_difference(shapes[0], shapes[1])
        found.differences.append(Finding("body", "structure", text))


def _shape(answer: Answer) -> str | None:
    plain = decoded(answer.body, ", ".join(answer.values("content-encoding")))
    if plain is None:
        return None
    return body_shape(plain, ", ".join(answer.values("content-type")))


def _both_opaque(direct: Answer, proxied: Answer) -> bool:
    """Neither says anything about its structure: speech, or a coding that is not read here."""
    return _shape(direct) is None and _shape(proxied) is None


def _where(one: bytes, other: bytes) -> str:
    shorter = min(len(one), len(other))
    place = next((i for i in range(shorter) if one[i] != other[i]), shorter)
    around = slice(max(0, place - 20), place + 20)
    return (
        f"{len(one)} → {len(other)} bytes, from byte {place} on: {one[around]!r} →"
        f" {other[around]!r}"
    )


def _first_difference(one: str | None, other: str | None) -> str:
    if one is None or other is None:
        return " → ".join("no JSON" if shape is None else "JSON" for shape in (one, other))
    ours, theirs = one.splitlines(), other.splitlines()
    for mine, its in zip(ours, theirs, strict=False):
        if mine != its:
            return f"{_cut(mine, its)} → {_cut(its, mine)}"
    return f"{len(ours)} → {len(theirs)} kinds of events"


def _cut(text: str, other: str) -> str:
    """From a little before where ``text`` leaves ``other``."""
    pairs = enumerate(zip(text, other, strict=False))
    place = next((i for i, (mine, its) in pairs if mine != its), min(len(text), len(other)))
    start = max(0, place - 40)
    return f"{'…' if start else ''}{text[start : place + 40]}{'…' if text[place + 40 :] else ''}"


def _compare_timing(found: Comparison, direct: Answer, proxied: Answer) -> None:
    ours, its = timing(direct), timing(proxied)
    held = (
        ours["bursts"] >= _FEWEST_BURSTS
        and ours["last_ms"] - ours["first_ms"] >= _SHORTEST_SPREAD * 1000
        and its["bursts"] <= ours["bursts"] / 2
        and bool(proxied.body)
    )
    if held:
        text = f"held back: came in {ours['bursts']} bursts → {its['bursts']}"
        found.differences.append(Finding("timing", "pieces", text))


def _gaps(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def _bursts(times: Sequence[float]) -> int:
    return sum(gap > _ONE_BURST for gap in _gaps(times)) + bool(times)
