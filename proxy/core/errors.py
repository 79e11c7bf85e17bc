"""The errors of the proxy, as exceptions with their status and code.

Exceptions of libraries (drivers, sockets, parsers) are translated into these where the library is
imported, and nowhere else; the original stays as ``__cause__``.

An upstream's *response* with status >= 400 is not an error of the proxy and never becomes one of
these.
"""

from collections.abc import Mapping, Sequence
from typing import Final

BY_CODE: Final[Mapping[str, str]] = {
    "invalid_request": "The request is not valid.",
    "param_not_allowed": "A parameter of this request is not allowed for this access token.",
    "invalid_idempotency_key": (
        "The `Idempotency-Key` is not valid: send one of 1 to 255 visible ASCII characters."
    ),
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
    "model_not_found": "This model does not exist, or this project may not use it.",
    "endpoint_not_supported": "The provider of this model does not have this endpoint.",
    "method_not_allowed": "This method is not allowed here.",
    "request_timeout": "The request took too long to arrive.",
    "conflict": "This conflicts with something that exists already.",
    "idempotency_in_progress": "A request with this `Idempotency-Key` has not ended yet.",
    "request_too_large": "The request body is larger than this proxy accepts.",
    "idempotency_key_reused": (
        "This `Idempotency-Key` was sent with another request before: send a new one."
    ),
    "rate_limit_exceeded": "Too many requests: slow down and try again.",
    "quota_exceeded": "This access token has used up its quota.",
    "internal_error": "The proxy made a mistake. It has been logged.",
    "upstream_unreachable": "The upstream could not be reached.",
    "upstream_broken": "The upstream did not send a valid response.",
    "upstream_auth_failed": "The upstream refused every key that this proxy has for it.",
    "store_unavailable": "The proxy's database is not available right now.",
    "upstream_unavailable": "The upstream is not available right now.",
    "overloaded": "The proxy is at its limit of concurrent requests.",
    "draining": "The proxy is shutting down.",
    "upstream_timeout": "The upstream was silent for too long.",
    "not_cached": "There is no stored response, and `only-if-cached` allows no other.",
}

#: OpenAI's ``error.type`` by status; the SDKs pick their exception class by status alone.
_TYPE_BY_STATUS: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


#: Anthropic's ``error.type`` by status (https://platform.claude.com/docs/en/api/errors).
_ANTHROPIC_TYPE_BY_STATUS: Final[Mapping[int, str]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_type(status: int) -> str:
    """The ``error.type`` that OpenAI uses for an HTTP ``status``."""
    if status >= 500:
        return "server_error"
    return _TYPE_BY_STATUS.get(status, "invalid_request_error")


def anthropic_error_type(status: int) -> str:
    """The ``error.type`` that Anthropic uses for an HTTP ``status``."""
    return _ANTHROPIC_TYPE_BY_STATUS.get(status, "api_error")


#: Every ``code`` a client may see, with its HTTP status. Part of the public API:
#: docs/management-api.md lists the same table.
STATUS_BY_CODE: Final[Mapping[str, int]] = {
    "invalid_request": 400,
    "param_not_allowed": 400,
    "invalid_idempotency_key": 400,
    "origin_required": 400,
    "invalid_token": 401,
    "token_not_found": 401,
    "token_inactive": 401,
    "token_expired": 401,
    "invalid_management_token": 401,
    "project_inactive": 403,
    "origin_not_allowed": 403,
    "ip_not_allowed": 403,
    "model_not_allowed": 403,
    "not_found": 404,
    "endpoint_not_found": 404,
    "model_not_found": 404,
    "endpoint_not_supported": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "conflict": 409,
    "idempotency_in_progress": 409,
    "request_too_large": 413,
    "idempotency_key_reused": 422,
    "rate_limit_exceeded": 429,
    "quota_exceeded": 429,
    "internal_error": 500,
    "upstream_unreachable": 502,
    "upstream_broken": 502,
    "upstream_auth_failed": 502,
    "store_unavailable": 503,
    "upstream_unavailable": 503,
    "overloaded": 503,
    "draining": 503,
    "upstream_timeout": 504,
    "not_cached": 504,
}

#: Codes with which requests in flight are cut: at a stop, or when their access token is no longer
#: valid.
CUT_CODES: Final = frozenset(
    {
        "draining",
        "token_not_found",
        "token_inactive",
        "token_expired",
        "project_inactive",
        "quota_exceeded",
    }
)


class ProxyError(Exception):
    """Base class. ``str(error)`` is the message for the client; empty means the code's default.

    `code` is a key of :data:`STATUS_BY_CODE`; `param` names the offending field, if any;
    `retry_after` is in seconds; `headers` are further response headers.
    """

    code: str = "internal_error"
    retry_after: int | None = None

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if retry_after is not None:
            self.retry_after = retry_after
        self.param = param
        self.headers = tuple(headers)

    @property
    def status(self) -> int:
        return STATUS_BY_CODE[self.code]


class ClientError(ProxyError):
    """The request was refused because of the client (4xx)."""

    code = "invalid_request"


class QuotaExceeded(ClientError):
    """A quota is used up. Waiting does not help, so SDKs that retry a 429 are asked not to."""

    code = "quota_exceeded"

    def __init__(self, message: str = "") -> None:
        super().__init__(message, headers=[("x-should-retry", "false")])


class Overloaded(ProxyError):
    """There is no room for this request now."""

    code = "overloaded"
    retry_after: int | None = 1


class UpstreamError(ProxyError):
    """The upstream could not be reached, or sent no valid response."""

    code = "upstream_broken"


class ConnectFailed(UpstreamError):
    """No connection: name lookup, refused, TLS, connect timeout. Nothing was sent."""

    code = "upstream_unreachable"


class ResponseBroken(UpstreamError):
    """Connected, then no valid response: reset, garbage, cut short."""


class UpstreamTimeout(UpstreamError):
    """The upstream was silent for longer than ``UPSTREAM_READ_TIMEOUT``."""

    code = "upstream_timeout"


class BackendError(ProxyError):
    """A part of the proxy that the request needs is unavailable or broken."""

    code = "store_unavailable"
    retry_after: int | None = 2


class StoreError(BackendError):
    """The database did not respond in time."""


class LimiterError(BackendError):
    """It cannot be known whether a rate limit has permits."""


class SchemaOutdated(StoreError):
    """The database responds, but its tables are of another version (older or newer)."""


class CipherError(BackendError):
    """A stored secret cannot be decrypted: wrong ``ENCRYPTION_KEY``, or a row was tampered with."""

    code = "internal_error"
    retry_after = None


class KeyUnreadable(BackendError):
    """A request needs an upstream key that this server cannot decrypt. A retry does not help before
    an operator has acted, and SDKs are told so."""

    retry_after: int | None = 60

    def __init__(self, message: str = "") -> None:
        super().__init__(message, headers=[("x-should-retry", "false")])


class SettingsError(Exception):
    """The configuration is unusable. ``problems`` names each one; none of them shows a secret."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)
