"""Header lines of two answers: order, case, duplicates and values, for ``manage.py verify``.

The thing to get wrong: an upstream may itself send a line that the proxy adds, so the proxy's is
known by there being one more of it, not by its name.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

Headers = Sequence[tuple[str, str]]

#: RFC 9110 §7.6.1, and what the proxy's server writes by itself.
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
#: What the upstream says of its own origin; the proxy's address is another.
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
        "x-proxy-request-id",
        "x-upstream-request-start",
        "x-upstream-request-stop",
    }
)
#: New with every call, at OpenAI and those who speak like it, and at what stands in front of them.
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
    """Pairs of a name in lower case (or ``order``) and what is to be said of it."""

    differences: list[tuple[str, str]] = field(default_factory=list)
    varies: list[tuple[str, str]] = field(default_factory=list)
    named: list[str] = field(default_factory=list)


def compare_headers(
    direct: Headers, proxied: Headers, *, with_length: bool, any_length: bool, cors: bool = False
) -> HeaderFindings:
    """``with_length``: both have a ``Content-Length`` or neither; ``any_length``: its value is
    not looked at, because the body itself is compared; ``cors``: the proxy answers for CORS."""
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
    # What is missing or doubled has been said: the order is that of the others.
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
    """``proxied`` without the proxy's own lines, which come after the upstream's."""
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
