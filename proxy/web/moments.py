"""A time in a query: a date, or an RFC 3339 time with its offset.

The thing to get wrong: the + of an offset arrives as a space unless it was escaped.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from proxy.errors import ClientError
from proxy.web import fields

_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9000, 1, 1, tzinfo=UTC)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_SPACE_FOR_PLUS: Final = re.compile(r" (\d\d:\d\d)$", re.ASCII)


def query_moment(query: Mapping[str, str], param: str) -> datetime | None:
    """In UTC, of a date its midnight; None: it was not given. Raises ClientError."""
    if param not in query:
        return None
    given = _SPACE_FOR_PLUS.sub(r"+\1", query[param])
    try:
        found = fields.moment(f"{given}T00:00:00Z" if _DATE.fullmatch(given) else given, param)
    except ClientError as error:
        raise ClientError(
            f"`{param}` must be a date, such as 2026-05-20, or an RFC 3339 time with an offset, "
            "such as 2026-05-20T00:03:00Z.",
            param=param,
        ) from error
    if not _FIRST <= found < _LAST:
        raise ClientError(f"`{param}` must be from {_FIRST.year} to {_LAST.year - 1}.", param=param)
    return found
