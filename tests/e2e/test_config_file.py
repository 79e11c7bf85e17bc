"""Providers of a configuration file, on the real server: start, reload, clashes."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from proxy.providers.addresses import is_public
from tests.support.fake_upstream import Upstream
from tests.support.mock_provider import MockProvider
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

KEY = "sk-upstream-key-of-the-file"
FILE = """
providers:
  - name: {name}
    provider_type: openai
    base_url: {url}
    config: {{allow_private: true}}
    keys: [{{name: one, value: env:FILE_KEY}}]
mappings:
  - {{alias_name: smart, provider: {name}, provider_model_name: {model}}}
apis:
  narrow:
    base_url: {url}
    allowed_endpoints: [/v1/models]
    allowed_methods: [GET, POST]
    config: {{allow_private: true}}
    keys: [{{name: one, value: env:FILE_KEY}}]
"""


@pytest.fixture
def provider() -> Iterator[MockProvider]:
    with MockProvider(keys={KEY}) as made:
        yield made


@pytest.fixture
def server(
    tmp_path: Path, provider: MockProvider, session_upstream: Upstream
) -> Iterator[ProxyServer]:
    made = ProxyServer(
        tmp_path / "server",
        session_upstream.url,
        API_CONFIG_PATH=str(tmp_path / "providers.yaml"),
        FILE_KEY=KEY,
    )
    write(tmp_path, provider)
    made.migrate()
    yield made
    assert made.stop() in (0, 2), made.log_text()
    assert KEY not in made.log_text()
    assert "Traceback" not in made.log_text()


def write(folder: Path, provider: MockProvider, name: str = "main", model: str = "one") -> None:
    text = FILE.format(url=provider.base_url, name=name, model=model)
    (folder / "providers.yaml").write_text(text)


def ask(server: ProxyServer, token: str, model: str = "smart") -> requests.Response:
    return requests.post(
        f"{server.url}/v1/chat/completions",
        headers={"Authorization": f"Bearer {token}"},
        json={"model": model, "messages": []},
        timeout=30,
    )


def test_the_file_serves_and_is_read_again_at_sighup(
    server: ProxyServer, provider: MockProvider, tmp_path: Path
) -> None:
    server.start()
    project = server.manage("POST", "/projects", {"name": "p", "providers": ["*"]}).json()
    token = server.mint(project["id"])["token"]
    response = ask(server, token)
    assert (response.status_code, response.headers["x-proxy-model"]) == (200, "one"), response.text
    assert provider.keys_used[-1] == KEY

    refused = ask(server, token, "narrow/one")
    assert refused.json()["error"]["code"] == "endpoint_not_found"

    shown = {each["name"]: each for each in server.manage("GET", "/providers").json()}
    assert {each["source"] for each in shown.values()} == {"file"}
    path = f"/providers/{shown['main']['id']}"
    change = server.manage("PATCH", path, {"is_active": False})
    assert (change.status_code, change.json()["error"]["code"]) == (409, "conflict")
    body = {"name": "main", "provider_type": "openai", "base_url": "https://a.example"}
    assert server.manage("POST", "/providers", body).status_code == 409

    assert server.process is not None
    (tmp_path / "providers.yaml").write_text("providers: 5")
    server.process.send_signal(signal.SIGHUP)
    problem = "settings not reloaded: API_CONFIG_PATH: providers: expected a list"
    wait_until(lambda: problem in server.log_text(), 60)
    assert ask(server, token).status_code == 200

    write(tmp_path, provider, model="two")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: ask(server, token).headers.get("x-proxy-model") == "two", 60)

    # A name that the database has is no reason to stop, but the file is not taken.
    stored = {"name": "stored", "provider_type": "openai", "base_url": "https://a.example"}
    assert server.manage("POST", "/providers", stored).status_code == 201
    write(tmp_path, provider, name="stored")
    server.process.send_signal(signal.SIGHUP)
    clash = "API_CONFIG_PATH: the provider 'stored' is in the file and in the database"
    wait_until(lambda: clash in server.log_text(), 60)
    assert ask(server, token).headers["x-proxy-provider"] == "main"

    # At the start it is one.
    assert server.stop() == 0
    server.spawn()
    assert server.wait() == 2


def _leads_inside(name: str) -> bool:
    """Whether this machine resolves the name to private addresses only."""
    try:
        found = socket.getaddrinfo(name, None)
    except OSError:
        return False
    return not any(is_public(str(each[4][0])) for each in found)


@pytest.mark.skipif(not _leads_inside(socket.gethostname()), reason="needs a name of this machine")
def test_a_name_with_a_private_address_is_refused_at_connect(
    server: ProxyServer, provider: MockProvider, tmp_path: Path
) -> None:
    url = f"http://{socket.gethostname()}:{provider.port}"
    text = FILE.format(url=url, name="main", model="one").replace("allow_private: true", "")
    (tmp_path / "providers.yaml").write_text(text)
    server.start()
    own = {"name": "own", "api_key": KEY, "base_url": url}
    for project in ({"name": "shared", "providers": ["*"]}, own):
        made = server.manage("POST", "/projects", project)
        assert made.status_code == 201, made.text
        response = ask(server, server.mint(made.json()["id"])["token"])
        assert response.status_code == 502, response.text
        assert response.json()["error"]["code"] == "upstream_unreachable"
    shown = {each["name"]: each for each in server.manage("GET", "/providers").json()}
    path = f"/providers/{shown['main']['id']}/test"
    (result,) = server.manage("POST", path).json()["results"]
    assert not result["ok"]
    assert not provider.received


def test_a_bad_file_stops_the_start_with_all_its_problems(
    server: ProxyServer, tmp_path: Path
) -> None:
    text = (tmp_path / "providers.yaml").read_text().replace("env:FILE_KEY", KEY)
    (tmp_path / "providers.yaml").write_text(text)
    server.spawn()
    assert server.wait() == 2
    log = server.log_text()
    assert "API_CONFIG_PATH: providers[0].keys[0].value: expected env:NAME or file:PATH" in log
    assert "API_CONFIG_PATH: apis.narrow.keys[0].value: expected env:NAME" in log
