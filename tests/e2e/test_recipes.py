"""docs/guides/recipes: every command of a page runs, and what the page promises happens. So it does
with the page's configuration file in place of the commands.

The stand-ins have other addresses than the real services: those are replaced, and nothing else.
"""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.support import canaries
from tests.support.all_workers import all_workers
from tests.support.fake_upstream import Upstream
from tests.support.mock_provider import MockProvider, status
from tests.support.pasted_commands import run_pasted
from tests.support.paths import ROOT
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

RECIPES = ROOT / "docs" / "guides" / "recipes"
#: Provider → its dialect, the address on the page, and the keys that the environment has.
SERVICES = {
    "openai": (
        "openai",
        "https://api.openai.com/v1",
        ("OPENAI_KEY", "OPENAI_KEY_A", "OPENAI_KEY_B"),
    ),
    "azure": ("azure", "https://my-resource.openai.azure.com", ("AZURE_KEY",)),
    "home": ("ollama", "http://192.168.1.20:11434", ()),
    "openrouter": ("openai", "https://openrouter.ai/api/v1", ("OPENROUTER_KEY",)),
}
KEYS = {
    name: f"sk-recipe-{name.lower().replace('_', '-')}"
    for _, _, names in SERVICES.values()
    for name in names
}


def run(
    script: str, proxy: ProxyServer, upstreams: dict[str, MockProvider], environ: dict[str, str]
) -> str:
    """Run a block in a shell; it must succeed, and print no key."""
    done = run_pasted(script, proxy, upstreams, environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not any(key in done.stdout + done.stderr for key in KEYS.values())
    return done.stdout


class Recipe:
    """One page that has been followed, up to the access token, on a server of its own."""

    def __init__(
        self, page: str, folder: Path, upstream: Upstream, stack: ExitStack, *, from_file: bool
    ) -> None:
        self.folder = folder
        text = (RECIPES / page).read_text()
        self.upstreams: dict[str, MockProvider] = {}
        for name, (dialect, address, keys) in SERVICES.items():
            if address in text:
                accepted = {KEYS[key] for key in keys} or None
                self.upstreams[name] = stack.enter_context(MockProvider(dialect, accepted))
        setup, self.ask = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        settings = {"REVOCATION_INTERVAL": "0.2"}
        if from_file:
            (file,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
            (folder / "providers.yaml").write_text(self.with_stand_ins(file))
            settings |= {"API_CONFIG_PATH": "providers.yaml", **KEYS}
            setup = setup[setup.index("PROJECT=") :]
        self.proxy = ProxyServer(folder, upstream.url, **settings).start()
        stack.callback(self.proxy.stop)
        self.token = ""
        self.run(setup + 'printf %s "$PROXY_TOKEN" > token\n')
        self.token = (folder / "token").read_text()
        canaries.register(self.token)

    def with_stand_ins(self, file: str) -> str:
        for name, upstream in self.upstreams.items():
            url = f"base_url: {upstream.base_url}\n"
            if name != "home":
                url += "    config: {allow_private: true}\n"
            file = file.replace(f"base_url: {SERVICES[name][1]}\n", url)
        return file

    def run(self, script: str) -> str:
        environ = {**KEYS, "PROXY_TOKEN": self.token}
        return run(script, self.proxy, self.upstreams, environ)

    def send(self, **members: object) -> requests.Response:
        """Send the page's own request, with these members in place of its own."""
        body = re.search(r"-d '(.*)'", self.ask)
        assert body is not None
        return requests.post(
            f"{self.proxy.url}/v1/chat/completions",
            headers={"Authorization": f"Bearer {self.token}"},
            json={**json.loads(body.group(1)), **members},
            timeout=30,
        )

    def served_by(self) -> str | None:
        return self.send().headers.get("X-Proxy-Provider")

    def follow(self) -> str:
        """Wait until every worker knows the providers, then paste the page's request."""
        wait_until(lambda: all_workers(lambda: bool(self.served_by())))
        return self.run(self.ask)


def code_of(response: requests.Response) -> str:
    code: str = response.json()["error"]["code"]
    return code


@pytest.fixture(params=[False, True], ids=["commands", "file"])
def from_file(request: pytest.FixtureRequest) -> bool:
    chosen: bool = request.param
    return chosen


@pytest.fixture
def recipe(
    request: pytest.FixtureRequest, tmp_path: Path, session_upstream: Upstream, from_file: bool
) -> Iterator[Recipe]:
    with ExitStack() as stack:
        yield Recipe(request.param, tmp_path, session_upstream, stack, from_file=from_file)


def follows(page: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("recipe", [page], indirect=True, ids=[page])


@follows("two-openai-accounts.md")
def test_two_openai_accounts(recipe: Recipe) -> None:
    openai = recipe.upstreams["openai"]
    first, second = KEYS["OPENAI_KEY_A"], KEYS["OPENAI_KEY_B"]
    assert "X-Proxy-Provider: openai" in recipe.follow()
    assert {first, second} <= set(openai.keys_used)
    openai.for_key(first, status(401))
    assert {recipe.served_by() for _ in range(10)} == {"openai"}
    openai.for_key(second, status(401))
    refused = recipe.send()
    assert (refused.status_code, code_of(refused)) == (502, "upstream_auth_failed")


@follows("azure-then-openai.md")
def test_azure_then_openai(recipe: Recipe) -> None:
    assert "X-Proxy-Provider: azure" in recipe.follow()
    azure = recipe.upstreams["azure"]
    azure.always(status(400, error_code="content_filter"))
    assert recipe.served_by() == "azure"
    azure.always(status(503))
    assert recipe.served_by() == "openai"
    azure.kill()
    assert recipe.served_by() == "openai"


@follows("ollama-then-openai.md")
def test_ollama_then_openai(recipe: Recipe) -> None:
    assert "X-Proxy-Provider: home" in recipe.follow()
    assert recipe.send(n=2).headers["X-Proxy-Dropped-Params"] == "n"
    home = recipe.upstreams["home"]
    home.always(status(404))
    assert recipe.served_by() == "openai"
    home.kill()
    assert recipe.served_by() == "openai"


@follows("openrouter.md")
def test_openrouter(recipe: Recipe) -> None:
    shown = recipe.follow()
    assert "X-Proxy-Provider: openrouter" in shown
    assert "X-Proxy-Model: anthropic/claude-sonnet-4.5" in shown
    refused = recipe.send(model="openai/gpt-4.1")
    assert (refused.status_code, code_of(refused)) == (403, "model_not_allowed")
    recipe.upstreams["openrouter"].always(status(402))
    refused = recipe.send()
    assert (refused.status_code, code_of(refused)) == (502, "upstream_auth_failed")
    recipe.upstreams["openrouter"].always(None)
    recipe.run("python manage.py provider-key reset openrouter/key-1")
    wait_until(lambda: recipe.served_by() == "openrouter")


def test_every_recipe_is_followed_and_listed() -> None:
    pages = {page.name for page in RECIPES.glob("*.md")} - {"README.md"}
    tested = set(re.findall(r'^@follows\("(.*)"\)', Path(__file__).read_text(), re.MULTILINE))
    assert pages == tested
    assert pages == set(re.findall(r"\]\(([\w-]+\.md)\)", (RECIPES / "README.md").read_text()))


def test_the_example_of_the_readme(tmp_path: Path, session_upstream: Upstream) -> None:
    section = (ROOT / "README.md").read_text().partition("## Many providers\n")[2]
    (example,) = re.findall(r"```sh\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    proxy = ProxyServer(tmp_path, session_upstream.url, REVOCATION_INTERVAL="0.2").start()
    with MockProvider(keys={KEYS["OPENAI_KEY"]}) as first, MockProvider("ollama") as second:
        try:
            run(example, proxy, {"openai": first, "home": second}, KEYS)
            (project,) = proxy.manage("GET", "/projects").json()
            token = proxy.mint(project["id"])["token"]

            def served_by() -> str | None:
                response = requests.post(
                    f"{proxy.url}/v1/chat/completions",
                    headers={"Authorization": f"Bearer {token}"},
                    json={"model": "chat", "messages": []},
                    timeout=30,
                )
                return response.headers.get("X-Proxy-Provider")

            wait_until(lambda: all_workers(lambda: served_by() == "openai"))
            first.kill()
            assert served_by() == "home"
        finally:
            proxy.stop()
