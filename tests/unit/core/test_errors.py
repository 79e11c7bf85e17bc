"""proxy/core/errors.py: the codes are public, so their statuses are written down here a second
time."""

import pytest

from proxy.core import errors
from proxy.core.errors import STATUS_BY_CODE, ClientError, ProxyError, SettingsError

#: From the public contract, by hand.
CONTRACT = {
    400: {
        "invalid_request",
        "param_not_allowed",
        "invalid_idempotency_key",
        "origin_required",
    },
    401: {
        "invalid_token",
        "token_not_found",
        "token_inactive",
        "token_expired",
        "invalid_management_token",
    },
    403: {"project_inactive", "origin_not_allowed", "ip_not_allowed", "model_not_allowed"},
    404: {"not_found", "endpoint_not_found", "endpoint_not_supported", "model_not_found"},
    405: {"method_not_allowed"},
    408: {"request_timeout"},
    409: {"conflict", "idempotency_in_progress"},
    413: {"request_too_large"},
    422: {"idempotency_key_reused"},
    429: {"rate_limit_exceeded", "quota_exceeded"},
    500: {"internal_error"},
    502: {"upstream_unreachable", "upstream_broken", "upstream_auth_failed"},
    503: {"store_unavailable", "upstream_unavailable", "overloaded", "draining"},
    504: {"upstream_timeout", "not_cached"},
}


def subclasses(cls: type[ProxyError]) -> list[type[ProxyError]]:
    return [cls, *(found for child in cls.__subclasses__() for found in subclasses(child))]


def test_every_code_has_the_status_of_the_contract() -> None:
    expected = {code: status for status, codes in CONTRACT.items() for code in codes}
    assert expected == STATUS_BY_CODE


@pytest.mark.parametrize(
    "cls", [cls for cls in subclasses(ProxyError) if cls.__module__ == "proxy.core.errors"]
)
def test_every_error_has_a_known_code(cls: type[ProxyError]) -> None:
    assert cls.code in STATUS_BY_CODE
    assert cls().status == STATUS_BY_CODE[cls.code]
    assert str(cls()) == ""


@pytest.mark.parametrize(
    ("cls", "status"),
    [
        (errors.ClientError, 400),
        (errors.UpstreamError, 502),
        (errors.ConnectFailed, 502),
        (errors.ResponseBroken, 502),
        (errors.UpstreamTimeout, 504),
        (errors.StoreError, 503),
        (errors.CipherError, 500),
    ],
)
def test_families(cls: type[ProxyError], status: int) -> None:
    assert cls().status == status


def test_what_a_raiser_says_stays_on_the_instance() -> None:
    error = ClientError(
        "No.",
        code="quota_exceeded",
        param="n",
        retry_after=7,
        headers=[("x-should-retry", "false")],
    )
    assert (str(error), error.status, error.param, error.retry_after) == ("No.", 429, "n", 7)
    assert error.headers == (("x-should-retry", "false"),)
    assert (ClientError().code, ClientError().retry_after) == ("invalid_request", None)


def test_a_backend_that_is_away_is_worth_a_retry_and_a_wrong_key_is_not() -> None:
    assert errors.StoreError().retry_after
    assert errors.CipherError().retry_after is None


def test_settings_error_keeps_each_problem_on_a_line() -> None:
    error = SettingsError(["A: one", "B: two"])
    assert error.problems == ["A: one", "B: two"]
    assert str(error) == "A: one\nB: two"
    assert not isinstance(error, ProxyError)
