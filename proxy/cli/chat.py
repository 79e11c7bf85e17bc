"""``manage.py chat``: a conversation in the terminal, through the proxy, with an access token.

A failed question does not end the conversation. It is removed from the history and can be asked
again.
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import click
import requests

from proxy.cli.client import base_url, base_url_option, cause, default_base_url, error_message
from proxy.cli.client import session as new_session
from proxy.cli.local_settings import lookup
from proxy.cli.secret_option import SecretOption
from proxy.tools.sse_client import StreamBroken, content, deltas

#: Seconds to connect, and of silence between two bytes: a model may think for minutes.
_TIMEOUT = (5, 600)
_LEAVE = ("exit", "quit")


@click.command()
@base_url_option
@click.option(
    "--token",
    cls=SecretOption,
    better="PROXY_TOKEN in the environment or .env",
    help="Access token. [default: PROXY_TOKEN of the environment or .env]",
)
@click.option("--model", default="gpt-4.1-mini", show_default=True)
@click.option("--system", help="System prompt.")
@click.option("--temperature", type=click.FloatRange(0, 2))
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest response, in tokens.")
@click.option("--verbose", is_flag=True, help="After each response: request id, time, tokens.")
def chat(
    base_url_given: str | None,
    token: str | None,
    model: str,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    verbose: bool,
) -> None:
    """Talk to a model. `exit`, `quit`, Ctrl-D or Ctrl-C leaves."""
    bearer = token or lookup("PROXY_TOKEN")
    if not bearer:
        raise click.UsageError("no access token: give --token or set PROXY_TOKEN")
    where = base_url(base_url_given) if base_url_given else default_base_url()
    options: dict[str, Any] = {"model": model, "stream": True}
    if temperature is not None:
        options["temperature"] = temperature
    if max_tokens is not None:
        options["max_completion_tokens"] = max_tokens
    if verbose:
        options["stream_options"] = {"include_usage": True}
    history = [{"role": "system", "content": system}] if system else []
    try:
        with new_session(where, bearer) as session:
            for question in _questions():
                asked = [*history, {"role": "user", "content": question}]
                response = _ask(session, where, {**options, "messages": asked}, verbose)
                if response is not None:
                    history = [*asked, {"role": "assistant", "content": response}]
    except KeyboardInterrupt:
        click.echo()


def _questions() -> Iterator[str]:
    terminal = _is_terminal()
    if terminal:
        # The import gives input() its line editing and history.
        import readline  # noqa: F401

        click.echo("Type `exit` to leave.")
    while True:
        try:
            question = input("> " if terminal else "").strip()
        except EOFError:
            if terminal:
                click.echo()
            return
        if question.lower() in _LEAVE:
            return
        if question:
            yield question


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _ask(session: requests.Session, where: str, body: dict[str, Any], verbose: bool) -> str | None:
    """Sends a question and prints the response as it arrives. Returns it, or None if it failed."""
    began = time.monotonic()
    parts: list[str] = []
    usage: dict[str, Any] = {}
    try:
        with session.post(
            f"{where}/v1/chat/completions",
            json=body,
            headers={"Accept-Encoding": "identity"},
            stream=True,
            timeout=_TIMEOUT,
            allow_redirects=False,
        ) as response:
            if response.status_code != 200:
                click.echo(f"error: {error_message(response)}", err=True)
                return None
            request_id = response.headers.get("X-Proxy-Request-ID", "-")
            for chunk in deltas(response):
                usage = chunk.get("usage") or usage
                text = content(chunk)
                if text:
                    parts.append(text)
                    click.echo(text, nl=False)
                    sys.stdout.flush()
    except requests.RequestException as error:
        click.echo(f"error: no response from {where}: {cause(error)}", err=True)
        return None
    except StreamBroken as error:
        click.echo(f"\nerror: {error}", err=True)
        return None
    click.echo()
    if verbose:
        click.echo(
            f"[{request_id}, {time.monotonic() - began:.2f} s,"
            f" {usage.get('prompt_tokens', '?')} + {usage.get('completion_tokens', '?')} tokens]",
            err=True,
        )
    return "".join(parts)
