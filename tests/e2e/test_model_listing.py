"""The list of models of projects with providers, as the official client reads it."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests

from tests.support.all_workers import all_workers
from tests.support.fake_upstream import Upstream
from tests.support.mock_provider import MockProvider
from tests.support.server import ProxyServer
from tests.support.wait import wait_until


class House:
    """`google` is asked for its models, `declared` says them, `dead` cannot be reached."""

    def __init__(self, proxy: ProxyServer, google: MockProvider) -> None:
        self.proxy = proxy
        for name, kind, url, config in (
            ("google", "gemini", google.base_url, {}),
            ("declared", "openai", google.base_url, {"models": ["one", "gemini-small", "x-*"]}),
            ("dead", "openai", "http://127.0.0.1:9/v1", {}),
        ):
            body = {
                "name": name,
                "provider_type": kind,
                "base_url": url,
                "config": {"allow_private": True, **config},
            }
            self.make("providers", body)
            self.make("keys", {"provider": name, "name": "only", "value": f"sk-upstream-{name}"})
        for alias in ("claude-*", "smart"):
            self.make(
                "mappings",
                {"alias_name": alias, "provider": "google", "provider_model_name": "gemini-large"},
            )
        project = self.make("projects", {"name": "listed", "providers": ["google", "declared"]})
        self.project = project["id"]
        self.token = proxy.mint(self.project)["token"]
        wait_until(lambda: all_workers(lambda: self.ids(self.token) == LISTED))

    def make(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        response = self.proxy.manage("POST", f"/{kind}", body)
        assert response.status_code == 201, response.text
        made: dict[str, Any] = response.json()
        return made

    def client(self, token: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.proxy.url}/v1", api_key=token, max_retries=0)

    def ids(self, token: str) -> list[str]:
        """The listed names, on a new connection. Empty while the worker cannot list them."""
        with self.client(token) as client:
            try:
                return [model.id for model in client.models.list()]
            except openai.OpenAIError:
                return []

    def get(self, path: str, method: str = "GET") -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return requests.request(method, self.proxy.url + path, headers=headers, timeout=30)


LISTED = [
    "smart",
    "declared/one",
    "one",
    "declared/gemini-small",
    "google/gemini-small",
    "google/gemini-large",
    "gemini-large",
]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("listing")
    proxy = ProxyServer(folder, session_upstream.url, ALLOW_PRIVATE_UPSTREAMS="on").start()
    with MockProvider("gemini") as google:
        yield House(proxy, google)
        assert proxy.stop() == 0, proxy.log_text()
        log = proxy.log_text()
        assert "Traceback" not in log, log
        assert "sk-upstream-" not in log


def test_the_official_client_lists_and_retrieves(house: House) -> None:
    with house.client(house.token) as client:
        models = {model.id: model for model in client.models.list()}
        assert list(models) == LISTED
        assert (models["smart"].owned_by, models["smart"].created) == ("google", 0)
        assert (models["gemini-large"].owned_by, models["gemini-large"].created) == ("google", 1)
        for name in LISTED:
            assert client.models.retrieve(name) == models[name]
        assert client.models.retrieve("claude-next").owned_by == "google"
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("dead/anything")
        assert caught.value.code == "model_not_found"


def test_every_listed_model_is_served(house: House) -> None:
    with house.client(house.token) as client:
        for name in LISTED:
            if name == "one" or name.startswith("declared/"):
                continue  # that provider only says what it has
            response = client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": "Hi"}]
            )
            assert response.choices[0].message.content == "One two three.", name


def test_only_what_the_token_may_use(house: House) -> None:
    token = house.proxy.mint(house.project, allowed_models=["google/*", "smart"])["token"]
    assert house.ids(token) == ["smart", "google/gemini-small", "google/gemini-large"]
    with house.client(token) as client, pytest.raises(openai.PermissionDeniedError) as caught:
        client.models.retrieve("one")
    assert caught.value.code == "model_not_allowed"


def test_it_is_the_proxy_s_own_response(house: House) -> None:
    response = house.get("/v1/models")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-proxy-request-id"]
    assert "x-proxy-provider" not in response.headers
    assert "x-proxy-attempts" not in response.headers
    head = house.get("/v1/models", "HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == response.headers["content-length"]


def test_another_spelling_does_not_reach_an_upstream(house: House) -> None:
    for path in ("/v1//models", "/v1/models;x"):
        response = house.get(path)
        assert response.status_code == 404, path
        assert response.json()["error"]["code"] == "endpoint_not_found"


def test_who_fails_is_noted_in_the_health(house: House) -> None:
    def errors() -> dict[str, str | None]:
        providers = house.proxy.manage("GET", "/health").json()["providers"]
        return {each["name"]: each["models_error"] for each in providers}

    wait_until(lambda: errors()["dead"] is not None)
    found = errors()
    assert (found["google"], found["declared"]) == (None, None)


def test_a_project_with_an_own_key_lists_its_upstream_too(house: House) -> None:
    with MockProvider("openai", keys={"sk-upstream-own"}) as own:
        project = house.make(
            "projects",
            {
                "name": "both",
                "api_key": "sk-upstream-own",
                "base_url": own.base_url,
                "providers": ["google"],
            },
        )
        token = house.proxy.mint(project["id"])["token"]
        assert house.ids(token) == [
            "smart",
            "google/gemini-small",
            "google/gemini-large",
            "openai-small",
            "openai-large",
        ]
