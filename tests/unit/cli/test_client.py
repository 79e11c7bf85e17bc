"""proxy/cli/client.py: where it sends what, and how a refusal reads."""

from pathlib import Path

import click
import pytest
import requests
import responses

from proxy.cli import client
from proxy.cli.client import Api, Refused, bearer
from tests.support.cli_runner import BASE

ERROR = {"error": {"message": "No.", "type": "t", "param": None, "code": "conflict"}}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"PORT": "9"}, "http://127.0.0.1:9"),
        ({"HOST": "0.0.0.0"}, "http://127.0.0.1:8080"),
        ({"HOST": "::"}, "http://[::1]:8080"),
        ({"HOST": "[::1]", "PORT": "9"}, "http://[::1]:9"),
        ({"HOST": "example.com"}, "http://example.com:8080"),
        ({"PROXY_BASE_URL": "https://p/v1/", "PORT": "9"}, "https://p"),
    ],
)
def test_default_base_url(environ: dict[str, str], expected: str) -> None:
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in environ.items()))
    assert client.default_base_url() == expected


@pytest.mark.parametrize("value", ["127.0.0.1:8080", "ftp://h", "http://", ""])
def test_a_base_url_without_scheme_or_host_is_wrong_usage(value: str) -> None:
    with pytest.raises(click.BadParameter):
        client.base_url(value)


def test_of_two_management_tokens_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANAGEMENT_TOKEN", "the-new-one-12345 , the-old-one-12345")
    assert client.management_token() == "the-new-one-12345"


@pytest.mark.parametrize("value", ["", ".", ".."])
def test_no_id_leads_somewhere_else(value: str) -> None:
    with pytest.raises(click.BadParameter):
        client.segment(value)
    assert client.segment("../x?y") == "..%2Fx%3Fy"


@responses.activate
def test_netrc_does_not_replace_the_bearer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password mine\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for base in (BASE, "http://proxy.example"):
        responses.get(f"{base}/manage/x", json={})
        Api(base, "bearer").call("GET", "/manage/x")
        assert responses.calls[-1].request.headers["Authorization"] == "Bearer bearer"


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine() -> None:
    assert not client.session("http://localhost:1", "").trust_env
    assert not client.session("http://[::1]:1", "").trust_env
    assert client.session("http://proxy.example", "").trust_env


@responses.activate
def test_responses() -> None:
    api = Api(BASE)
    responses.get(f"{BASE}/manage/a", json={"a": 1})
    responses.delete(f"{BASE}/manage/b", status=204)
    assert api.call("GET", "/manage/a") == {"a": 1}
    assert api.call("DELETE", "/manage/b") is None
    assert "Authorization" not in responses.calls[0].request.headers


@responses.activate
def test_refusals() -> None:
    api = Api(BASE)
    responses.get(f"{BASE}/a", json=ERROR, status=409)
    responses.get(f"{BASE}/b", body="<html>Bad Gateway", status=502)
    responses.get(f"{BASE}/c", body="<html>")
    responses.get(f"{BASE}/d", status=302, headers={"Location": "http://evil/"})
    responses.get(f"{BASE}/e", body=requests.ConnectionError("refused"))
    expected = {
        "a": "No. (conflict, HTTP 409)",
        "b": "HTTP 502 Bad Gateway: <html>Bad Gateway",
        "c": "the response is not JSON: is this the proxy's address?",
        "d": "HTTP 302 Found: ",
        "e": f"no response from {BASE}: refused",
    }
    for path, message in expected.items():
        with pytest.raises(Refused) as caught:
            api.call("GET", f"/{path}")
        assert caught.value.message == message
        assert caught.value.exit_code == 1


def test_an_address_without_a_server() -> None:
    with pytest.raises(Refused, match="Connection refused"):
        Api("http://127.0.0.1:1").call("GET", "/health")


@responses.activate
def test_a_list_in_pages() -> None:
    first = responses.get(
        f"{BASE}/manage/x",
        json=[1, 2],
        headers={"Link": '<http://inside/manage/x?q=1&after=2>; rel="next"'},
        match=[responses.matchers.query_param_matcher({"q": "1"})],
    )
    second = responses.get(
        f"{BASE}/manage/x",
        json=[3],
        match=[responses.matchers.query_param_matcher({"q": "1", "after": "2"})],
    )
    assert Api(BASE).list("/manage/x", q="1") == [1, 2, 3]
    assert (first.call_count, second.call_count) == (1, 1)


@responses.activate
def test_status_of() -> None:
    responses.get(f"{BASE}/ready", json={"status": "draining"}, status=503)
    responses.get(f"{BASE}/health", body="?")
    with Api(BASE) as api:
        assert api.status_of("/ready") == (503, {"status": "draining"})
        assert api.status_of("/health") == (200, None)


def test_bearers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "sk-from-there")
    assert bearer(None, "--token", "MY_TOKEN") == "sk-from-there"
    assert bearer("sk-here", "--token", "MY_TOKEN") == "sk-here"
    with pytest.raises(click.UsageError, match="--token or set OTHER"):
        bearer(None, "--token", "OTHER")
    with pytest.raises(click.UsageError) as error:
        bearer("sk-a\r\nX: y", "--token", "MY_TOKEN")
    assert "sk-a" not in str(error.value)
