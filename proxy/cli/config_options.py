"""The options of a `config`: single members, and a file that has several."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import click
import orjson

from proxy.cli import output

Command = Callable[..., None]


def config_options(function: Command) -> Command:
    """Adds the argument ``config`` to a command: a JSON object, or None if nothing is given."""

    @click.option(
        "--config",
        "members",
        multiple=True,
        metavar="NAME=VALUE",
        help="A member of its config: VALUE is JSON, else text; `NAME=null` takes it away."
        " Repeatable.",
    )
    @click.option(
        "--config-file",
        type=click.File("rb"),
        metavar="FILE.json",
        help="Members as a JSON object; `-` reads it from stdin. --config wins.",
    )
    @functools.wraps(function)
    def command(*, members: Sequence[str], config_file: BinaryIO | None, **options: Any) -> None:
        found = _from_file(config_file) if config_file else {}
        for member in members:
            name, sign, value = member.partition("=")
            if not sign or not name:
                raise click.BadParameter(f"{member!r}: expected NAME=VALUE", param_hint="--config")
            found[name] = _value(value)
        function(config=found if members or config_file else None, **options)

    return command


def config_text(config: dict[str, Any]) -> str:
    """Returns a config for a table: ``timeout=30, auth=bearer``."""
    return ", ".join(
        f"{name}={value if isinstance(value, str) else output.compact(value)}"
        for name, value in config.items()
    )


def _value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _from_file(file: BinaryIO) -> dict[str, Any]:
    try:
        found = orjson.loads(file.read())
    except orjson.JSONDecodeError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--config-file") from error
    if not isinstance(found, dict):
        raise click.BadParameter("expected a JSON object", param_hint="--config-file")
    return found
