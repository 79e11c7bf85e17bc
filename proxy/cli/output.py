"""The output of commands: tables for people, JSON for scripts.

Identifiers are never truncated: a table that goes into a pipe is as wide as necessary, or ``grep``
would find half an id.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
import orjson
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from proxy.cli.encoding import is_unicode

#: Adds the argument ``json_wanted`` to a command.
json_option = click.option("--json", "json_wanted", is_flag=True, help="Print JSON, for scripts.")

#: Wide enough for every column where no terminal limits the width.
_PIPE_WIDTH = 250


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def as_json(value: Any) -> None:
    """Prints JSON, with escapes if stdout is not UTF-8, so that the content is the same."""
    document = orjson.dumps(value, option=orjson.OPT_INDENT_2)
    if is_unicode(sys.stdout):
        click.echo(document.decode())
    else:
        click.echo(json.dumps(orjson.loads(document), indent=2))


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Prints a table. ``columns`` maps fields to headings. Ids and times do not wrap.

    Where a terminal is too narrow for that, each row is printed as a record of its own: columns
    that do not fit would be cut or left out.
    """
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for field, heading in columns.items():
        grid.add_column(heading, no_wrap=field.endswith(("id", "_at")), overflow="fold")
    for row in rows:
        grid.add_row(*(text(row.get(field)) for field in columns))
    screen = console()
    unbounded = screen.options.update(max_width=_PIPE_WIDTH)
    if Measurement.get(screen, unbounded, grid).minimum <= screen.width:
        screen.print(grid)
        return
    for number, row in enumerate(rows):
        if number:
            click.echo()
        record({heading: row.get(field) for field, heading in columns.items()})


def record(value: Mapping[str, Any]) -> None:
    """Prints one object, a field a line."""
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for field, content in value.items():
        grid.add_row(field, text(content))
    console().print(grid)


def text(value: Any) -> str:
    """Returns a JSON value as text for people. Brackets are escaped, which rich would take for
    markup, and so are control characters, which a terminal would obey."""
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
