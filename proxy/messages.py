"""The wording of our errors: what a client reads when the raiser had nothing more exact to say.

Whoever raises may give a better sentence (it names the field, the limit, the host); this table is
only the fallback, so that no answer of ours ever has an empty ``message``.
"""

from collections.abc import Mapping
from typing import Final

BY_CODE: Final[Mapping[str, str]] = {
    "invalid_request": "The request is not valid.",
    "param_not_allowed": "A parameter of this request is not allowed for this access token.",
    "origin_required": "This access token requires an Origin header.",
    "invalid_token": (
        "Missing or malformed access token: send `Authorization: Bearer sk-…` with a token "
        "minted by this proxy."
    ),
    "token_not_found": "This access token is not known here.",
    "token_inactive": "This access token has been revoked.",
    "token_expired": "This access token has expired.",
    "invalid_management_token": (
        "Missing or wrong management token: send `Authorization: Bearer <MANAGEMENT_TOKEN>`."
    ),
    "project_inactive": "The project of this access token is inactive.",
    "origin_not_allowed": "Requests from this origin are not allowed.",
    "ip_not_allowed": "Requests from this client address are not allowed.",
    "model_not_allowed": "This access token may not use this model.",
    "not_found": "There is nothing here.",
    "endpoint_not_found": "This endpoint does not exist, or is not allowed for this access token.",
    "method_not_allowed": "This method is not allowed here.",
    "request_timeout": "The request took too long to arrive.",
    "conflict": "This conflicts with something that exists already.",
    "request_too_large": "The request body is larger than this proxy accepts.",
    "rate_limit_exceeded": "Too many requests: slow down and try again.",
    "quota_exceeded": "This access token has used up its quota.",
    "internal_error": "The proxy made a mistake. It has been logged.",
    "upstream_unreachable": "The upstream could not be reached.",
    "upstream_broken": "The upstream did not give a valid answer.",
    "store_unavailable": "The proxy's database is not available right now.",
    "upstream_unavailable": "The upstream is not available right now.",
    "overloaded": "The proxy is at its limit of concurrent requests.",
    "draining": "The proxy is shutting down.",
    "upstream_timeout": "The upstream was silent for too long.",
}

#: OpenAI's ``error.type`` by status; the SDKs pick their exception class by status alone.
_TYPE_BY_STATUS: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_type(status: int) -> str:
    """The ``error.type`` that OpenAI uses for an HTTP ``status``."""
    if status >= 500:
        return "server_error"
    return _TYPE_BY_STATUS.get(status, "invalid_request_error")
