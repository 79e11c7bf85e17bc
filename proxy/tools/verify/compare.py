"""Compares two responses to one request, direct and through the proxy.

A :class:`Finding` is a *difference* unless the contract names it (docs/relay.md) or the upstream
itself varies there.

Note: a value that is new with every call says nothing about the proxy, but the number and position
of its lines do.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import orjson

from proxy.tools.verify.raw_client import WireResponse

Headers = Sequence[tuple[str, str]]

#: RFC 9110 §7.6.1, and the fields that the proxy's server writes itself.
_OF_THE_HOP: Final = frozenset(
    {
        "connection",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
#: The upstream's statements about its own origin; the proxy has another address.
_OF_THE_ORIGIN: Final = frozenset(
    {
        "alt-svc",
        "clear-site-data",
        "nel",
        "public-key-pins",
        "report-to",
        "reporting-endpoints",
        "strict-transport-security",
    }
)
_ADDED: Final = frozenset(
    {
        "server-timing",
        "x-accel-buffering",
        "x-proxy-ratelimit-limit-requests",
        "x-proxy-ratelimit-limit-tokens",
        "x-proxy-ratelimit-remaining-requests",
        "x-proxy-ratelimit-remaining-tokens",
        "x-proxy-ratelimit-reset-requests",
        "x-proxy-ratelimit-reset-tokens",
        "x-proxy",
        "x-proxy-request-id",
        "x-upstream-request-start",
        "x-upstream-request-stop",
    }
)
#: New with every call, at OpenAI, compatible servers and the servers in front of them.
_VARYING: Final = frozenset(
    {
        "age",
        "apim-request-id",
        "cf-ray",
        "openai-processing-ms",
        "request-id",
        "retry-after",
        "retry-after-ms",
        "set-cookie",
        "x-envoy-upstream-service-time",
        "x-request-id",
        "x-response-time",
        "x-served-by",
        "x-timer",
    }
)
_VARYING_PREFIXES: Final = ("anthropic-ratelimit-", "x-ms-", "x-ratelimit-")


@dataclass(slots=True)
class HeaderFindings:
    """Pairs of a name in lower case (or ``order``) and the finding about it."""

    differences: list[tuple[str, str]] = field(default_factory=list)
    varies: list[tuple[str, str]] = field(default_factory=list)
    named: list[str] = field(default_factory=list)


def compare_headers(
    direct: Headers, proxied: Headers, *, with_length: bool, any_length: bool, cors: bool = False
) -> HeaderFindings:
    """Compares header lines.

    ``with_length``: both have a ``Content-Length`` or neither. ``any_length``: its value is
    ignored, because the body itself is compared. ``cors``: the proxy handles CORS.
    """
    found = HeaderFindings()
    skipped = set() if with_length else {"content-length"}
    if cors:
        skipped |= {
            name.lower()
            for name, _ in [*direct, *proxied]
            if name.lower().startswith("access-control-")
        }
    left = _end_to_end(direct, found, "dropped or replaced", skipped)
    right = _end_to_end(proxied, found, "the proxy's own", skipped)
    right = _without_added(left, right, found, _ADDED | {"vary"} if cors else _ADDED)
    lines, its_lines = _by_name(left), _by_name(right)
    for name in dict.fromkeys([*lines, *its_lines]):
        _compare_lines(found, name, lines.get(name, []), its_lines.get(name, []), any_length)
    # Missing and repeated lines are already reported: the order is that of the others.
    common = {name for name in lines if len(lines[name]) == len(its_lines.get(name, []))}
    order, its_order = (
        [name.lower() for name, _ in side if name.lower() in common] for side in (left, right)
    )
    if order != its_order:
        found.differences.append(("order", _order_text(order, its_order)))
    return found


def varies(name: str) -> bool:
    """Whether the value of ``name`` (lower case) is new with every call."""
    return name in _VARYING or name.startswith(_VARYING_PREFIXES)


def _end_to_end(
    headers: Headers, found: HeaderFindings, label: str, skipped: set[str]
) -> list[tuple[str, str]]:
    dropped = _OF_THE_HOP | _OF_THE_ORIGIN | skipped
    for name, value in headers:
        if name.lower() == "connection":
            dropped |= {item.strip().lower() for item in value.split(",")}
    found.named += [
        f"{label}: {name}: {value}" for name, value in headers if name.lower() in dropped
    ]
    return [(name, value) for name, value in headers if name.lower() not in dropped]


def _without_added(
    direct: Headers, proxied: Headers, found: HeaderFindings, ours: frozenset[str]
) -> list[tuple[str, str]]:
    """Returns ``proxied`` without the proxy's own lines, which come after the upstream's."""
    had = Counter(name.lower() for name, _ in direct)
    have = Counter(name.lower() for name, _ in proxied)
    kept, added = [], []
    for name, value in reversed(proxied):
        lowered = name.lower()
        if lowered in ours and have[lowered] == had[lowered] + 1:
            have[lowered] -= 1
            added.append(f"added: {name}: {value}")
        else:
            kept.append((name, value))
    found.named += reversed(added)
    return kept[::-1]


def _by_name(headers: Headers) -> dict[str, list[tuple[str, str]]]:
    lines: dict[str, list[tuple[str, str]]] = {}
    for name, value in headers:
        lines.setdefault(name.lower(), []).append((name, value))
    return lines


def _compare_lines(
    found: HeaderFindings,
    lowered: str,
    lines: list[tuple[str, str]],
    its_lines: list[tuple[str, str]],
    any_length: bool,
) -> None:
    if len(lines) != len(its_lines):
        text = f"{(lines or its_lines)[0][0]}: {_times(lines)} → {_times(its_lines)}"
        found.differences.append((lowered, text))
        return
    for (name, value), (its_name, its_value) in zip(lines, its_lines, strict=True):
        if name != its_name:
            found.differences.append((lowered, f"case: {name} → {its_name}"))
        if value == its_value or (lowered == "content-length" and any_length):
            continue
        if varies(lowered):
            found.varies.append((lowered, f"{name}: varies"))
        else:
            found.differences.append((lowered, f"{name}: {value!r} → {its_value!r}"))


def _times(lines: Sequence[object]) -> str:
    return {0: "none", 1: "one line"}.get(len(lines), f"{len(lines)} lines")


def _order_text(order: list[str], its_order: list[str]) -> str:
    place = next(i for i, (a, b) in enumerate(zip(order, its_order, strict=True)) if a != b)
    return f"order, from line {place + 1} on: {order[place]} → {its_order[place]}"


#: A body that grows beyond this when decompressed is compared as it is.
_MAX_DECODED_BYTES: Final = 64 * 1024 * 1024
_WINDOWS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}


def decoded(body: bytes, encoding: str) -> bytes | None:
    """Returns ``body`` without its ``Content-Encoding``, or None if that is not supported here."""
    coding = encoding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in _WINDOWS:
        return None
    decoder = zlib.decompressobj(_WINDOWS[coding])
    try:
        plain = decoder.decompress(body, _MAX_DECODED_BYTES)
    except zlib.error:
        return None
    return plain if decoder.eof else None


def body_shape(body: bytes, content_type: str) -> str | None:
    """Returns the same shape for responses that differ in their words only.

    Returns None for a body that is neither JSON nor SSE.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "text/event-stream":
        return stream_shape(body)
    try:
        return json_shape(orjson.loads(body))
    except orjson.JSONDecodeError:
        return None


def json_shape(value: Any) -> str:
    """Returns the keys in order and the types of values. Equal neighbours in a list count once."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {json_shape(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_runs(json_shape(item) for item in value)) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else "string"


def stream_shape(body: bytes) -> str:
    """Returns a line per run of equal events. Ignores comments, which are sent by the clock."""
    newline = b"\r\n" if b"\r\n" in body else b"\n"
    *events, rest = body.split(newline * 2)
    shapes = [shape for event in events if (shape := _event_shape(event, newline))]
    if rest.strip():
        shapes.append(f"unfinished {_event_shape(rest, newline)}")
    return "\n".join([f"lines end with {newline!r}", *_runs(shapes)])


def _event_shape(event: bytes, newline: bytes) -> str:
    lines = [line for line in event.split(newline) if not line.startswith(b":")]
    return " | ".join(_line_shape(line) for line in lines if line)


def _line_shape(line: bytes) -> str:
    name, colon, value = line.partition(b":")
    field = f"{name.decode('utf-8', 'replace')}{colon.decode()}"
    if name != b"data":
        # Ids and retry times are values like any other; the event's name is its kind.
        return f"{field}{value.decode('utf-8', 'replace')}" if name == b"event" else field
    space = " " if value.startswith(b" ") else ""
    try:
        return f"{field}{space}{json_shape(orjson.loads(value))}"
    except orjson.JSONDecodeError:
        return f"{field}{value.decode()}" if value.strip() == b"[DONE]" else f"{field}{space}text"


def _runs(items: Iterable[str]) -> list[str]:
    """``a a b a`` → ``a b a``."""
    kept: list[str] = []
    for item in items:
        if not kept or kept[-1] != item:
            kept.append(item)
    return kept


ASPECTS: Final = ("status", "headers", "framing", "body", "timing")
#: Pieces that arrive closer together count as one: the network may join or split them.
_ONE_BURST_SECONDS: Final = 0.002
#: A direct response in fewer bursts, or in less time, does not show whether the proxy holds back.
_MIN_BURSTS: Final = 4
_MIN_SPREAD_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. ``key`` names the part of the aspect, so that two comparisons can be matched."""

    aspect: str
    key: str
    text: str


@dataclass(slots=True)
class Comparison:
    """The result for one request.

    ``named`` are the changes that the contract names. ``complete`` is False if only the status was
    compared, because there are not two responses of the upstream.
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
        """Removes differences that the upstream also shows between two calls of its own."""
        shown = set(keys)
        self.varies += [item for item in self.differences if (item.aspect, item.key) in shown]
        self.differences = [
            item for item in self.differences if (item.aspect, item.key) not in shown
        ]

    def difference_keys(self) -> set[tuple[str, str]]:
        return {(finding.aspect, finding.key) for finding in self.differences}


def compare(
    direct: WireResponse,
    proxied: WireResponse,
    *,
    generative: bool,
    exact: bool,
    cors: bool = False,
) -> Comparison:
    """Compares two responses.

    ``generative``: a successful response is made anew each time, so its words may differ.
    ``exact``: they must not. ``cors``: the proxy has ``CORS_ALLOWED_ORIGINS`` set.
    """
    if made_by_proxy(proxied):
        text = f"the proxy did not ask the upstream: {_described(proxied)}"
        return Comparison([Finding("status", "own response", text)], complete=False)
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


def timing(response: WireResponse) -> dict[str, float | int]:
    """Returns times in milliseconds. ``bursts`` counts pieces within 2 ms of each other as one."""
    times = [at for at, _ in response.pieces]
    return {
        "head_ms": round(response.head_after * 1000, 3),
        "first_ms": round(times[0] * 1000, 3) if times else 0.0,
        "largest_gap_ms": round(max(_gaps(times), default=0.0) * 1000, 3),
        "last_ms": round(times[-1] * 1000, 3) if times else 0.0,
        "pieces": len(times),
        "bursts": _bursts(times),
        "chunks": response.chunks,
        "bytes": len(response.body),
    }


def made_by_proxy(response: WireResponse) -> bool:
    """Whether the response is the proxy's own: it marks every response of an upstream."""
    return bool(response.values("x-proxy-request-id")) and not response.values(
        "x-upstream-request-start"
    )


def _compare_status(found: Comparison, direct: WireResponse, proxied: WireResponse) -> None:
    if direct.version != proxied.version:
        found.named.append(f"HTTP version: {direct.version}, the proxy's {proxied.version}")
    if direct.status != proxied.status:
        text = f"{_described(direct)} → {_described(proxied)}"
        found.differences.append(Finding("status", "status", text))
    elif direct.reason != proxied.reason:
        text = f"reason: {direct.reason!r} → {proxied.reason!r}"
        found.differences.append(Finding("status", "reason", text))


def _described(response: WireResponse) -> str:
    """Returns status and reason, and an error's own description."""
    text = f"{response.status} {response.reason}".rstrip()
    try:
        error = orjson.loads(response.body)["error"]
        return f"{text} ({error.get('code') or error.get('type')}: {error['message']})"
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return text


def _compare_framing(found: Comparison, direct: WireResponse, proxied: WireResponse) -> bool:
    """Returns False if the lengths cannot be compared because only one response has one."""
    if direct.clean != proxied.clean:
        text = "ends as it should → cut short" if direct.clean else "cut short → looks complete"
        found.differences.append(Finding("framing", "end", text))
    for count, what in ((direct.interim, "interim responses"), (direct.trailers, "trailers")):
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


def _compare_body(
    found: Comparison, direct: WireResponse, proxied: WireResponse, *, may_vary: bool
) -> None:
    if direct.body == proxied.body:
        return
    bytes_differ = Finding("body", "bytes", _where(direct.body, proxied.body))
    if not may_vary:
        found.differences.append(bytes_differ)
        return
    shapes = [_shape(response) for response in (direct, proxied)]
    if shapes[0] == shapes[1] is not None or _both_opaque(direct, proxied):
        found.varies.append(bytes_differ)
    else:
        text = "structure: " + _first_difference(shapes[0], shapes[1])
        found.differences.append(Finding("body", "structure", text))


def _shape(response: WireResponse) -> str | None:
    plain = decoded(response.body, ", ".join(response.values("content-encoding")))
    if plain is None:
        return None
    return body_shape(plain, ", ".join(response.values("content-type")))


def _both_opaque(direct: WireResponse, proxied: WireResponse) -> bool:
    """Whether neither body has a known structure, such as speech or an unsupported coding."""
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
    """Returns ``text`` from shortly before its first difference from ``other``."""
    pairs = enumerate(zip(text, other, strict=False))
    place = next((i for i, (mine, its) in pairs if mine != its), min(len(text), len(other)))
    start = max(0, place - 40)
    return f"{'…' if start else ''}{text[start : place + 40]}{'…' if text[place + 40 :] else ''}"


def _compare_timing(found: Comparison, direct: WireResponse, proxied: WireResponse) -> None:
    ours, its = timing(direct), timing(proxied)
    held = (
        ours["bursts"] >= _MIN_BURSTS
        and ours["last_ms"] - ours["first_ms"] >= _MIN_SPREAD_SECONDS * 1000
        and its["bursts"] <= ours["bursts"] / 2
        and bool(proxied.body)
    )
    if held:
        text = f"held back: came in {ours['bursts']} bursts → {its['bursts']}"
        found.differences.append(Finding("timing", "pieces", text))


def _gaps(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def _bursts(times: Sequence[float]) -> int:
    return sum(gap > _ONE_BURST_SECONDS for gap in _gaps(times)) + bool(times)
