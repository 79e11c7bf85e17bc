"""Options that carry a secret: accepted on the command line, with a warning.

A command line is readable by every user of the machine (``ps``, ``/proc``), and is kept in the
shell's history and in the logs of CI systems. The environment of a process is readable by its owner
alone.
"""

import sys
from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

_WARNING = (
    "Warning: {option} on the command line is visible to every user of this machine and stays in "
    "the shell's history. Better: {better}."
)


class SecretOption(click.Option):
    """``cls=SecretOption, better="…"``: ``better`` completes "Better: …" with an alternative.

    The value ``-`` (read from stdin) and values from other sources cause no warning. The warning
    goes to stderr, so that scripts that read stdout are not disturbed.
    """

    def __init__(self, *args: Any, better: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._better = better

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        value, rest = super().handle_parse_result(ctx, opts, args)
        given = self.name and ctx.get_parameter_source(self.name) is ParameterSource.COMMANDLINE
        if given and value not in (None, "", "-") and not ctx.resilient_parsing:
            option = max(self.opts, key=len)
            click.echo(_WARNING.format(option=option, better=self._better), err=True)
        return value, rest


def read_secret(given: str | None, what: str, option: str) -> str:
    """Returns the secret that an option gave: `-` is a line of stdin, None is asked for, unseen.

    Raises UsageError without a terminal to ask on, and for an empty secret.
    """
    if given is None and not is_terminal():
        raise click.UsageError(f"no terminal to ask for the {what}: give it on stdin: {option} -")
    if given is None:
        given = str(click.prompt(what[0].upper() + what[1:], hide_input=True))
    found = sys.stdin.readline().strip() if given == "-" else given.strip()
    if not found:
        raise click.UsageError(f"the {what} is empty")
    return found


def is_terminal() -> bool:
    return sys.stdin.isatty()
