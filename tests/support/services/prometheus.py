"""Prometheus, to see that it understands what we say."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests

from tests.support.services.process import Process, require


class Prometheus(Process):
    """It scrapes ``targets`` (host:port) every second and evaluates ``rules``."""

    def __init__(self, targets: Sequence[str], rules: Path, token: str) -> None:
        super().__init__()
        self.url = f"http://127.0.0.1:{self.port}"
        self._configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {
                    "job_name": "openai-proxy",
                    "authorization": {"credentials": token},
                    "static_configs": [{"targets": list(targets)}],
                }
            ],
        }

    def command(self) -> list[str]:
        package = "--no-install-recommends prometheus"
        configuration = self.folder / "prometheus.yml"
        configuration.write_text(json.dumps(self._configuration))  # JSON is YAML
        return [
            require("prometheus", package=package),
            f"--config.file={configuration}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def answers(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.url}/-/ready", timeout=5).status_code == 200
        return False

    def ask(self, path: str, **parameters: str) -> Any:
        """``data`` of an answer of its API; fails with what it says is wrong."""
        answer = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def query(self, expression: str) -> list[Any]:
        """The series that an instant query finds."""
        found: list[Any] = self.ask("query", query=expression)["result"]
        return found
