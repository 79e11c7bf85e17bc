"""Listings of the management API: all rows, or one page of them.

The query parameters are ``limit``, the rows of a page, and ``after``, the id of the last row of the
page before. The response's ``Link`` header (RFC 8288) refers to the next page, if there is one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlencode

import flask

from proxy.web.api import fields
from proxy.web.replies import json_reply

MAX_PAGE_ROWS: Final = 1000
#: The names of the query parameters of a listing.
PARAMETERS: Final = frozenset({"limit", "after"})


class Row(Protocol):
    """A row of a listing."""

    @property
    def id(self) -> str: ...


_AnyRow = TypeVar("_AnyRow", bound=Row)


def list_reply(
    query: Mapping[str, str],
    read: Callable[[int | None, str | None], Sequence[_AnyRow]],
    as_json: Callable[[_AnyRow], Any],
) -> flask.Response:
    """Returns the rows that `query` asks for, as a JSON array.

    `read` takes the maximum number of rows (None means all) and the id behind which they begin
    (None means the first). Raises ClientError.
    """
    limit = fields.query_integer(query, "limit", MAX_PAGE_ROWS)
    # One row more than the page has shows whether another page follows.
    found = read(limit and limit + 1, fields.query_id(query, "after"))
    more = limit is not None and len(found) > limit
    page = found[:limit]
    return json_reply(
        [as_json(row) for row in page],
        headers=[_next_page(query, page[-1].id)] if more else [],
    )


def _next_page(query: Mapping[str, str], last_id: str) -> tuple[str, str]:
    """Returns the header: a relative reference with the same filters."""
    target = urlencode({**query, "after": last_id})
    return "Link", f'<?{target}>; rel="next"'
