"""The first line of an export."""

import json
from typing import Any

import pytest

from proxy.store.export_format import Header, TransferError

COUNTS = {"projects": 3, "tokens": 4, "providers": 2, "provider_keys": 1, "mappings": 0}
HEADER = Header(schema=8, key_ids=("01234567", "89abcdef"), counts=COUNTS)


def test_a_header_survives_writing_and_reading() -> None:
    assert Header.from_content(json.loads(HEADER.to_line())) == HEADER


def test_an_older_export_has_no_providers() -> None:
    content = json.loads(HEADER.to_line())
    for name in ("providers", "provider_keys", "mappings"):
        del content[name]
    with pytest.raises(TransferError, match="damaged"):
        Header.from_content(content)
    older = Header.from_content(content | {"schema": 7})
    assert older.counts == COUNTS | {"providers": 0, "provider_keys": 0, "mappings": 0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "another"}, "no export"),
        ({"version": 2}, "does not know"),
        ({"version": None}, "does not know"),
        ({"schema": "2"}, "damaged"),
        ({"projects": True}, "damaged"),
        ({"tokens": -1}, "damaged"),
        ({"tokens": None}, "damaged"),
        ({"mappings": "1"}, "damaged"),
        ({"schema": None}, "damaged"),
        ({"key_ids": None}, "damaged"),
        ({"key_ids": ["sk-secret"]}, "damaged"),
        ({"more": 1}, "damaged"),
    ],
)
def test_invalid_headers_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TransferError, match=f"line 1: .*{said}"):
        Header.from_content(json.loads(HEADER.to_line()) | changes)
