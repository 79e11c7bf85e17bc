"""The first line of an export."""

import json
from typing import Any

import pytest

from proxy.store.export_format import Header, TransferError

HEADER = Header(schema=2, key_ids=("01234567", "89abcdef"), projects=3, tokens=4)


def test_a_header_survives_writing_and_reading() -> None:
    assert Header.from_content(json.loads(HEADER.to_line())) == HEADER


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "another"}, "no export"),
        ({"version": 2}, "does not know"),
        ({"version": None}, "does not know"),
        ({"schema": "2"}, "damaged"),
        ({"projects": True}, "damaged"),
        ({"tokens": -1}, "damaged"),
        ({"key_ids": None}, "damaged"),
        ({"key_ids": ["sk-secret"]}, "damaged"),
        ({"more": 1}, "damaged"),
    ],
)
def test_invalid_headers_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TransferError, match=f"line 1: .*{said}"):
        Header.from_content(json.loads(HEADER.to_line()) | changes)
