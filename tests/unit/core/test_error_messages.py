"""proxy/core/errors.py: no answer of ours without a sentence, no type that OpenAI does not use."""

import pytest

from proxy.core.errors import BY_CODE, STATUS_BY_CODE, anthropic_error_type, error_type


def test_every_code_has_a_sentence_and_no_other_has() -> None:
    assert BY_CODE.keys() == STATUS_BY_CODE.keys()
    for text in BY_CODE.values():
        assert text[0].isupper()
        assert text.endswith(".")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (502, "server_error"),
        (504, "server_error"),
    ],
)
def test_error_type(status: int, expected: str) -> None:
    assert error_type(status) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "api_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_anthropics_error_type(status: int, expected: str) -> None:
    assert anthropic_error_type(status) == expected
