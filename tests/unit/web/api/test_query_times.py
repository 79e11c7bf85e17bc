"""Times in queries."""

from datetime import UTC, datetime

import pytest

from proxy.core.errors import ClientError
from proxy.web.api.fields import query_datetime

MAY = datetime(2026, 5, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    "given",
    [
        "2026-05-20",
        "2026-05-20T00:00:00Z",
        "2026-05-20T02:00:00+02:00",
        "2026-05-20T02:00:00 02:00",
    ],
)
def test_forms(given: str) -> None:
    assert query_datetime({"from": given}, "from") == MAY


def test_nothing_given() -> None:
    assert query_datetime({"to": "x"}, "from") is None


@pytest.mark.parametrize("given", ["", "yesterday", "2026-13-01", "1969-12-31", "9000-01-01"])
def test_what_is_none(given: str) -> None:
    with pytest.raises(ClientError) as caught:
        query_datetime({"from": given}, "from")
    assert caught.value.param == "from"
