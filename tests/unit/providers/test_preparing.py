"""What a parameter's value is after a mapping's edits."""

from typing import Any

import pytest

from proxy.providers.body import scan
from proxy.providers.preparing import effective
from tests.support.provider_dialects import target


@pytest.mark.parametrize(
    ("body", "edits", "value"),
    [
        (b'{"n":1}', {}, 1),
        (b"{}", {}, None),
        (b"{}", {"n": 2}, 2),
        (b'{"n":1}', {"n": 2}, 1),
        (b'{"n":1}', {"override": {"n": 3}}, 3),
        (b'{"n":1}', {"drop": ["n"]}, None),
        (b'{"n":1}', {"drop": ["n"], "override": {"n": 3}}, 3),
    ],
)
def test_effective(body: bytes, edits: dict[str, Any], value: object) -> None:
    scanned = scan(body, "application/json")
    assert scanned is not None
    assert effective(scanned, target("custom", edits=edits), "n") == value
