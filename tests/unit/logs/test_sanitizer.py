"""Secrets in what a client wrote: paths, known values, and a table that does not grow."""

from collections.abc import Iterator

import pytest

from proxy.logs import sanitizer
from proxy.logs.sanitizer import PATHS, Sanitizer


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    sanitizer.set_secrets(["a-management-token"])
    yield
    sanitizer.set_secrets(())


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/files/a%2Fb%20c", "/v1/files/a%2Fb%20c"),
        ("/v1/sk-abcdefghijkl/x", "/v1/[secret]/x"),
        ("/v1/sk%2Dabcdefghijkl/x", "/v1/[secret]/x"),
        ("/v1/%73k-abcdefghijkl/a%20b", "/v1/[secret]/a%20b"),
        ("/v1/Bearer%20abcdefghijkl", "/v1/[secret]"),
        ("/v1/a-management-token", "/v1/[secret]"),
        ("/v1/a%2Dmanagement%2Dtoken", "/v1/[secret]"),
        ("/v1/caf%E9", "/v1/caf%E9"),
        ("/v1/%", "/v1/%"),
    ],
)
def test_paths(path: str, clean: str) -> None:
    assert PATHS[path] == clean
    assert PATHS[path] == clean  # as remembered


def test_what_is_learned_holds_for_what_was_seen_before() -> None:
    assert PATHS["/v1/another-secret"] == "/v1/another-secret"
    sanitizer.set_secrets(["another-secret"])
    assert PATHS["/v1/another-secret"] == "/v1/[secret]"
    assert sanitizer.clean("my another-secret") == "my [secret]"


def test_the_table_of_paths_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitizer, "_MAX_PATHS", 10)
    for number in range(100):
        assert PATHS[f"/v1/{number}"] == f"/v1/{number}"
        assert len(PATHS) <= 10
    PATHS.clear()
    long = "/v1/" + "x" * 8000
    assert PATHS[long] == long
    assert not PATHS


def test_without_known_values() -> None:
    assert Sanitizer().clean_path("/v1/sk-abcdefghijkl") == "/v1/[secret]"
