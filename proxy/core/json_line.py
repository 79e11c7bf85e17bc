"""Truncating a JSON line so that it is still JSON, and marked as truncated.

Cutting bytes off its end would leave half an object, which no receiver can search.
"""

from typing import Any, Final

import orjson

#: The field that is true in a truncated line.
MARK: Final = "truncated"


def truncate(line: bytes, max_bytes: int) -> bytes:
    """Returns `line`, with its longest values shortened if it has more than `max_bytes`.

    `max_bytes` is at least 100. Text that is no JSON object becomes one, with the field ``line``.
    """
    if len(line) <= max_bytes:
        return line
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        event = None
    if not isinstance(event, dict):
        event = {"line": line.decode("utf-8", "replace")}
    event[MARK] = True
    while (excess := len(orjson.dumps(event)) - max_bytes) > 0:
        if not _cut_longest(event, excess):
            return orjson.dumps({MARK: True})
    return orjson.dumps(event)


def _cut_longest(value: dict[str, Any], excess: int) -> bool:
    """Cut the longest value by about `excess` bytes. Returns False when nothing is left to cut."""
    sizes = {name: len(orjson.dumps(item)) for name, item in value.items() if name != MARK}
    if not sizes:
        return False
    name = max(sizes, key=lambda key: sizes[key])
    item = value[name]
    if isinstance(item, dict) and item and _cut_longest(item, excess):
        return True
    if isinstance(item, str) and item:
        # By characters in proportion to bytes: escapes and UTF-8 make some longer than others.
        kept = len(item) * max(0, sizes[name] - excess) // sizes[name]
        value[name] = item[: min(kept, len(item) - 1)]
    else:
        del value[name]
    return True
