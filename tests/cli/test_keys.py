"""proxy/cli/keys.py: what it makes is what the settings take."""

from proxy import parsers
from proxy.cli.keys import new_encryption_key, new_management_token

from .conftest import Run


def test_generate(run: Run) -> None:
    first, second = run("keys", "generate").output, run("keys", "generate").output
    assert len(parsers.key_of_32_bytes(first.strip())) == 32
    assert first != second


def test_both_are_valid_settings() -> None:
    assert parsers.key_of_32_bytes(new_encryption_key())
    (token,) = parsers.secrets(16, most=2)(new_management_token())
    assert len(token) == 64
