"""``manage.py``: one file per command group, loaded only when its command is called.

The table below is the list of commands. It repeats the help texts, so that ``manage.py --help``
prints them without an import of rich, requests and the database driver.
Exit codes: 0, 1 (the server or the machine refused), 2 (wrong usage or unusable settings).
"""

import importlib
import sys
from collections.abc import Mapping
from typing import Any, Final, cast

import click

from proxy import __version__
from proxy.cli.encoding import show_anything
from proxy.core.errors import ProxyError, SettingsError

#: Command → module:attribute, and its line in ``--help``.
COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "setup": ("setup:setup", "Write a .env with fresh secrets."),
    "serve": ("serve:serve", "Start the proxy."),
    "stop": ("serve:stop", "Stop a proxy started with serve --daemon."),
    "health": ("serve:health", "Show the state of a running proxy."),
    "demo": ("demo:demo", "Show everything with a stand-in upstream: no key, no network."),
    "verify": ("verify:verify", "Compare the proxy's responses with the upstream's own."),
    "bench": ("bench:bench", "Measure requests/s and latencies, and what the proxy adds."),
    "chat": ("chat:chat", "Talk to a model through the proxy."),
    "audit": ("audit:audit", "Who changed what: list, show, verify."),
    "cache": ("cache:cache", "The response cache: stats, purge."),
    "db": ("db:db", "Database: migrate, status, export, import."),
    "events": ("events:events", "Usage events: ship, dispatch."),
    "keys": ("keys:keys", "Encryption keys: generate, rotate, status."),
    "project": ("project:project", "Projects: list, get, create, update, deactivate."),
    "provider": ("provider:provider", "Providers: list, get, create, update, delete, test."),
    "provider-key": (
        "provider_key:provider_key",
        "Keys of providers: list, get, create, update, delete, reset.",
    ),
    "mapping": ("mapping:mapping", "Aliases of models: list, get, set, create, update, delete."),
    "token": ("token:token", "Access tokens: mint, derive, list, get, update, revoke."),
    "usage": ("usage:usage", "What was used per project, token, model or hour, and its cost."),
}


class Unusable(click.ClickException):
    """Unusable settings: every problem on a line of its own."""

    exit_code = 2


class LazyGroup(click.Group):
    """The root group: the only place where exceptions become messages and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        return cast(
            click.Command, getattr(importlib.import_module(f"proxy.cli.{module}"), attribute)
        )

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            lines = "".join(f"\n  {problem}" for problem in error.problems)
            raise Unusable(f"the settings cannot be used:{lines}") from error
        except ProxyError as error:
            raise click.ClickException(_message(error)) from error


def _message(error: ProxyError) -> str:
    """Returns the database driver's message, which an operator may see, unlike a client."""
    cause = error.__cause__
    if str(error) or cause is None:
        return str(error) or error.code
    # The arguments of MySQL's errors are a number and a text.
    number_and_text = not isinstance(cause, OSError) and len(cause.args) == 2
    return f"{error.code}: {cause.args[1] if number_and_text else str(cause) or repr(cause)}"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="openai-proxy")
def root() -> None:
    """A drop-in OpenAI endpoint that keeps the real keys to itself."""


def main() -> None:
    show_anything()
    sys.exit(root(prog_name="manage.py"))
