"""Truncating lines of events. The order in which fields are cut is public (docs/events.md).

    attempts      to the first two and the last two, with `attempts_omitted`
    endpoint, request_id, metadata.response_id, metadata.model
                  in this order, each as far as needed, but not below its minimum length
    all others    the longest value, until the line fits

A truncated line is still JSON and has `"truncated": true`.
"""

from collections.abc import Sequence
from typing import Any, Final

import orjson

from proxy.core.json_line import MARK, truncate

__all__ = ["MARK", "MAX_LINE_BYTES", "MAX_STDOUT_BYTES", "fit", "truncate"]

#: Including the line end. A write of less than PIPE_BUF (4096) to a pipe is atomic on Linux.
MAX_STDOUT_BYTES: Final = 4095
MAX_LINE_BYTES: Final = 64 * 1024
_ATTEMPTS_AT_AN_END: Final = 2
#: Path of a field → minimum characters that it keeps.
_ORDER: Final[Sequence[tuple[tuple[str, ...], int]]] = (
    (("endpoint",), 128),
    (("request_id",), 64),
    (("metadata", "response_id"), 64),
    (("metadata", "model"), 64),
)


def fit(line: bytes, max_bytes: int) -> bytes:
    """Returns `line`, truncated if it has more than `max_bytes`, line end included."""
    if len(line) <= max_bytes:
        return line
    max_bytes -= 1  # the line end
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        event = None
    if isinstance(event, dict):
        event[MARK] = True
        _cut_in_order(event, max_bytes)
        line = orjson.dumps(event)
    return truncate(line.rstrip(b"\n"), max_bytes) + b"\n"


def _cut_in_order(event: dict[str, Any], max_bytes: int) -> None:
    attempts = event.get("attempts")
    if isinstance(attempts, list) and len(attempts) > 2 * _ATTEMPTS_AT_AN_END:
        event["attempts_omitted"] = len(attempts) - 2 * _ATTEMPTS_AT_AN_END
        event["attempts"] = attempts[:_ATTEMPTS_AT_AN_END] + attempts[-_ATTEMPTS_AT_AN_END:]
    for (*parents, name), min_chars in _ORDER:
        holder: Any = event
        for parent in parents:
            holder = holder.get(parent) if isinstance(holder, dict) else None
        value = holder.get(name) if isinstance(holder, dict) else None
        while isinstance(value, str) and len(value) > min_chars:
            excess = len(orjson.dumps(event)) - max_bytes
            if excess <= 0:
                return
            # By characters in proportion to bytes: escapes and UTF-8 make some longer than others.
            size = len(orjson.dumps(value))
            kept = len(value) * max(0, size - excess) // size
            value = value[: max(min_chars, min(kept, len(value) - 1))]
            holder[name] = value
