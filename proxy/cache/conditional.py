"""Conditional requests, compared with the validators of a stored response (RFC 9110 §13).

The proxy makes no validators of its own: a response that came without any is sent whole.
"""

import re
from collections.abc import Sequence
from typing import Final

from proxy.cache.directives import Lines, http_date, values_of

_CONDITIONAL_METHODS: Final = frozenset({"GET", "HEAD"})
#: RFC 9110 §8.8.3. The group is the opaque tag, which is all that a weak comparison looks at.
_ENTITY_TAG: Final = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_ENTITY_TAGS: Final = re.compile(rf"[\s,]*(?:{_ENTITY_TAG.pattern}[ \t]*(?:,[\s,]*|$))+")
#: Lines that describe a body, which a 304 does not have. It repeats `Content-Location` all the same
#: (RFC 9110 §15.4.5).
_OF_BODY_PREFIX: Final = "content-"
_IN_304: Final = "content-location"


def is_not_modified(method: str, asked: Lines, status: int, stored: Lines) -> bool:
    """Return whether a stored response is to be sent as a 304.

    `asked` are the header lines of the request, `status` and `stored` are those of the stored
    response. `If-None-Match` decides alone where it is there (§13.2.2). Conditions on other methods
    are for the upstream, and on a POST that brings a result they have no meaning.
    """
    if method not in _CONDITIONAL_METHODS or status != 200:
        return False
    tags = values_of(asked, "if-none-match")
    if tags:
        return _matches(tags, stored)
    since = values_of(asked, "if-modified-since")
    modified = values_of(stored, "last-modified")
    if len(since) != 1 or len(modified) != 1:
        return False
    since_time, modified_time = http_date(since[0]), http_date(modified[0])
    return since_time is not None and modified_time is not None and modified_time <= since_time


def not_modified(stored: Lines) -> list[tuple[str, str]]:
    """Return the lines of a stored response that its 304 has, too."""
    return [
        line
        for line in stored
        if not line[0].lower().startswith(_OF_BODY_PREFIX) or line[0].lower() == _IN_304
    ]


def _matches(asked: Sequence[str], stored: Lines) -> bool:
    given = ",".join(asked).strip()
    if given == "*":
        return True
    has = values_of(stored, "etag")
    if len(has) != 1 or not _ENTITY_TAGS.fullmatch(given):
        return False
    tag = _ENTITY_TAG.fullmatch(has[0].strip())
    return tag is not None and tag[1] in _ENTITY_TAG.findall(given)
