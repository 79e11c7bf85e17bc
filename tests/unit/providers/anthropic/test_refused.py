"""Which errors say that a model does not take a parameter, and how long that is believed."""

import json

import pytest

from proxy.providers.anthropic.refused import (
    BOTH,
    MAX_MODELS,
    RefusedParameters,
    refused_in_chat,
    sent_parameters,
)

SENT = frozenset({"temperature", "top_p", "reasoning_effort", BOTH})


def body(message: object, kind: str = "invalid_request_error") -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("`temperature` is deprecated for this model.", {"temperature"}),
        ("temperature: Extra inputs are not permitted", {"temperature"}),
        ("output_config.effort: this model does not support effort", {"reasoning_effort"}),
        ("This model does not support the effort parameter.", {"reasoning_effort"}),
        (
            "`temperature` and `top_p` cannot both be specified for this model. Use only one.",
            {BOTH},
        ),
        ("`temperature` and `top_k` cannot both be specified for this model.", set()),
        ("temperature: range: 0..1", set()),
        ("`temperature` and `top_p` are not supported together", set()),
        ("top_k: not supported", set()),
        ("messages.0: not supported", set()),
        ("temperature is not supported " + "x" * 1000, set()),
        (None, set()),
    ],
)
def test_what_is_believed(message: object, wanted: set[str]) -> None:
    refused = RefusedParameters(lambda: 0.0)
    assert refused.note_refusal("p", "m", SENT, body(message)) is bool(wanted)
    assert refused.of("p", "m") == wanted
    assert refused.of("p", "other") == refused.of("q", "m") == set()


@pytest.mark.parametrize("text", [b"", b"[]", b'{"error":"temperature not supported"}'])
def test_what_is_no_error_of_its_own(text: bytes) -> None:
    refused = RefusedParameters(lambda: 0.0)
    assert not refused.note_refusal("p", "m", SENT, text)
    wrong = body("temperature not supported", "api_error")
    assert not refused.note_refusal("p", "m", SENT, wrong)


def test_an_hour() -> None:
    now = 0.0
    refused = RefusedParameters(lambda: now)
    refused.note_refusal("p", "m", SENT, body("temperature is not supported"))
    now = 1800.0
    refused.note_refusal("p", "m", SENT, body("top_p is not supported"))
    assert refused.of("p", "m") == {"temperature", "top_p"}
    now = 3601.0
    assert refused.of("p", "m") == {"top_p"}


def test_the_memory_is_bounded() -> None:
    refused = RefusedParameters(lambda: 0.0)
    for index in range(MAX_MODELS + 1):
        refused.note_refusal("p", str(index), SENT, body("temperature is not supported"))
    assert refused.of("p", "0") == set()
    assert refused.of("p", "1") == refused.of("p", str(MAX_MODELS)) == {"temperature"}


def test_what_was_sent() -> None:
    assert sent_parameters({"temperature": 1, "model": "m"}) == {"temperature"}
    assert sent_parameters({"temperature": 1, "top_p": 1}) == {"temperature", "top_p", BOTH}
    assert sent_parameters({"output_config": {"effort": "low"}}) == {"reasoning_effort"}
    assert sent_parameters({"output_config": {"format": {}}}) == set()


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (
            {
                "message": "Unsupported parameter: 'top_p' is not supported with this model.",
                "param": "top_p",
            },
            "top_p",
        ),
        (
            {"message": "Unrecognized request argument supplied: reasoning_effort", "param": None},
            "reasoning_effort",
        ),
        (
            {"message": "Function tools with reasoning_effort are not supported for gpt-5.4."},
            "reasoning_effort",
        ),
        ({"message": "'temperature' must be at most 2", "param": "temperature"}, None),
        ({"message": "temperature and top_p are not supported together"}, None),
        ({"message": "'temperature' is not supported here", "param": "messages"}, None),
        ({"message": "messages: not supported", "param": "messages"}, None),
        ({"message": "temperature is not supported " + "x" * 1000}, None),
        ({"message": None, "param": "temperature"}, None),
    ],
)
def test_what_is_believed_of_a_chat(error: dict[str, object], wanted: str | None) -> None:
    assert refused_in_chat(json.dumps({"error": error}).encode()) == wanted


@pytest.mark.parametrize("text", [b"", b"[]", b'{"error":"temperature not supported"}'])
def test_what_is_no_error_of_a_chat(text: bytes) -> None:
    assert refused_in_chat(text) is None
