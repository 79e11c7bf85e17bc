"""Rules given to ``manage.py`` hold for the very next request, and go as they came."""

import json

import openai
import pytest

from tests.support import canaries
from tests.support.fake_upstream import Upstream
from tests.support.server import UPSTREAM_KEY, ProxyServer


def manage(
    server: ProxyServer,
    *arguments: str,
    stdin: str = "",
    environ: dict[str, str] | None = None,
) -> str:
    """What the command prints; it must end with 0."""
    done = server.command(*arguments, stdin=stdin, environ=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ask(server: ProxyServer, token: str, model: str) -> openai.types.chat.ChatCompletion:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=token, max_retries=0) as client:
        question = [{"role": "user", "content": "Say hello"}]
        return client.chat.completions.create(model=model, messages=question)  # type: ignore[arg-type]


def test_a_model_that_is_not_allowed(proxy: ProxyServer, upstream: Upstream) -> None:
    create = ["project", "create", "--name", "policies", "--api-key", "-", "--json"]
    project = json.loads(manage(proxy, *create, "--allowed-model", "gpt-4*", stdin=UPSTREAM_KEY))
    assert project["allowed_models"] == ["gpt-4*"]
    mint = ["token", "mint", "--project-id", project["id"], "--allowed-model", "*mini", "--raw"]
    token = manage(proxy, *mint)
    canaries.register(token)

    ask(proxy, token, "gpt-4.1-mini")
    for model in ("gpt-4.1", "o4-mini"):  # one refused by the token, one by the project
        with pytest.raises(openai.PermissionDeniedError) as refused:
            ask(proxy, token, model)
        assert refused.value.code == "model_not_allowed"
    assert len(upstream.received) == 1

    # A fresh token, so that no worker has it cached: what counts is that the rule is gone.
    listed = json.loads(manage(proxy, "token", "list", "--project-id", project["id"], "--json"))
    shown = manage(proxy, "token", "get", listed[0]["id"])
    assert "*mini" in next(line for line in shown.splitlines() if "allowed_models" in line)
    second = json.loads(manage(proxy, *mint[:-1], "--json"))
    canaries.register(second["token"])
    manage(proxy, "token", "update", second["id"], "--unset", "allowed-model")
    ask(proxy, second["token"], "gpt-4.1")
    assert [event["status_code"] for event in proxy.events(4)] == [200, 403, 403, 200]


def test_a_child_by_its_parent_alone(proxy: ProxyServer, upstream: Upstream) -> None:
    project = proxy.create_project("families")
    mint = ["token", "mint", "--project-id", project["id"], "--can-mint", "--raw"]
    parent = manage(proxy, *mint)
    canaries.register(parent)
    derive = ["token", "derive", "--allowed-model", "gpt-4*", "--max-requests", "2", "--raw"]
    without = {key: value for key, value in proxy.environ.items() if key != "MANAGEMENT_TOKEN"}
    child = manage(proxy, *derive, environ=without | {"PROXY_TOKEN": parent})
    canaries.register(child)

    ask(proxy, child, "gpt-4.1-mini")
    with pytest.raises(openai.PermissionDeniedError):
        ask(proxy, child, "o4-mini")
    ask(proxy, child, "gpt-4.1-mini")
    with pytest.raises(openai.RateLimitError) as refused:
        ask(proxy, child, "gpt-4.1-mini")
    assert refused.value.code == "quota_exceeded"
    assert len(upstream.received) == 2

    shown = json.loads(manage(proxy, "token", "list", "--project-id", project["id"], "--json"))
    parents = [item["id"] for item in shown if item["can_mint"]]
    children = manage(proxy, "token", "list", "--parent-id", *parents, "--json")
    assert [item["parent_id"] for item in json.loads(children)] == parents
    assert [event["status_code"] for event in proxy.events(4)] == [200, 403, 200, 429]
