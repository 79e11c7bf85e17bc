"""Policy fields as options of a command, as a file of all fields, and as text for people.

Note: a given rule is replaced as a whole. Only ``--unset``, or null in a file, removes a rule; an
option that is not given leaves it unchanged.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import click
import orjson

from proxy.cli import output
from proxy.core.errors import ClientError
from proxy.policy.fields import Scope, fields_of


@dataclass(frozen=True, slots=True)
class Spelling:
    """One field's option. ``read`` converts the given value, or all values of a repeatable one."""

    option: str
    help: str
    metavar: str | None
    read: Callable[[Any], Any]
    multiple: bool = False
    kind: type | None = None
    #: Whether the field's name is an option, too.
    also_by_name: bool = True


def _entries(values: Sequence[str]) -> list[str]:
    if "" in values:
        raise ValueError(
            "empty; without the option there is no rule, `update --unset` removes one,"
            " a --policy file may hold empty patterns"
        )
    return list(values)


def _entries_or_none(values: Sequence[str]) -> list[str]:
    return [] if list(values) == [""] else _entries(values)


def _limit(value: int) -> int:
    if value < 1:
        raise ValueError(
            f"{value} is less than 1; without the option there is no limit,"
            " `update --unset` removes one"
        )
    return value


def _params(values: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for value in values:
        name, sign, glob = value.partition("=")
        if not sign:
            raise ValueError(f"{value!r}: expected NAME=GLOB, or `NAME=` for no value at all")
        found.setdefault(name, []).extend([glob] if glob else [])
    return found


def _headers(values: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for value in values:
        name, sign, glob = value.partition("=")
        if sign and not glob:
            raise ValueError(f"{value!r}: expected NAME=GLOB, or NAME for any value")
        found.setdefault(name, []).append(glob or "*")
    return found


def _list(
    option: str, metavar: str, help_text: str, read: Callable[[Any], Any] = _entries
) -> Spelling:
    return Spelling(option, f"{help_text} Repeatable.", metavar, read, multiple=True)


def _number(option: str, help_text: str) -> Spelling:
    return Spelling(option, f"{help_text}, 1 or more.", "N", _limit, kind=int)


def _word(option: str, words: str, help_text: str) -> Spelling:
    return Spelling(option, help_text, words, str)


def _flag(option: str, help_text: str) -> Spelling:
    return Spelling(option, help_text, None, bool)


#: Every field. An option may also be spelled as its field's name: ``--rate-limit-rpm``.
SPELLINGS: Final[Mapping[str, Spelling]] = {
    "allowed_methods": _list("--allowed-method", "METHOD", "A method that may be used."),
    "allowed_endpoints": _list(
        "--allowed-endpoint",
        "PATH",
        "A path that may be requested; `*` is one segment, a last `**` the rest.",
    ),
    "allowed_models": _list(
        "--allowed-model", "GLOB", "A model that may be requested, such as 'gpt-4o*'."
    ),
    "allowed_params": _list(
        "--allowed-param",
        "NAME=GLOB",
        "What a parameter of the JSON body may be; `NAME=`: it must not be there.",
        _params,
    ),
    "allowed_ips": _list("--allowed-ip", "CIDR", "An address or range that clients come from."),
    "allowed_origins": _list(
        "--allowed-origin", "ORIGIN", "A web page's origin, such as https://app.example.com."
    ),
    "required_headers": _list(
        "--required-header",
        "NAME[=GLOB]",
        "A header that must be there, and what it may be.",
        _headers,
    ),
    "forwarded_headers": _list(
        "--forwarded-header",
        "GLOB",
        "A request header that may go upstream; '' for none.",
        _entries_or_none,
    ),
    "rate_limit_rpm": _number("--rpm", "Requests a minute"),
    "rate_limit_tpm": _number("--tpm", "LLM tokens a minute"),
    "max_concurrent": _number("--max-concurrent", "Requests in flight at once"),
    "max_tokens_total": _number("--max-tokens-total", "LLM tokens over its whole life"),
    "can_mint": _flag("--can-mint", "Whether it may mint tokens of its own: `token derive`."),
    "on_disconnect": _word(
        "--on-disconnect",
        "cancel|drain|hold",
        "When a client leaves early: cancel the upstream's work (the default), drain its response,"
        " so that the usage is known, or hold it for a moment, so that a retry takes it over.",
    ),
    "on_revoke": _word(
        "--on-revoke",
        "cut|finish",
        "When a token is revoked or expires: cut its responses in flight (the default), or let"
        " them finish.",
    ),
    "cut_in_flight": _flag(
        "--cut-in-flight", "Whether responses in flight are cut when max_tokens_total is used up."
    ),
    "stream_usage": _word(
        "--stream-usage",
        "off|inject",
        "Ask for the usage of streamed chats that do not (inject), unseen by the client.",
    ),
    "base_url": Spelling(
        "--upstream-base-url",
        "The upstream of this project's own key, instead of the default one.",
        "URL",
        str,
        also_by_name=False,  # --base-url is where the proxy is
    ),
    "providers": _list(
        "--provider", "NAME", "A shared provider that it may use; '*' for all of them."
    ),
    "max_retries": Spelling(
        "--max-retries",
        "Further attempts at its own upstream; none by default.",
        "0-10",
        int,
        kind=int,
    ),
    "breaker": _word(
        "--breaker", "off|on", "Whether its own upstream has a circuit breaker, which is off."
    ),
    "cache": _word(
        "--cache",
        "off|opt_in|on",
        "Whether responses are stored and replayed: never, for requests that ask for it, or for"
        " all. A token can only narrow its project's.",
    ),
    "cache_scope": _word(
        "--cache-scope",
        "project|token",
        "Who may get a stored response: all tokens of the project (the default), or its own alone.",
    ),
    "coalesce": _word(
        "--coalesce", "off|on", "Whether identical requests at the same time share one response."
    ),
    "idempotency": _word(
        "--idempotency", "off|on", "Whether a request with an `Idempotency-Key` is paid for once."
    ),
}


Command = Callable[..., None]


def policy_options(
    scope: Scope, *, also: Sequence[str] = (), removable: bool = False
) -> Callable[[Command], Command]:
    """Adds the argument ``policy`` to a command: the fields as the management API takes them.

    ``also``: other fields that a file may hold. ``removable``: adds ``--unset``.
    """
    fields = {name: SPELLINGS[name] for name in fields_of(scope)}

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(
            *, policy_file: BinaryIO | None, unset: Sequence[str] = (), **options: Any
        ) -> None:
            given = {name: options.pop(name) for name in fields}
            policy = _from_file(policy_file, scope, also) if policy_file else {}
            chosen = {
                name: _value(name, value, scope)
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
                    help=f"Remove a rule. Repeatable. One of: {', '.join(names)}.",
                )
            )
        made: Command = command
        for option in reversed(wanted):
            made = option(made)
        return made

    return decorate


class _FieldName(click.ParamType[str]):
    """Finds a field by its name or its option's: ``allowed_models``, ``allowed-model``, ``rpm``."""

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


def show(value: Mapping[str, Any], scope: Scope) -> None:
    """Prints a project or a token for people: its rules last, the unset ones on one line."""
    rules = [name for name in fields_of(scope) if name in value]
    shown = {name: content for name, content in value.items() if name not in rules}
    shown |= {name: _words(value[name]) for name in rules if value[name] is not None}
    if free := [name for name in rules if value[name] is None]:
        shown["(not set)"] = ", ".join(free)
    output.record(shown)


def _plain(spelled: str) -> str:
    return spelled.removeprefix("--").replace("-", "_")


def _option(name: str, spelling: Spelling) -> Callable[[Command], Command]:
    """Returns the option and, if that differs, the field's name as an option."""
    by_name = [f"--{name.replace('_', '-')}"] if spelling.also_by_name else []
    spelled = dict.fromkeys((spelling.option, *by_name))
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


def _value(name: str, given: Any, scope: Scope) -> Any:
    spelling = SPELLINGS[name]
    try:
        return fields_of(scope)[name].read(name, spelling.read(given))
    except (ClientError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint=spelling.option) from error


def _from_file(file: BinaryIO, scope: Scope, also: Sequence[str]) -> dict[str, Any]:
    """Keeps null, which removes a rule in a change."""
    fields = fields_of(scope)
    try:
        try:
            found = orjson.loads(file.read())
        except orjson.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from error
        if not isinstance(found, dict):
            raise ValueError("expected a JSON object of policy fields")  # noqa: TRY004
        if unknown := sorted(found.keys() - fields.keys() - set(also)):
            raise ValueError(f"not a policy field of a {scope}: {unknown[0]!r}")
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
        # The empty pattern must be visible: it admits requests without a model.
        return ", ".join(str(entry) or "''" for entry in value) or "none"
    return value
