"""Headers that must come, and headers that may go on."""

import pytest

from proxy.core.errors import ClientError
from proxy.policy.headers import ForwardedHeaders, RequiredHeaders, header_glob, header_name

REQUIRED = RequiredHeaders({"X-Team": ["red", "blue-*"], "X-Any": ["*"]})


def test_required_and_there() -> None:
    REQUIRED.check([("X-TEAM", "red"), ("X-ANY", "")])
    REQUIRED.check([("X-ANY", "1"), ("X-TEAM", "blue-1"), ("X-TEAM", "red"), ("X-OTHER", "")])


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ([], "X-Team"),
        ([("X-TEAM", "Red"), ("X-ANY", "")], "X-Team"),
        ([("X-TEAM", "red"), ("X-TEAM", "green"), ("X-ANY", "")], "X-Team"),
        ([("X-TEAM", "red, red"), ("X-ANY", "")], "X-Team"),
        ([("X-TEAM", "red")], "X-Any"),
        ([("X-TEAM", "red"), ("X_TEAM", "green"), ("X-ANY", "")], "X-Team"),
        ([("X_TEAM", "red"), ("X-ANY", "")], "X-Team"),
    ],
)
def test_required_and_not_there(lines: list[tuple[str, str]], name: str) -> None:
    with pytest.raises(ClientError) as caught:
        REQUIRED.check(lines)
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "invalid_request", name)
    assert f"`{name}`" in str(error)
    assert "blue" not in str(error), "what is expected is not told"


def test_forwarded() -> None:
    names = ForwardedHeaders(["OpenAI-Beta", "x-stainless-*"])
    for name in ("Openai-Beta", "OPENAI-BETA", "X-Stainless-Lang", "Content-Type", "Accept"):
        assert names.allow(name), name
    for name in ("Cookie", "User-Agent", "X-Stainless", "Openai-Beta2", "Content-Language"):
        assert not names.allow(name), name


def test_what_a_websocket_needs_passes() -> None:
    names = ForwardedHeaders([])
    for name in ("Sec-Websocket-Key", "Sec-Websocket-Version", "Connection", "Upgrade"):
        assert names.allow(name), name


@pytest.mark.parametrize("value", ["", "X Y", "X:", "X\r\nY", "ä", "x" * 101])
def test_names(value: str) -> None:
    for read in (header_name, header_glob):
        with pytest.raises(ValueError, match="header name"):
            read(value)


def test_underscores_are_legal() -> None:
    assert header_name("session_id") == header_glob("session_id") == "session_id"
    names = ForwardedHeaders(["session_id"])
    assert names.allow("Session_Id")
    assert not names.allow("Session-Id")


def test_globs_only_where_they_mean_something() -> None:
    assert header_glob("X-*") == "X-*"
    with pytest.raises(ValueError, match="header name"):
        header_name("X-*")
