"""A JSON line that is too long for its receiver, cut so that it is still JSON and says so.

Bytes cut off the end would leave half an object, which no receiver can search.
"""

from typing import Any, Final

import orjson

#: What is set to true in a line that was cut.
MARK: Final = "truncated"


def shorten(line: bytes, most: int) -> bytes:
    """``line`` itself when it has at most ``most`` bytes, else its longest values shortened.

    ``most`` is at least 100. What is no JSON object comes back as one, under ``line``.
    """
    if len(line) <= most:
        return line
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        event = None
    if not isinstance(event, dict):
        event = {"line": line.decode("utf-8", "replace")}
    event[MARK] = True
    while (excess := len(orjson.dumps(event)) - most) > 0:
        if not _cut_longest(event, excess):
            return orjson.dumps({MARK: True})
    return orjson.dumps(event)


def _cut_longest(value: dict[str, Any], excess: int) -> bool:
    """Make the longest value about ``excess`` bytes shorter; False when nothing is left to cut."""
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
