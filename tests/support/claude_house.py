"""A proxy in front of accounts at Anthropic and one at OpenAI, for clients of either dialect.

| alias | targets |
|---|---|
| `smart` | `claude`, with two keys |
| `moving-*` | `claude`, then `eu`, with `native_fallback` |
| `staying-*` | `claude`, then `eu` |
| `steady-*` | `openai`, then `claude` |
| `clever-*` | `claude`, then `openai` |
| `dead` | `dead`, which takes no key |
| `talking-*` | `gpt`, which translates messages to chats |
| `wide-*` | `claude`, then `gpt`, with `native_fallback` |
| `narrow-*` | `gpt`, then `claude` |

The `*` is the end of the model, too: `steady-a` is `openai-a`, then `claude-a`. A test with
failures writes names of its own, since a model that fails is left alone for a while.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anthropic
import openai
import requests

from tests.support.all_workers import all_workers
from tests.support.mock_anthropic import MockAnthropic
from tests.support.mock_provider import MockProvider
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

CLAUDE_KEYS = ("sk-ant-upstream-1", "sk-ant-upstream-2")
_ALIASES = {
    "smart": ("claude",),
    "moving-*": ("claude", "eu"),
    "staying-*": ("claude", "eu"),
    "steady-*": ("openai", "claude"),
    "clever-*": ("claude", "openai"),
    "dead": ("dead",),
    "talking-*": ("gpt",),
    "wide-*": ("claude", "gpt"),
    "narrow-*": ("gpt", "claude"),
}
_MOVING = ("moving-*", "wide-*")
_OF_OPENAI = ("openai", "gpt")


def named(name: str) -> dict[str, Any]:
    """Arguments of either client's calls: the identifier of the request."""
    return {"extra_headers": {"X-Request-ID": name}}


@contextmanager
def claude_house(folder: Path, upstream_url: str, **settings: str) -> Iterator["ClaudeHouse"]:
    """A house whose proxy is started for it, in `folder`, with these settings.

    It ends with the house, and must have logged no traceback and no key.
    """
    proxy = ProxyServer(folder, upstream_url, **settings).start()
    with ClaudeHouse(proxy) as house:
        yield house
    assert proxy.stop() == 0, proxy.log_text()
    log = proxy.log_text()
    assert "Traceback" not in log, log
    assert "sk-ant-upstream" not in log
    assert "sk-upstream" not in log


class ClaudeHouse:
    """The proxy is given, and is not ended here."""

    def __init__(self, proxy: ProxyServer) -> None:
        self.proxy = proxy
        self._events: dict[str, dict[str, Any]] = {}
        self.claude = MockAnthropic(set(CLAUDE_KEYS))
        self.claude.page_size = 1
        self.eu = MockAnthropic({"sk-ant-upstream-3"}, signature="b3RoZXI=")
        self.openai = MockProvider("openai", {"sk-upstream-4"})
        self.dead = MockAnthropic({"sk-ant-upstream-5"})
        self.gpt = MockProvider("openai", {"sk-upstream-6"})
        self.upstreams: dict[str, MockProvider] = {
            "claude": self.claude,
            "eu": self.eu,
            "openai": self.openai,
            "dead": self.dead,
            "gpt": self.gpt,
        }
        for name, upstream in self.upstreams.items():
            kind = "openai" if name in _OF_OPENAI else "anthropic"
            body = {"name": name, "provider_type": kind, "base_url": upstream.base_url}
            config: dict[str, Any] = {"allow_private": True, "key_strategy": "priority"}
            if name == "gpt":
                config |= {"serve_messages": "translate", "list_models": False}
            self.make("providers", {**body, "config": config})
            for key in sorted(upstream.keys or ()):
                self.make("keys", {"provider": name, "name": f"k{key[-1]}", "value": key})
        for alias, targets in _ALIASES.items():
            end = "*" if alias.endswith("*") else "large"
            routing = {"routing": {"native_fallback": alias in _MOVING}}
            for index, name in enumerate(targets):
                target = {"provider": name, "provider_model_name": f"{name}-{end}"}
                row = {"alias_name": alias, "order_index": index, "config": routing, **target}
                self.make("mappings", row)
        self.project_id = self.make("projects", {"name": "claude", "providers": ["*"]})["id"]
        self.dead.keys = set()
        self.token = self.mint()
        wait_until(self._serves)
        self.fresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for upstream in self.upstreams.values():
            upstream.stop()

    def make(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        response = self.proxy.manage("POST", f"/{kind}", body)
        assert response.status_code == 201, response.text
        made: dict[str, Any] = response.json()
        return made

    def mint(self, **fields: Any) -> str:
        return str(self.proxy.mint(self.project_id, **fields)["token"])

    def anthropic(self, token: str = "", **more: Any) -> anthropic.Anthropic:
        """The official client, as Anthropic documents it."""
        credential = more or {"api_key": token or self.token}
        return anthropic.Anthropic(base_url=self.proxy.url, max_retries=0, timeout=30, **credential)

    def openai_client(self, token: str = "") -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.proxy.url}/v1",
            api_key=token or self.token,
            max_retries=0,
            timeout=30,
        )

    def post(self, path: str, body: bytes, **headers: str) -> requests.Response:
        """Send these bytes, with the access token where Anthropic's older SDKs put it."""
        lines = {"x-api-key": self.token, "Content-Type": "application/json"}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.post(f"{self.proxy.url}{path}", data=body, headers=lines, timeout=30)

    def fresh(self) -> None:
        """Forget what was received, and what was to fail."""
        for upstream in self.upstreams.values():
            upstream.reset()

    def event(self, name: str) -> dict[str, Any]:
        """The event of the request that was sent :func:`named` so; waits for it."""

        def arrived() -> bool:
            # Those of other requests may be asked for later.
            self._events.update({each["request_id"]: each for each in self.proxy.events_so_far()})
            return name in self._events

        wait_until(arrived)
        return self._events[name]

    def _serves(self) -> bool:
        """Whether all workers have the aliases, and know what Claude's models take."""
        body = b'{"model":"smart","messages":[{"role":"user","content":"Hi"}],"reasoning_effort":'

        last = b'{"model":"talking-1","max_tokens":9,"messages":[{"role":"user","content":"Hi"}]}'

        def serves() -> bool:
            response = self.post("/v1/chat/completions", body + b'"low"}')
            if not response.ok or "x-proxy-dropped-params" in response.headers:
                return False
            # The alias that was made last.
            return self.post("/v1/messages", last).ok

        return all_workers(serves)
