"""What the client gets when no target of a route has served its request.

1. The response of the first target whose failure is the client's to see, byte for byte: any but one
   of a key. A 429 says the shortest wait of all keys.
2. All keys were turned away, or there is none: 502 ``upstream_auth_failed``.
3. All keys are cooling after a 429: 429 ``rate_limit_exceeded`` with the shortest wait.
4. Otherwise, breakers among it: 503 ``upstream_unavailable`` with the shortest wait.

SDKs retry by themselves, so the proxy's attempts multiply theirs. After a chain of attempts the
client is told not to (``x-should-retry: false``), unless a wait of at most a minute is named.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy.core.errors import ClientError, ProxyError, UpstreamError
from proxy.providers.base import PreparedCall
from proxy.routing.held_response import Headers, Response
from proxy.routing.key_pool import KeyWait
from proxy.routing.retry import Failure
from proxy.routing.router import RouteTarget

#: Failures of a key. They are about the company's account, so the client does not see them.
_OF_KEYS: Final = frozenset(
    {
        Failure.AUTH,
        Failure.FORBIDDEN,
        Failure.PAYMENT,
        Failure.STREAM_AUTH,
        Failure.STREAM_FORBIDDEN,
        Failure.STREAM_PAYMENT,
    }
)
_MAX_RETRIED_WAIT: Final = 60.0
_NO_KEY: Final = "The provider of this model has no active key for it."


@dataclass(slots=True)
class Rejection:
    """One attempt that did not serve the request: with a response, or an error of the transport."""

    failure: Failure
    target: RouteTarget
    response: Response | None
    error: UpstreamError | None
    call: PreparedCall
    #: Seconds, as the upstream asked for.
    retry_after: float | None = None
    #: Reports that no client gets the response, although it may be billed. None: it is not billed.
    superseded: Callable[[], None] | None = None
    #: Whether the event of the client's request says all that is known of the attempt, if the
    #: client gets its response or error.
    metered_by_client: bool = True


class Exhausted:
    """Collects what came of the attempts of one request."""

    def __init__(self, *, own_key_only: bool) -> None:
        """`own_key_only`: the project's own key is the only one, so its failures are shown."""
        self._own_key_only = own_key_only
        self._shown: Rejection | None = None
        self._turned_away = False
        self._has_no_key = False
        self._unsupported: ClientError | None = None
        # Seconds until a key, or a target, is back; by the reason.
        self._rate_waits: list[float] = []
        self._other_waits: list[float] = []

    def add(self, rejection: Rejection) -> None:
        """Keep the rejection, or close its response."""
        if rejection.failure in _OF_KEYS and not self._own_key_only:
            self._turned_away = True
            _drop(rejection)
            return
        # Of one target, the last failure counts.
        if self._shown is None or self._shown.target is rejection.target:
            if self._shown is not None:
                _drop(self._shown)
            self._shown = rejection
        else:
            _drop(rejection)

    def unsupported(self, error: ClientError) -> None:
        """A target does not have the endpoint."""
        self._unsupported = self._unsupported or error

    def waits(self, seconds: float, *, rate: bool) -> None:
        """A key or target was left out, and is back in so many seconds; `rate`: after a 429."""
        (self._rate_waits if rate else self._other_waits).append(seconds)

    def note_keys(self, wait: KeyWait | None) -> None:
        """A target could not serve the request: when its first key is back. None: it has none."""
        if wait is None:
            self._has_no_key = True
        elif wait.refused:
            self._turned_away = True
        elif wait.seconds:
            self.waits(wait.seconds, rate=wait.limited)

    def close(self) -> None:
        """The client gets none of the rejections."""
        shown, self._shown = self._shown, None
        if shown is not None:
            _drop(shown)

    def conclude(self, attempts: int) -> Rejection:
        """Return the rejection whose response goes to the client; raise where there is none.

        `attempts` is their number.
        """
        shown = self._shown
        retried = attempts > 1
        if shown is not None and shown.superseded is not None and not shown.metered_by_client:
            shown.superseded()
        if shown is not None and shown.response is not None:
            shown.response.headers = self._headers(shown, retried)
            return shown
        if shown is not None and shown.error is not None:
            if retried:
                shown.error.headers = (*shown.error.headers, ("x-should-retry", "false"))
            if shown.target.provider is not None:
                _hide_host(shown.error, shown.target.target.host)
            raise shown.error
        raise self._refusal()

    def _headers(self, shown: Rejection, retried: bool) -> Headers:
        headers = shown.response.headers if shown.response is not None else []
        wait = shown.retry_after
        waits = [*self._rate_waits, *self._other_waits]
        if shown.failure is Failure.RATE and waits:
            wait = min(waits)
            headers = [line for line in headers if not line[0].lower().startswith("retry-after")]
            headers = [*headers, ("Retry-After", str(math.ceil(wait)))]
        if retried and (wait is None or wait > _MAX_RETRIED_WAIT):
            headers = [line for line in headers if line[0].lower() != "x-should-retry"]
            headers = [*headers, ("x-should-retry", "false")]
        return headers

    def _refusal(self) -> ProxyError:
        rate, other = self._rate_waits, self._other_waits
        if not (rate or other):
            if self._unsupported is not None and not (self._turned_away or self._has_no_key):
                return self._unsupported
            return ProxyError(
                "" if self._turned_away else _NO_KEY,
                code="upstream_auth_failed",
                headers=[("x-should-retry", "false")],
            )
        wait = max(1, math.ceil(min([*rate, *other])))
        never = [("x-should-retry", "false")] if wait > _MAX_RETRIED_WAIT else []
        if other or self._turned_away or self._has_no_key:
            return ProxyError(code="upstream_unavailable", retry_after=wait, headers=never)
        return ProxyError(
            "All keys of this model's providers are at their rate limit.",
            code="rate_limit_exceeded",
            retry_after=wait,
            headers=never,
        )


def _drop(rejection: Rejection) -> None:
    if rejection.response is not None:
        rejection.response.close()
    if rejection.superseded is not None:
        rejection.superseded()


def _hide_host(error: UpstreamError, host: str) -> None:
    """Leave the address of a shared provider out of an error that its certificate has caused."""
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    text = str(error).replace(name.strip("[]"), "the provider")
    if text != str(error):
        error.args = (text, *error.args[1:])
