"""A listing reads what its query asks for, and refers to the next page."""

from dataclasses import dataclass

import flask
import pytest

from proxy.core.errors import ClientError
from proxy.web.api import listing

IDS = [f"00000000-0000-0000-0000-00000000000{digit}" for digit in "123"]


@dataclass
class Row:
    id: str


class Store:
    """Three rows."""

    def __init__(self) -> None:
        self.reads: list[tuple[int | None, str | None]] = []

    def read(self, limit: int | None, after: str | None) -> list[Row]:
        self.reads.append((limit, after))
        start = 0 if after is None else IDS.index(after) + 1
        return [Row(each) for each in IDS[start:]][:limit]


def ask(store: Store, **query: str) -> flask.Response:
    return listing.list_reply(query, store.read, lambda row: row.id)


def test_all_rows() -> None:
    store = Store()
    response = ask(store)
    assert (response.status_code, response.json) == (200, IDS)
    assert "Link" not in response.headers
    assert store.reads == [(None, None)]


def test_the_next_page_keeps_the_filters() -> None:
    store = Store()
    response = ask(store, limit="1", a="x&y", after=IDS[0])
    assert response.json == IDS[1:2]
    assert response.headers["Link"] == f'<?limit=1&a=x%26y&after={IDS[1]}>; rel="next"'
    assert store.reads == [(2, IDS[0])]


@pytest.mark.parametrize("limit", ["2", "1000"])
def test_the_last_page_refers_to_no_other(limit: str) -> None:
    response = ask(Store(), limit=limit, after=IDS[0])
    assert response.json == IDS[1:]
    assert "Link" not in response.headers


@pytest.mark.parametrize(
    ("query", "param"),
    [({"limit": "0"}, "limit"), ({"limit": "1001"}, "limit"), ({"after": "x"}, "after")],
)
def test_a_page_that_cannot_be(query: dict[str, str], param: str) -> None:
    store = Store()
    with pytest.raises(ClientError) as caught:
        ask(store, **query)
    assert (caught.value.param, store.reads) == (param, [])
