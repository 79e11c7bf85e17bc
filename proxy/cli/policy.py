"""Policy fields as options of a command, as a file for all at once, and as people read them.

The thing to get wrong: a rule that is given is replaced as a whole, and only ``--unset``, or null
in a file, takes one away; an option that is not given leaves it as it is.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import click
import orjson

from proxy.cli import output
from proxy.cli.spellings import SPELLINGS, Spelling
from proxy.errors import ClientError
from proxy.policy.fields import Place, fields_of

Command = Callable[..., None]


def policy_options(
    place: Place, *, also: Sequence[str] = (), removable: bool = False
) -> Callable[[Command], Command]:
    """Gives a command the argument ``policy``: what was chosen, as the management API takes it.

    ``also``: fields besides that a file may hold. ``removable``: with ``--unset``.
    """
    fields = {name: SPELLINGS[name] for name in fields_of(place)}

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(
            *, policy_file: BinaryIO | None, unset: Sequence[str] = (), **options: Any
        ) -> None:
            given = {name: options.pop(name) for name in fields}
            policy = _from_file(policy_file, place, also) if policy_file else {}
            chosen = {
                name: _value(name, value, place)
                for name, value in given.items()
                if value is not None and value != ()
            }
            if both := [name for name in unset if name in chosen]:
                raise click.UsageError(f"{both[0]} is given and unset")
            function(policy=policy | chosen | dict.fromkeys(unset), **options)

        wanted = [_option(name, spelling) for name, spelling in fields.items()]
        wanted.append(
            click.option(
                "--policy",
                "policy_file",
                type=click.File("rb"),
                metavar="FILE.json",
                help="Policy fields as a JSON object; `-` reads it from stdin. Options win.",
            )
        )
        if removable:
            names = sorted([*fields, *also])
            wanted.append(
                click.option(
                    "--unset",
                    multiple=True,
                    type=_FieldName(names),
                    metavar="FIELD",
                    help=f"Take a rule away. Repeatable. One of: {', '.join(names)}.",
                )
            )
        made: Command = command
        for option in reversed(wanted):
            made = option(made)
        return made

    return decorate


class _FieldName(click.ParamType[str]):
    """A field, by its name or by its option's: ``allowed_models``, ``allowed-model``, ``rpm``."""

    name = "FIELD"

    def __init__(self, names: Sequence[str]) -> None:
        self._by_spelling = {name: name for name in names} | {
            _plain(SPELLINGS[name].option): name for name in names if name in SPELLINGS
        }

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        found = self._by_spelling.get(_plain(value))
        if found is None:
            names = ", ".join(dict.fromkeys(self._by_spelling.values()))
            self.fail(f"{value!r} is no field that can be unset; one of: {names}", param, ctx)
        return found


def show(value: Mapping[str, Any], place: Place) -> None:
    """A project or a token for people: its rules last, and those that are not set on one line."""
    rules = [name for name in fields_of(place) if name in value]
    shown = {name: content for name, content in value.items() if name not in rules}
    shown |= {name: _words(value[name]) for name in rules if value[name] is not None}
    if free := [name for name in rules if value[name] is None]:
        shown["(not set)"] = ", ".join(free)
    output.record(shown)


def _plain(spelled: str) -> str:
    return spelled.removeprefix("--").replace("-", "_")


def _option(name: str, spelling: Spelling) -> Callable[[Command], Command]:
    """The option and, where that is another one, the field's name as an option."""
    spelled = dict.fromkeys((spelling.option, f"--{name.replace('_', '-')}"))
    if spelling.metavar is None:
        flags = [f"{one}/--no-{one.removeprefix('--')}" for one in spelled]
        return click.option(*flags, name, default=None, help=spelling.help)
    return click.option(
        *spelled,
        name,
        type=spelling.kind,
        multiple=spelling.multiple,
        metavar=spelling.metavar,
        help=spelling.help,
    )


def _value(name: str, given: Any, place: Place) -> Any:
    spelling = SPELLINGS[name]
    try:
        return fields_of(place)[name].read(name, spelling.read(given))
    except (ClientError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint=spelling.option) from error


def _from_file(file: BinaryIO, place: Place, also: Sequence[str]) -> dict[str, Any]:
    """Null stays null: in a change it takes a rule away."""
    fields = fields_of(place)
    try:
        try:
            found = orjson.loads(file.read())
        except orjson.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from error
        if not isinstance(found, dict):
            raise ValueError("expected a JSON object of policy fields")  # noqa: TRY004
        if unknown := sorted(found.keys() - fields.keys() - set(also)):
            raise ValueError(f"not a policy field of a {place}: {unknown[0]!r}")
        return {
            name: value if value is None or name in also else fields[name].read(name, value)
            for name, value in found.items()
        }
    except (ClientError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint="--policy") from error


def _words(value: Any) -> Any:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_words(entries)}" for name, entries in value.items())
    if isinstance(value, list):
        # The empty pattern has to be seen: it lets requests without a model pass.
        return ", ".join(str(entry) or "''" for entry in value) or "none"
    return value
