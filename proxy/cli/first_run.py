"""``make run``: serves, and prints a ``curl`` command to paste when the server is ready.

gunicorn is a child here, so that this process can print once it serves. Signals are passed on, and
gunicorn's exit code is returned.
"""

import os
import signal
import subprocess
import threading
from types import FrameType

import click

from proxy.cli import server
from proxy.cli.client import Api, Refused, default_base_url
from proxy.cli.local_settings import PATH, load_settings, lookup, read
from proxy.settings.settings import Settings

_MODEL = "gpt-4.1-mini"


def serve_and_greet() -> int:
    """Returns gunicorn's exit code."""
    settings = load_settings()
    server.refuse_busy_port(settings.server.host, settings.server.port)
    process = server.start(os.environ)
    _pass_signals_on(process)
    where = default_base_url()
    # On a thread: the main one must wait for the child, and for signals, from the start.
    threading.Thread(target=_greet, args=(process, where, settings), daemon=True).start()
    return process.wait()


def _pass_signals_on(process: "subprocess.Popen[bytes]") -> None:
    """The first Ctrl-C stops gracefully, the second at once (gunicorn's SIGQUIT)."""
    asked = 0

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        process.send_signal(signal.SIGTERM if asked == 1 else signal.SIGQUIT)

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, forward)


def _greet(process: "subprocess.Popen[bytes]", where: str, settings: Settings) -> None:
    if not server.wait_until_serving(where, lambda: process.poll() is not None):
        return
    if settings.auth.mode == "passthrough":
        click.echo(own_key_greeting(where))
        return
    with Api(where, settings.auth.management_token[0]) as api:
        try:
            click.echo(greeting(api))
        except Refused as error:
            click.echo(f"\nServing on {where}, but: {error.message}\n", err=True)


def greeting(api: Api) -> str:
    """Returns the text to paste: a call with a fresh token, or the command for the first project.

    With ``OPENAI_API_KEY`` set and no project yet, makes the project ``default`` with it.
    """
    projects = api.list("/manage/projects")
    if not projects and (key := lookup("OPENAI_API_KEY")):
        body = {"name": "default", "api_key": key, "description": "made by make run"}
        projects = [api.call("POST", "/manage/projects", body)]
    there = _option(api.base_url)
    active = [project for project in projects if project["is_active"]]
    if not active:
        return (
            f"\nServing on {api.base_url}. There is no project yet; this makes one and asks for"
            " its OpenAI key:\n\n"
            f"  .venv/bin/python manage.py project create --name default{there}\n"
            f"  .venv/bin/python manage.py token mint --project-id <its id>{there}\n"
        )
    wanted = {"project_id": active[0]["id"], "duration_minutes": 1440, "name": "make run"}
    access_token = api.call("POST", "/manage/tokens", wanted)["token"]
    return (
        f"\nServing on {api.base_url}. Paste this (the token is good for a day, project"
        f" {active[0]['name']}):\n\n"
        + _call(api.base_url, f"'Authorization: Bearer {access_token}'")
    )


def own_key_greeting(where: str) -> str:
    """Returns the call for a user with an upstream key."""
    return (
        f"\nServing on {where}, and relaying its clients' own keys (AUTH_MODE=passthrough). Paste"
        " this where OPENAI_API_KEY is yours:\n\n"
        + _call(where, '"Authorization: Bearer $OPENAI_API_KEY"')
    )


def _call(where: str, header: str) -> str:
    return (
        f"  curl {where}/v1/chat/completions \\\n"
        f"    -H {header} \\\n"
        "    -H 'Content-Type: application/json' \\\n"
        f'    -d \'{{"model": "{_MODEL}", "messages":'
        ' [{"role": "user", "content": "Say hello"}]}\'\n'
    )


def _option(where: str) -> str:
    """Returns the variables for another terminal, which has ``.env`` but not this environment."""
    stored = read(PATH)
    default = default_base_url(lambda name, default: stored.get(name) or default)
    return "" if default == where else f" --base-url {where}"
