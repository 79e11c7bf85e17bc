"""Hashes of links; chains in databases are in ``tests/contract/test_audit.py``."""

from typing import Any

import pytest

from proxy.store.audit_chain import link_hash

ROW: list[Any] = [1, "id", 1_779_235_380_123_900, "token.mint", "cli", "success", None, "t"]
ROW += ["", "r", '{"ä":1}']


def test_the_hash_of_a_known_row() -> None:
    """A change here would break every chain. Made with sha256sum, by the documented format."""
    assert link_hash("", ROW) == "ef33fe149156a70a18467034f9f1427b28a200aab4e0f8bf948dfa506b8b3bdf"


@pytest.mark.parametrize(
    ("place", "value"), [(6, ""), (7, None), (8, "r"), (4, "cl"), (0, 11), (5, "successt")]
)
def test_every_value_changes_the_hash(place: int, value: Any) -> None:
    other = list(ROW)
    other[place] = value
    assert link_hash("", other) != link_hash("", ROW)


def test_moving_text_between_columns_changes_the_hash() -> None:
    moved = [*ROW[:3], "token.mi", "ntcli", *ROW[5:]]
    assert link_hash("", moved) != link_hash("", ROW)
    assert link_hash("a", ROW) != link_hash("", ROW)
