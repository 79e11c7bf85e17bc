"""A proxy with many providers: aliases whose targets are scripted upstreams, and one project."""

import json
from collections.abc import Iterable
from typing import Any

import openai
import requests

from tests.support import canaries
from tests.support.all_workers import all_workers
from tests.support.mock_provider import MockProvider
from tests.support.server import ProxyServer
from tests.support.wait import wait_until


class RoutedHouse:
    """Makes the records on a running proxy. Call :meth:`ready` behind the last one."""

    def __init__(self, proxy: ProxyServer, **project: Any) -> None:
        self.proxy = proxy
        made = self.make("projects", {"name": "routed", "providers": ["*"], **project})
        self.project_id: str = made["id"]
        self.token_id, self.token = self.mint()
        self.client = openai.OpenAI(
            base_url=f"{proxy.url}/v1", api_key=self.token, max_retries=0, timeout=30
        )

    def make(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        response = self.proxy.manage("POST", f"/{kind}", body)
        assert response.status_code == 201, response.text
        made: dict[str, Any] = response.json()
        return made

    def mint(self, **fields: Any) -> tuple[str, str]:
        token = self.proxy.mint(self.project_id, **fields)
        return token["id"], token["token"]

    def provider(
        self, name: str, upstream: MockProvider, keys: Iterable[str], **config: Any
    ) -> list[str]:
        """Make a provider at `upstream` with keys of these values. Returns their ids."""
        fields = {"base_url": config.pop("base_url", upstream.base_url)}
        for each in ("is_default",):
            if each in config:
                fields[each] = config.pop(each)
        self.make(
            "providers",
            {
                "name": name,
                "provider_type": upstream.dialect,
                "config": {"allow_private": True, "key_strategy": "priority", **config},
                **fields,
            },
        )
        made = []
        for number, value in enumerate(keys):
            canaries.register(value)
            body = {"provider": name, "name": f"key-{number}", "value": value}
            made.append(self.make("keys", body)["id"])
        return made

    def alias(self, name: str, *targets: str, **config: Any) -> None:
        """Make an alias of targets `provider/model`."""
        for index, target in enumerate(targets):
            provider, _, model = target.partition("/")
            body = {
                "alias_name": name,
                "provider": provider,
                "provider_model_name": model,
                "order_index": index,
                "config": config,
            }
            self.make("mappings", body)

    def ready(self, model: str) -> None:
        """Wait until both workers know the alias `model`, whose target has another model."""

        def knows() -> bool:
            # A worker that does not know the alias sends it to the default provider, under the
            # name that the client wrote.
            response = self.post(model)
            return response.status_code == 200 and response.headers.get("X-Proxy-Model") != model

        wait_until(lambda: all_workers(knows))

    def post(self, model: str, *, token: str = "", **more: Any) -> requests.Response:
        """Ask for a chat on a new connection."""
        return requests.post(
            f"{self.proxy.url}/v1/chat/completions",
            json={"model": model, "messages": [{"role": "user", "content": "Hi"}], **more},
            headers={"Authorization": f"Bearer {token or self.token}", "Connection": "close"},
            timeout=30,
        )

    def events(self, request_id: str) -> list[dict[str, Any]]:
        """All events of one request: those of superseded attempts, and its own, which is last."""

        def found() -> list[dict[str, Any]]:
            lines = [line for line in self.proxy._fresh_events() if request_id in line]
            return [json.loads(line) for line in lines]

        wait_until(lambda: any(each["outcome"] != "superseded" for each in found()))
        return sorted(found(), key=lambda event: event["outcome"] != "superseded")
