"""A proxy whose projects keep responses, as a test sees it: its clients, and their events."""

import re
from typing import Any

import requests

from tests.support.fake_upstream import Upstream
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

ASK: dict[str, Any] = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "Hi"}]}


class House:
    """A proxy whose projects may keep responses, in front of the suite's upstream."""

    def __init__(self, proxy: ProxyServer, upstream: Upstream) -> None:
        self.proxy = proxy
        self.upstream = upstream
        # Request id → its events.
        self._events: dict[str, list[dict[str, Any]]] = {}
        self._asked = self._projects = 0

    def token(self, limits: dict[str, Any] | None = None, **fields: Any) -> str:
        """Return a token of a new project that has these fields; `limits` are the token's own."""
        self._projects += 1
        body = {
            "name": f"cached-{self._projects}",
            "api_key": "sk-upstream-real",
            "cache": "on",
            **fields,
        }
        answer = self.proxy.manage("POST", "/projects", body)
        assert answer.status_code == 201, answer.text
        return str(self.proxy.mint(answer.json()["id"], **(limits or {}))["token"])

    def ask(
        self,
        token: str,
        body: dict[str, Any] | None = None,
        path: str = "/v1/chat/completions",
        method: str = "POST",
        *,
        stream: bool = False,
        **headers: str,
    ) -> requests.Response:
        self._asked += 1
        lines = {"Authorization": f"Bearer {token}", "X-Request-ID": f"cache-{self._asked}"}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{self.proxy.url}{path}"
        return requests.request(method, url, json=body, headers=lines, stream=stream, timeout=60)

    def hit(self, token: str, body: dict[str, Any], **more: Any) -> requests.Response:
        """Ask until the response comes from the cache: it is stored after its last byte."""
        found: list[requests.Response] = []

        def hits() -> bool:
            found[:] = [self.ask(token, body, **more)]
            return found[0].headers["X-Cache"] == "HIT"

        wait_until(hits)
        return found[0]

    def event(self, response: requests.Response) -> dict[str, Any]:
        return self.event_of(response.headers["X-Proxy-Request-ID"])

    def event_of(self, name: str) -> dict[str, Any]:
        """Wait for the event of the request with this id."""
        (event,) = self.events_of(name, 1)
        return event

    def events_of(self, name: str, count: int) -> list[dict[str, Any]]:
        """Wait for the events of requests that share an id."""
        found = self._events.setdefault(name, [])

        def arrived() -> bool:
            for each in self.proxy.events_so_far():
                self._events.setdefault(each["request_id"], []).append(each)
            return len(found) >= count

        wait_until(arrived)
        return found

    def metric(self, sample: str) -> float:
        """Return a sample of the metrics, as `name{label="value"}` without its prefix."""
        page = requests.get(f"{self.proxy.url}/metrics", timeout=30).text
        found = re.findall(rf"^proxy_{re.escape(sample)} (\S+)$", page, re.MULTILINE)
        return sum(map(float, found))
