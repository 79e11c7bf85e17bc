"""A session with the whole product, for any upstream: the demo's stand-in or the real one.

It starts the real server with its real configuration in a temporary directory, on a free port and
with settings of its own (the caller's environment and ``.env`` do not reach it), and leaves nothing
behind. After a failure the server's log is printed before the exception propagates.
"""

import base64
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import orjson

from proxy.cli import server
from proxy.cli.client import Api
from proxy.cli.db import bring_up_to_date
from proxy.settings.settings import Settings, variable_names

#: Seconds until the usage events must have been written, and until the server must have stopped.
_EVENTS_TIMEOUT: Final = 10.0
_STOP_TIMEOUT: Final = 15.0


@dataclass(frozen=True)
class Upstream:
    """The upstream of the session, and its key."""

    base_url: str
    api_key: str


#: Makes calls at a base URL with an access token. Returns how many: as many usage events are due.
Calls = Callable[[str, str], int]


def take(upstream: Upstream, calls: Calls) -> list[dict[str, Any]]:
    """Serves, makes a project and a token, runs ``calls`` and stops. Returns the usage events."""
    with tempfile.TemporaryDirectory(prefix="openai-proxy-") as name:
        directory = Path(name)
        environ = _environment(directory, upstream)
        settings = Settings.load(environ)
        bring_up_to_date(settings)
        log_path = directory / "server.log"
        with log_path.open("wb") as log:
            process = server.start(environ, log=log, directory=directory)
        try:
            base_url = f"http://{settings.server.host}:{settings.server.port}"
            if not server.wait_until_serving(base_url, lambda: process.poll() is not None):
                raise click.ClickException("the server did not start")
            click.echo(f"The proxy serves on {base_url}.")
            count = calls(base_url, _access_token(base_url, settings, upstream))
            events = _events(Path(settings.events.log), count)
            click.echo("Stopping the proxy: ", nl=False)
            code = server.stop(process, _STOP_TIMEOUT)
            click.echo(f"exit code {code}.")
            if code != 0:
                raise click.ClickException("the server did not stop as it should")
            cut = [event for event in events if event["outcome"] != "completed"]
            if cut:
                raise click.ClickException(f"a request did not complete: {cut[0]}")
        except BaseException:
            if process.poll() is None:
                server.stop(process, _STOP_TIMEOUT)
            click.echo(f"--- log of the server ---\n{log_path.read_text('utf-8')}---", err=True)
            raise
    return events


def _access_token(base_url: str, settings: Settings, upstream: Upstream) -> str:
    with Api(base_url, settings.auth.management_token[0]) as api:
        body = {"name": "tour", "api_key": upstream.api_key}
        project = api.call("POST", "/manage/projects", body)
        click.echo(f"Project {project['id']} holds the upstream key {project['api_key']}.")
        wanted = {"project_id": project["id"], "duration_minutes": 10}
        minted = api.call("POST", "/manage/tokens", wanted)
        access_token = str(minted["token"])
        mask = f"{access_token[:7]}...{access_token[-4:]}"
        click.echo(f"Access token {mask} stands for it until {minted['expires_at']}.")
        return access_token


def _events(path: Path, count: int) -> list[dict[str, Any]]:
    """Waits for ``count`` usage events, which are written after the responses, off the path."""
    deadline = time.monotonic() + _EVENTS_TIMEOUT
    events: list[dict[str, Any]] = []
    while len(events) < count:
        if time.monotonic() > deadline:
            raise click.ClickException(f"{len(events)} usage events came, not {count}")
        time.sleep(0.05)
        lines = path.read_bytes().splitlines() if path.exists() else []
        # The other events are about the project and the token that were made.
        events = [event for line in lines if "event" not in (event := orjson.loads(line))]
    return events


def _environment(directory: Path, upstream: Upstream) -> dict[str, str]:
    """Returns the caller's environment with other settings of the proxy and gunicorn."""
    known = {"GUNICORN_CMD_ARGS", *variable_names()}
    return {name: value for name, value in os.environ.items() if name not in known} | {
        "HOST": "127.0.0.1",
        "PORT": str(server.free_port()),
        "WEB_CONCURRENCY": "1",
        "DATA_DIR": str(directory),
        "MANAGEMENT_TOKEN": secrets.token_urlsafe(32),
        "ENCRYPTION_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "UPSTREAM_BASE_URL": upstream.base_url,
        "EVENT_LOG": str(directory / "usage.jsonl"),
        "LOG_FORMAT": "console",
        "GRACEFUL_TIMEOUT": "10",
        "EVENT_SHIPPER": "off",
    }
