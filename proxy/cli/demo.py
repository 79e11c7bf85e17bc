"""``manage.py demo``: shows the main function in ten seconds, without a key or a network.

Only the upstream is a stand-in; server, configuration, database, management API and usage events
are real.
"""

import sys
from typing import Any

import click
import requests

from proxy.cli import output
from proxy.cli.client import error_message, session
from proxy.cli.demo_session import Upstream, take
from proxy.tools.fake_upstream import MODEL, FakeUpstream
from proxy.tools.sse_client import StreamBroken, content, deltas

_UPSTREAM_KEY = "sk-stand-in-0123456789abcdef"
_TIMEOUT = (5, 30)


@click.command()
def demo() -> None:
    """Start everything with a stand-in upstream, chat twice, show the usage events, stop."""
    with FakeUpstream(_UPSTREAM_KEY) as upstream:
        click.echo(f"A stand-in for the upstream listens on {upstream.base_url}.")
        events = take(Upstream(upstream.base_url, _UPSTREAM_KEY), _two_chats)
    for event in events:
        show_event(event)


def show_event(event: object) -> None:
    click.echo("\nUsage event:")
    output.as_json(event)


def _two_chats(base_url: str, access_token: str) -> int:
    url = f"{base_url}/v1/chat/completions"
    question = {"role": "user", "content": "Who are you?"}
    body: dict[str, Any] = {"model": MODEL, "messages": [question]}
    try:
        with session(base_url, access_token) as client:
            click.echo("\nA buffered chat:\n  ", nl=False)
            response = client.post(url, json=body, timeout=_TIMEOUT)
            _check(response)
            click.echo(response.json()["choices"][0]["message"]["content"])

            click.echo("\nA streamed chat, as it arrives:\n  ", nl=False)
            body |= {"stream": True, "stream_options": {"include_usage": True}}
            with client.post(url, json=body, timeout=_TIMEOUT, stream=True) as response:
                _check(response)
                for chunk in deltas(response):
                    click.echo(content(chunk), nl=False)
                    sys.stdout.flush()
            click.echo("\n")
    except (requests.RequestException, StreamBroken) as error:
        raise click.ClickException(f"the chat failed: {error}") from error
    return 2


def _check(response: requests.Response) -> None:
    if response.status_code != 200:
        raise click.ClickException(f"the chat was refused: {error_message(response)}")
