"""Every way in which this proxy says no, as exceptions that know their status and code.

Foreign exceptions (drivers, sockets, parsers) are translated into these at the edge that
imports the foreign library, and nowhere else; the original stays as ``__cause__``.

The thing to get right: an upstream's *answer* with status >= 400 is not an error of ours and
never becomes one of these.
"""

from collections.abc import Mapping, Sequence
from typing import Final

#: Every ``code`` a client may see, with its HTTP status. Part of the public API:
#: docs/management-api.md lists the same table.
STATUS_BY_CODE: Final[Mapping[str, int]] = {
    "invalid_request": 400,
    "param_not_allowed": 400,
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
    "method_not_allowed": 405,
    "request_timeout": 408,
    "conflict": 409,
    "request_too_large": 413,
    "rate_limit_exceeded": 429,
    "quota_exceeded": 429,
    "internal_error": 500,
    "upstream_unreachable": 502,
    "upstream_broken": 502,
    "store_unavailable": 503,
    "upstream_unavailable": 503,
    "overloaded": 503,
    "draining": 503,
    "upstream_timeout": 504,
}

#: With these we end what is under way already: at a stop, or when its access token may not go on.
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
    """Base of all. ``str(error)`` is the message for the client; empty means the code's usual one.

    ``code`` is a key of :data:`STATUS_BY_CODE`; ``param`` names the offending field, if any;
    ``retry_after`` is in seconds; ``headers`` are further response headers.
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
    """The request was refused for a reason that lies with the client (4xx)."""

    code = "invalid_request"


class QuotaExceeded(ClientError):
    """A quota is used up. No waiting helps, which is told to SDKs that try a 429 again."""

    code = "quota_exceeded"

    def __init__(self, message: str = "") -> None:
        super().__init__(message, headers=[("x-should-retry", "false")])


class Overloaded(ProxyError):
    """There is no room for this request now."""

    code = "overloaded"
    retry_after: int | None = 1


class UpstreamError(ProxyError):
    """The upstream could not be had, or did not give a valid answer."""

    code = "upstream_broken"


class ConnectFailed(UpstreamError):
    """No connection: name lookup, refused, TLS, connect timeout. Nothing was sent."""

    code = "upstream_unreachable"


class ResponseBroken(UpstreamError):
    """Connected, then no valid answer: reset, garbage, cut short."""


class UpstreamTimeout(UpstreamError):
    """Silent for longer than ``UPSTREAM_READ_TIMEOUT``."""

    code = "upstream_timeout"


class BackendError(ProxyError):
    """Something of ours that the request needed is away or broken."""

    code = "store_unavailable"
    retry_after: int | None = 2


class StoreError(BackendError):
    """The database did not answer, or not in time."""


class LimiterError(BackendError):
    """Nobody can tell whether a rate limit still has permits."""


class SchemaOutdated(StoreError):
    """The database answers, but its tables are not those of this version (older, or newer)."""


class CipherError(BackendError):
    """A stored secret cannot be decrypted: wrong ``ENCRYPTION_KEY``, or a row was tampered with."""

    code = "internal_error"
    retry_after = None


class KeyUnreadable(BackendError):
    """A request needs an upstream key that this server cannot decrypt. Trying again does not help
    before an operator has acted, and SDKs are told so."""

    retry_after: int | None = 60

    def __init__(self, message: str = "") -> None:
        super().__init__(message, headers=[("x-should-retry", "false")])


class SettingsError(Exception):
    """The configuration is unusable. ``problems`` names each one; none of them shows a secret."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)
