"""How each policy field is spelled on the command line, and what it is good for.

Which fields there are, where each may stand and what it may be, ``proxy.policy.fields`` says. The
thing to get wrong: an empty value, as an unset variable of a shell leaves it, must never become "no
limit". It is refused, here or by the field.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Spelling:
    """``read``: what was given → the field's value; of the repeatable ones, all of it at once."""

    option: str
    help: str
    metavar: str | None
    read: Callable[[Any], Any]
    multiple: bool = False
    kind: type | None = None


def _entries(values: Sequence[str]) -> list[str]:
    if "" in values:
        raise ValueError(
            "empty; without the option there is no rule, `update --unset` takes one away,"
            " a --policy file may hold empty patterns"
        )
    return list(values)


def _entries_or_none(values: Sequence[str]) -> list[str]:
    return [] if list(values) == [""] else _entries(values)


def _limit(value: int) -> int:
    if value < 1:
        raise ValueError(
            f"{value} is less than 1; without the option there is no limit,"
            " `update --unset` takes one away"
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


#: Every field. Each option may be written as its field's own name, too: ``--rate-limit-rpm``.
SPELLINGS: Final[Mapping[str, Spelling]] = {
    "allowed_methods": _list("--allowed-method", "METHOD", "A method that may be used."),
    "allowed_endpoints": _list(
        "--allowed-endpoint",
        "PATH",
        "A path that may be asked for; `*` is one segment, a last `**` the rest.",
    ),
    "allowed_models": _list(
        "--allowed-model", "GLOB", "A model that may be asked for, such as 'gpt-4o*'."
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
    "max_concurrent": _number("--max-concurrent", "Requests under way at once"),
    "max_tokens_total": _number("--max-tokens-total", "LLM tokens over its whole life"),
    "can_mint": _flag("--can-mint", "Whether it may mint tokens of its own: `token derive`."),
    "on_disconnect": _word(
        "--on-disconnect",
        "cancel|drain",
        "When a client leaves early: cancel the upstream's work (the default), or drain its answer,"
        " so that the usage is known.",
    ),
    "on_revoke": _word(
        "--on-revoke",
        "cut|finish",
        "When a token is revoked or expires: cut what is under way (the default), or let it"
        " finish.",
    ),
    "cut_in_flight": _flag(
        "--cut-in-flight", "Whether answers under way are cut when max_tokens_total is used up."
    ),
    "stream_usage": _word(
        "--stream-usage",
        "off|inject",
        "Ask for the usage of streamed chats that do not (inject), unseen by the client.",
    ),
}
