"""When an event came in, out of its line."""

from datetime import datetime

import orjson


def came_in(line: bytes) -> float | None:
    """Unix seconds; None when the line does not say."""
    try:
        return datetime.fromisoformat(orjson.loads(line)["timestamp"]).timestamp()
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
