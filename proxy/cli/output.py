"""What commands print: tables for people, JSON for scripts.

Identifiers are never cut short: a table that goes into a pipe is as wide as it needs to be, or
``grep`` would find half an id.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table

from proxy.cli.encoding import is_unicode

#: Gives a command the argument ``json_wanted``.
json_option = click.option("--json", "json_wanted", is_flag=True, help="Print JSON, for scripts.")

#: Wide enough for every column of ours when nobody's terminal limits it.
_PIPE_WIDTH = 250


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def as_json(value: Any) -> None:
    """Print JSON; on a stdout that is not UTF-8 with escapes, so that it says the same."""
    document = orjson.dumps(value, option=orjson.OPT_INDENT_2)
    if is_unicode(sys.stdout):
        click.echo(document.decode())
    else:
        click.echo(json.dumps(orjson.loads(document), indent=2))


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """``rows`` as a table; ``columns`` maps a field to its heading. Ids and times do not wrap."""
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for field, heading in columns.items():
        grid.add_column(heading, no_wrap=field.endswith(("id", "_at")), overflow="fold")
    for row in rows:
        grid.add_row(*(text(row.get(field)) for field in columns))
    console().print(grid)


def record(value: Mapping[str, Any]) -> None:
    """One thing, a field a line."""
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for field, content in value.items():
        grid.add_row(field, text(content))
    console().print(grid)


def text(value: Any) -> str:
    """A JSON value as a person reads it. Brackets are escaped: rich would take them for markup;
    and so is what a terminal would obey."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        value = orjson.dumps(value).decode()
    plain = "".join(
        one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in str(value)
    )
    return plain.replace("[", "\\[")


def compact(value: Any) -> str:
    return orjson.dumps(value).decode()
