"""proxy/cli/demo_session.py in this process: what it hands over, and how it fails."""

import os
from pathlib import Path

import click
import pytest

from proxy.cli import demo_session
from proxy.cli.client import session
from proxy.cli.demo import _two_chats
from proxy.tools.fake_upstream import FakeUpstream
from tests.support import smoke

#: Starts servers.


KEY = "sk-upstream-0123456789abcdef"


def test_nothing_of_the_callers_settings_reaches_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PROXY_URL", "OPENAI_API_URL", "REDIS_URL", "LOG_FILE", "GUNICORN_CMD_ARGS"):
        monkeypatch.setenv(name, "x")
    environ = demo_session._environment(tmp_path, demo_session.Upstream("http://u:1", KEY))
    assert not {"PROXY_URL", "OPENAI_API_URL", "REDIS_URL", "LOG_FILE", "GUNICORN_CMD_ARGS"} & (
        environ.keys()
    )
    assert environ["UPSTREAM_BASE_URL"] == "http://u:1"
    assert environ["PATH"] == os.environ["PATH"]
    assert KEY not in environ.values()


def test_the_demos_chats(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeUpstream(KEY, pace=0) as upstream:
        events = demo_session.take(demo_session.Upstream(upstream.base_url, KEY), _two_chats)
    assert [event["outcome"] for event in events] == ["completed", "completed"]
    assert capsys.readouterr().out.count("This response was made up") == 2


def test_a_wrong_upstream_key_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeUpstream(KEY, pace=0) as upstream:
        wrong = demo_session.Upstream(upstream.base_url, "sk-another-0123456789abcdef")
        with pytest.raises(click.ClickException, match="Incorrect API key"):
            demo_session.take(wrong, _two_chats)
    assert "log of the server" in capsys.readouterr().err


def test_an_event_that_does_not_come_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_session, "_EVENTS_TIMEOUT", 0.2)
    with (
        FakeUpstream(KEY, pace=0) as upstream,
        pytest.raises(click.ClickException, match="0 usage"),
    ):
        demo_session.take(
            demo_session.Upstream(upstream.base_url, KEY), lambda base_url, access_token: 1
        )


def test_a_request_that_was_refused_is_a_failure() -> None:
    def refused(base_url: str, access_token: str) -> int:
        with session(base_url, "sk-nobody") as client:
            assert client.get(f"{base_url}/v1/models", timeout=5).status_code == 401
        return 1

    with (
        FakeUpstream(KEY, pace=0) as upstream,
        pytest.raises(click.ClickException, match="rejected"),
    ):
        demo_session.take(demo_session.Upstream(upstream.base_url, KEY), refused)


def test_a_chat_without_a_response() -> None:
    with pytest.raises(click.ClickException, match="the chat failed"):
        _two_chats("http://127.0.0.1:1", "sk-x")


def test_smoke_without_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert smoke.main() == 0
    assert "SKIPPED" in capsys.readouterr().out


def test_smoke_against_the_stand_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeUpstream(KEY, pace=0) as upstream:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("UPSTREAM_BASE_URL", upstream.base_url)
        assert smoke.main() == 0
        assert "smoke: passed." in capsys.readouterr().out
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-0123456789abcdef")
        assert smoke.main() == 1
        assert "smoke: FAILED" in capsys.readouterr().err


def test_smoke_when_the_tour_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise click.ClickException("no")

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(smoke, "take", fail)
    assert smoke.main() == 1
    assert "no" in capsys.readouterr().err
