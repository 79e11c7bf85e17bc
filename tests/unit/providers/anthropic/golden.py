"""Golden files: one JSON document per case, in a folder per subject; and how types judge them."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def cases(folder: str) -> dict[str, dict[str, Any]]:
    """Return the documents of a folder by name."""
    found = {path.stem: json.loads(path.read_text()) for path in (HERE / folder).glob("*.json")}
    assert found, f"no golden files in {folder}"
    return dict(sorted(found.items()))


def raw(events: list[dict[str, Any]], end: str = "\n") -> bytes:
    """Return events as they come over the wire; `end` ends a line."""
    frames = [
        f"event: {event['type']}{end}data: {json.dumps(event, ensure_ascii=False)}{end}{end}"
        for event in events
    ]
    return "".join(frames).encode()


def read_through(value: Any) -> None:
    """Read all of it: the types of pydantic validate a list only while it is read."""
    if isinstance(value, dict):
        for each in value.values():
            read_through(each)
    elif not isinstance(value, str | bytes | int | float | None):
        for each in value:
            read_through(each)
