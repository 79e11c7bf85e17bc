"""Ours: the real server with its own configuration, and everything on.

SQLite, a project and a token made by the management API, token check, metering, an event per
request written to a file, request ids, timing headers, the watch for clients that leave.
"""

import http.client
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from bench.contenders.base import Running, Site
from bench.eventlog import EventLog
from bench.load.message import MODEL
from bench.processes import ROOT, NotStarted, free_port

MANAGEMENT_TOKEN = "management-token-of-the-race"  # noqa: S105


@dataclass(frozen=True)
class Ours:
    name: str = "ours"
    title: str = "openai-proxy, everything on"
    any_path: bool = True

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return ""

    def start(self, site: Site) -> Running:
        port = free_port()
        events = EventLog(site.folder / "events.jsonl")
        environ = {
            "DATA_DIR": str(site.folder / "data"),
            "MANAGEMENT_TOKEN": MANAGEMENT_TOKEN,
            "ENCRYPTION_KEY": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "UPSTREAM_BASE_URL": site.upstream,
            "EVENT_LOG": str(events.path),
            "EVENT_LOG_MAX_BYTES": "4GiB",  # One file, so that its lines can be counted.
            "CACHE_TTL": "10m",  # For projects that ask for it.
        }
        subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), "db", "migrate"],
            cwd=site.folder,
            env=environ,
            check=True,
            capture_output=True,
        )
        arguments = ["-m", "gunicorn", "-c", str(ROOT / "gunicorn.conf.py")]
        process = site.start_python(arguments, port, environ)
        try:
            token = _token(port)
        except BaseException:
            process.stop()
            raise
        return Running(port, token, process, events=events)


def claude_token(port: int, upstream_port: int) -> str:
    """Make a project whose only model is one of Anthropic's, there. Returns a token of it."""
    upstream = {
        "name": "claude",
        "provider_type": "anthropic",
        "base_url": f"http://127.0.0.1:{upstream_port}",
        "config": {"allow_private": True},
    }
    _manage(port, "/providers", upstream)
    _manage(port, "/keys", {"provider": "claude", "name": "k", "value": "sk-ant-upstream-0123"})
    target = {"provider": "claude", "provider_model_name": MODEL, "order_index": 0}
    _manage(port, "/mappings", {"alias_name": MODEL, **target})
    project = _manage(port, "/projects", {"name": "claude", "providers": ["claude"]})
    made = _manage(port, "/tokens", {"project_id": project["id"], "duration_minutes": 600})
    return str(made["token"])


def caching_token(port: int) -> str:
    """Make a project that keeps all responses. Returns a token of it."""
    return _token(port, name="caching", cache="on")


def _token(port: int, name: str = "race", **fields: str) -> str:
    body = {"name": name, "api_key": "sk-upstream-0123456789", **fields}
    project = _manage(port, "/projects", body)
    made = _manage(port, "/tokens", {"project_id": project["id"], "duration_minutes": 600})
    return str(made["token"])


def _manage(port: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {
        "Authorization": f"Bearer {MANAGEMENT_TOKEN}",
        "Content-Type": "application/json",
    }
    connection.request("POST", f"/manage{path}", json.dumps(body), headers)
    answer = connection.getresponse()
    made: dict[str, Any] = json.load(answer)
    connection.close()
    if answer.status != 201:
        raise NotStarted(f"POST {path}: {answer.status} {made}")
    return made
