"""What a failed attempt means: whether another key, the same target or the next one is tried.

:data:`RULES` is the table, one row per kind of failure. The functions below find the kind from a
response, an error event of a stream, or an error of the transport. Nothing here waits or reads a
clock.

Only statuses and codes decide, never words in a message: a prompt can put words into a message.
Gemini's bad key is the one exception, because it has no status of its own.
"""

import email.utils
import re
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from datetime import UTC
from enum import Enum, StrEnum, auto
from typing import Any, Final

import orjson

from proxy.core.errors import ConnectFailed, UpstreamError, UpstreamTimeout
from proxy.providers.base import HeaderList
from proxy.usage.decompress import ENCODINGS, Inflater

#: A `retry-after` up to this many seconds is waited for at the same target. Longer ones are not.
MAX_WAIT_SECONDS: Final = 2.0
#: A longer `retry-after` counts as this one, so that whatever rests comes back within the hour.
MAX_RETRY_AFTER_SECONDS: Final = 3600.0
_MIN_PAUSE: Final = 0.1
_MAX_PAUSE: Final = 0.3
_FIRST_BACKOFF: Final = 0.25
_MAX_BACKOFF: Final = 4.0
#: Error bodies are short. A longer one is judged by its status alone.
_MAX_BODY_BYTES: Final = 64 * 1024
_SECONDS: Final = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{0,18})?", re.ASCII)
_COUNT: Final = re.compile(r"[0-9]{1,18}", re.ASCII)


class Failure(StrEnum):
    """Why an attempt failed. The values are the `reason` in events and metrics."""

    #: No connection, so nothing was sent.
    CONNECT = auto()
    #: 401: the key is not valid.
    AUTH = auto()
    #: 403: the key may not do this.
    FORBIDDEN = auto()
    #: 402, or a 429 that says that the account has no quota left.
    PAYMENT = auto()
    #: 429.
    RATE = auto()
    #: 5xx but 504.
    SERVER = auto()
    #: A 503 of a server that loads a model: it is not ill.
    BUSY = auto()
    #: 504, or silence before the head or before the first output.
    TIMEOUT = auto()
    #: The connection broke after the request was written and before a head came.
    RESET = auto()
    #: An error event before the first output: of the server, or of a kind that is not known.
    STREAM_ERROR = auto()
    STREAM_TIMEOUT = auto()
    STREAM_RATE = auto()
    STREAM_AUTH = auto()
    STREAM_FORBIDDEN = auto()
    STREAM_PAYMENT = auto()
    #: The response ended or broke after its head and before the first output.
    STREAM_CUT = auto()
    MODEL_NOT_FOUND = auto()
    #: The prompt is longer than the model takes.
    CONTEXT = auto()
    #: A content filter refused the prompt.
    CONTENT = auto()
    #: Every other 4xx: the request is wrong, and would be elsewhere.
    CLIENT = auto()
    #: Anything after the first byte of output reached the client.
    AFTER_OUTPUT = auto()
    #: The client left, a deadline or a check of the proxy ended the attempt.
    ABANDONED = auto()


class Again(Enum):
    """Whether and when the same target is tried again, within its `max_retries`."""

    NEVER = auto()
    #: After 100 to 300 ms.
    PAUSE = auto()
    #: After a backoff, or after a `retry-after` that is short enough.
    BACKOFF = auto()
    #: Only after a `retry-after` that is short enough.
    RETRY_AFTER = auto()


class Against(Enum):
    """What a failure counts against."""

    NOBODY = auto()
    #: The circuit breaker of provider and model.
    TARGET = auto()
    KEY = auto()
    #: The key, for this model.
    KEY_MODEL = auto()


#: Values of `Rule.next_target` beside the causes of `fallback_on`.
ALWAYS: Final = "always"
NEVER: Final = "never"


@dataclass(frozen=True, slots=True)
class Rule:
    """What follows from one kind of failure. Order: another key, the same target, the next one."""

    #: Whether another key of the target is tried at once.
    other_key: bool
    again: Again
    #: The cause in `fallback_on` that lets the next target be tried, or ALWAYS, or NEVER.
    next_target: str
    against: Against
    #: The status whose cooldown the key gets, see :mod:`proxy.routing.key_pool`. None: no cooldown.
    cooldown_status: int | None = None
    #: Whether no byte of the request was sent, so that a body which is not kept can go out again.
    unsent: bool = False

    def falls_back(self, fallback_on: Set[str]) -> bool:
        """Whether the next target is tried, for a request with these causes in `fallback_on`."""
        return self.next_target == ALWAYS or self.next_target in fallback_on

    def pause(
        self, retries: int, retry_after: float | None, random: Callable[[], float]
    ) -> float | None:
        """Return the seconds until the same target is tried again. None: it is not.

        Args:
            retries: How often the target was tried again already.
            retry_after: What the response says, see :func:`retry_after`.
            random: Returns a number from 0 to 1.
        """
        if self.again is Again.NEVER:
            return None
        if self.again is Again.PAUSE:
            return _MIN_PAUSE + (_MAX_PAUSE - _MIN_PAUSE) * random()
        if retry_after is None:
            return backoff(retries, random) if self.again is Again.BACKOFF else None
        if retry_after > MAX_WAIT_SECONDS:
            return None
        return retry_after + backoff(0, random)


_AUTH: Final = Rule(True, Again.NEVER, "auth", Against.KEY, 401)
_FORBIDDEN: Final = Rule(True, Again.NEVER, "auth", Against.KEY_MODEL, 403)
_PAYMENT: Final = Rule(True, Again.NEVER, "auth", Against.KEY, 402)
_RATE: Final = Rule(True, Again.RETRY_AFTER, "rate", Against.KEY_MODEL, 429)
_SERVER: Final = Rule(False, Again.BACKOFF, "server", Against.TARGET)
_TIMEOUT: Final = Rule(False, Again.NEVER, "timeout", Against.TARGET)

RULES: Final[Mapping[Failure, Rule]] = {
    Failure.CONNECT: Rule(False, Again.PAUSE, "connect", Against.TARGET, unsent=True),
    Failure.AUTH: _AUTH,
    Failure.FORBIDDEN: _FORBIDDEN,
    Failure.PAYMENT: _PAYMENT,
    Failure.RATE: _RATE,
    Failure.SERVER: _SERVER,
    Failure.BUSY: replace(_SERVER, against=Against.NOBODY),
    # The upstream may have worked, and billed, so the operator chooses.
    Failure.TIMEOUT: _TIMEOUT,
    Failure.RESET: Rule(False, Again.NEVER, "reset", Against.TARGET),
    Failure.STREAM_ERROR: replace(_SERVER, next_target="stream_error"),
    Failure.STREAM_TIMEOUT: replace(_TIMEOUT, next_target="stream_error"),
    Failure.STREAM_RATE: replace(_RATE, next_target="stream_error"),
    Failure.STREAM_AUTH: replace(_AUTH, next_target="stream_error"),
    Failure.STREAM_FORBIDDEN: replace(_FORBIDDEN, next_target="stream_error"),
    Failure.STREAM_PAYMENT: replace(_PAYMENT, next_target="stream_error"),
    # As for a reset: it is unknown whether it was billed.
    Failure.STREAM_CUT: Rule(False, Again.NEVER, "reset", Against.TARGET),
    Failure.MODEL_NOT_FOUND: Rule(False, Again.NEVER, ALWAYS, Against.NOBODY),
    Failure.CONTEXT: Rule(False, Again.NEVER, "context", Against.NOBODY),
    Failure.CONTENT: Rule(False, Again.NEVER, "content", Against.NOBODY),
    Failure.CLIENT: Rule(False, Again.NEVER, NEVER, Against.NOBODY),
    Failure.AFTER_OUTPUT: Rule(False, Again.NEVER, NEVER, Against.TARGET),
    Failure.ABANDONED: Rule(False, Again.NEVER, NEVER, Against.NOBODY),
}

_BY_STATUS: Final[Mapping[int, Failure]] = {
    401: Failure.AUTH,
    402: Failure.PAYMENT,
    403: Failure.FORBIDDEN,
    429: Failure.RATE,
    501: Failure.CLIENT,
    504: Failure.TIMEOUT,
    505: Failure.CLIENT,
    524: Failure.TIMEOUT,  # Cloudflare's 504
}

#: `error.code` of a 4xx that another model might take.
_BY_CODE: Final[Mapping[str, Failure]] = {
    "context_length_exceeded": Failure.CONTEXT,
    "content_filter": Failure.CONTENT,
    "content_policy_violation": Failure.CONTENT,
}
_QUOTA_CODES: Final = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
)
#: OpenAI's and Azure's codes of a model that does not exist.
_MODEL_CODES: Final = frozenset({"model_not_found", "DeploymentNotFound"})
#: Types of providers whose 404 has no code: Anthropic, Ollama, Gemini. Their paths are the
#: proxy's own, so what is missing is the model.
_MODEL_TYPES: Final[Mapping[str, str]] = {
    "anthropic": "not_found_error",
    "ollama": "not_found_error",
    "gemini": "NOT_FOUND",
}

#: `type`, `code` and `status` in error events. There is no HTTP status to go by.
_BY_WORD: Final[Mapping[str, Failure]] = {
    **_BY_CODE,
    **dict.fromkeys(_QUOTA_CODES, Failure.STREAM_PAYMENT),
    **dict.fromkeys(_MODEL_CODES, Failure.MODEL_NOT_FOUND),
    "authentication_error": Failure.STREAM_AUTH,
    "invalid_api_key": Failure.STREAM_AUTH,
    "UNAUTHENTICATED": Failure.STREAM_AUTH,
    "billing_error": Failure.STREAM_PAYMENT,
    "permission_error": Failure.STREAM_FORBIDDEN,
    "PERMISSION_DENIED": Failure.STREAM_FORBIDDEN,
    "rate_limit_error": Failure.STREAM_RATE,
    "rate_limit_exceeded": Failure.STREAM_RATE,
    "RESOURCE_EXHAUSTED": Failure.STREAM_RATE,
    "timeout_error": Failure.STREAM_TIMEOUT,
    "DEADLINE_EXCEEDED": Failure.STREAM_TIMEOUT,
    "not_found_error": Failure.MODEL_NOT_FOUND,
    "NOT_FOUND": Failure.MODEL_NOT_FOUND,
    "invalid_request_error": Failure.CLIENT,
    "invalid_prompt": Failure.CLIENT,
    "request_too_large": Failure.CLIENT,
    "INVALID_ARGUMENT": Failure.CLIENT,
    "FAILED_PRECONDITION": Failure.CLIENT,
}

#: A failure that a response reports by its status, as an event before the first output.
_IN_STREAM: Final[Mapping[Failure, Failure]] = {
    Failure.AUTH: Failure.STREAM_AUTH,
    Failure.FORBIDDEN: Failure.STREAM_FORBIDDEN,
    Failure.PAYMENT: Failure.STREAM_PAYMENT,
    Failure.RATE: Failure.STREAM_RATE,
    Failure.SERVER: Failure.STREAM_ERROR,
    Failure.BUSY: Failure.STREAM_ERROR,
    Failure.TIMEOUT: Failure.STREAM_TIMEOUT,
}


def failure_of_response(
    status: int, headers: HeaderList, body: bytes, provider_type: str = "openai"
) -> Failure | None:
    """Return the failure that a response reports. None: it is none.

    Args:
        status: The upstream's status.
        headers: Read for `content-encoding` alone.
        body: The body as it arrived, or its beginning; still compressed where it came so. It is
            looked at only where the status alone does not decide.
        provider_type: See :data:`proxy.providers.records.PROVIDER_TYPES`.
    """
    if status < 400:
        return None
    if status >= 500:
        if status == 503 and provider_type == "ollama":
            return Failure.BUSY
        return _BY_STATUS.get(status, Failure.SERVER)
    known = _BY_STATUS.get(status)
    if known is not None and status != 429:
        return known
    error = _error_of(_decoded(body, headers))
    words = _words(error)
    if status == 429:
        return Failure.PAYMENT if words & _QUOTA_CODES else Failure.RATE
    if status == 404:
        missing = words & _MODEL_CODES or _MODEL_TYPES.get(provider_type) in words
        return Failure.MODEL_NOT_FOUND if missing else Failure.CLIENT
    if status == 400 and provider_type == "gemini" and _is_bad_gemini_key(error):
        return Failure.AUTH
    code = error.get("code")
    return _BY_CODE.get(code, Failure.CLIENT) if isinstance(code, str) else Failure.CLIENT


def failure_of_event(data: bytes, provider_type: str = "openai") -> Failure:
    """Return the failure that an error event before the first output reports.

    ``data`` is the event's JSON: an object with the member `error`, as of chat and Anthropic, or
    the Responses API's events `error` and `response.failed`.
    """
    error = _error_of(_json(data))
    if provider_type == "gemini" and _is_bad_gemini_key(error):
        return Failure.STREAM_AUTH
    # The code says more than the type does: a `rate_limit_exceeded` may be an
    # `invalid_request_error`.
    for name in ("code", "type", "status"):
        word = error.get(name)
        if isinstance(word, str) and word in _BY_WORD:
            return _BY_WORD[word]
        if isinstance(word, int) and 400 <= word < 600:
            default = Failure.CLIENT if word < 500 else Failure.SERVER
            failure = _BY_STATUS.get(word, default)
            return _IN_STREAM.get(failure, failure)
    return Failure.STREAM_ERROR


def failure_of_error(error: UpstreamError, sent: bool, *, head: bool = False) -> Failure:
    """Return the failure that an error of the transport is.

    Args:
        error: What the transport raised.
        sent: Whether any byte of the request may have reached the upstream.
        head: Whether the head of a response had come, but no output.
    """
    if isinstance(error, ConnectFailed) or not (sent or head):
        return Failure.CONNECT
    if isinstance(error, UpstreamTimeout):
        return Failure.TIMEOUT
    return Failure.STREAM_CUT if head else Failure.RESET


def retry_after(headers: Iterable[tuple[str, str]], now: float) -> float | None:
    """Return the seconds that a response asks its client to wait, from 0 to an hour, or None.

    Reads `retry-after-ms`, Azure's `x-ms-retry-after-ms`, then `retry-after` in seconds or as an
    HTTP date (RFC 9110 section 10.2.3). What cannot be read counts as absent. ``now`` is the Unix
    time.
    """
    found: dict[str, str] = {}
    for name, value in headers:
        found.setdefault(name.lower(), value.strip())
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        if _SECONDS.fullmatch(milliseconds := found.get(name, "")):
            return _bounded(float(milliseconds) / 1000)
    text = found.get("retry-after", "")
    if _SECONDS.fullmatch(text):
        return _bounded(float(text))
    try:
        date = email.utils.parsedate_to_datetime(text)
        # A date in the zone "-0000" is in UTC, and is read as one without a zone.
        return _bounded((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def is_beyond_limit(headers: Iterable[tuple[str, str]]) -> bool:
    """Whether a 429 says that at least half of the limit is left, of requests and of tokens.

    Then it was refused for its own size ("Request too large"), and smaller ones pass. Reads
    OpenAI's `x-ratelimit-limit-…` and `x-ratelimit-remaining-…`; without those of tokens, no.
    """
    found = {name.lower(): value.strip() for name, value in headers}

    def is_free(kind: str) -> bool | None:
        numbers = [found.get(f"x-ratelimit-{part}-{kind}", "") for part in ("limit", "remaining")]
        if not all(_COUNT.fullmatch(number) for number in numbers):
            return None
        limit, remaining = map(int, numbers)
        return remaining > 0 and 2 * remaining >= limit

    return is_free("tokens") is True and is_free("requests") is not False


def backoff(retries: int, random: Callable[[], float]) -> float:
    """Return the seconds to wait, with full jitter: up to 0.25 s, doubling up to 4 s.

    `retries` counts from 0; `random` returns a number from 0 to 1.
    """
    return random() * min(_FIRST_BACKOFF * 2.0 ** min(retries, 10), _MAX_BACKOFF)


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def _decoded(body: bytes, headers: HeaderList) -> Any:
    """Return the decoded JSON of a body, or None."""
    encoding = next(
        (value.strip().lower() for name, value in headers if name.lower() == "content-encoding"), ""
    )
    if encoding in ENCODINGS and len(body) <= _MAX_BODY_BYTES:
        try:
            inflater = Inflater(encoding, max_total=_MAX_BODY_BYTES)
            body = b"".join(inflater.feed(body))
        except ValueError:
            return None
    return _json(body)


def _json(text: bytes) -> Any:
    if len(text) > _MAX_BODY_BYTES:
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _error_of(decoded: Any) -> dict[str, Any]:
    """Return the error object of a decoded body or event; empty when there is none."""
    if isinstance(decoded, list) and decoded:
        decoded = decoded[0]  # Gemini
    if not isinstance(decoded, dict):
        return {}
    for holder in (decoded, decoded.get("response")):
        error = holder.get("error") if isinstance(holder, dict) else None
        if isinstance(error, dict):
            return error
    # The event `error` of the Responses API has its members at the top.
    return {"code": decoded.get("code")} if decoded.get("type") == "error" else {}


def _words(error: dict[str, Any]) -> set[str]:
    found = (error.get(name) for name in ("code", "type", "status"))
    return {word for word in found if isinstance(word, str)}


def _is_bad_gemini_key(error: dict[str, Any]) -> bool:
    """Whether this is Gemini's 400 for a key that is not valid."""
    details = error.get("details")
    if isinstance(details, list) and any(
        isinstance(detail, dict) and detail.get("reason") == "API_KEY_INVALID" for detail in details
    ):
        return True
    message = error.get("message")
    return isinstance(message, str) and message.startswith("API key not valid")
