"""``manage.py usage``: usage and its cost per group, through the management API.

The server computes the sums. The table has names and the total; ``--csv`` also has the ids and no
total, so that a spreadsheet can add up.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from proxy.cli import output
from proxy.cli.client import Api, management_command

#: Group → the fields that it adds to a row.
_KEYS: Final[Mapping[str, Sequence[str]]] = {
    "project": ("project_id", "project_name"),
    "token": ("token_id", "token", "token_name"),
    "model": ("model",),
    "hour": ("hour",),
}
_COUNTS: Final[Mapping[str, str]] = {
    "requests": "Requests",
    "errors": "Errors",
    "prompt_tokens": "Prompt",
    "cached_tokens": "Cached",
    "completion_tokens": "Completion",
    "reasoning_tokens": "Reasoning",
}
#: Shown in the table only where the response cache has served something.
_SAVED: Final[Mapping[str, str]] = {
    "cache_hits": "Cache hits",
    "saved_prompt_tokens": "Saved prompt",
    "saved_completion_tokens": "Saved completion",
}


@click.command()
@click.option("--from", "from_", metavar="TIME", help="A date or an RFC 3339 time. [default: 24 h]")
@click.option("--to", metavar="TIME", help="The same; not included. [default: now]")
@click.option(
    "--group-by",
    metavar="WORDS",
    help="Some of project,token,model,hour, in the order to sort by. [default: project]",
)
@click.option("--project-id", help="Of this project only.")
@click.option("--token-id", help="Of this access token only.")
@click.option("--model", help="Of this model only.")
@click.option("--csv", "csv_wanted", is_flag=True, help="Print CSV, for spreadsheets.")
@management_command
@output.json_option
def usage(api: Api, csv_wanted: bool, json_wanted: bool, **chosen: str | None) -> None:
    """What was used, summed up per project, access token, model or hour."""
    if csv_wanted and json_wanted:
        raise click.UsageError("--csv or --json, not both")
    query = {name.rstrip("_"): value for name, value in chosen.items() if value is not None}
    report = api.call("GET", "/manage/usage", **query)
    if json_wanted:
        output.as_json(report)
    elif csv_wanted:
        _write_csv(report)
    else:
        _show(report)


def _show(report: Mapping[str, Any]) -> None:
    """Prints names, which fit a screen, and ids only where the name no longer exists."""
    totals, currency = report["totals"], report["currency"]
    columns = {**{name: name.capitalize() for name in report["group_by"]}, **_COUNTS}
    if currency:
        columns["cost"] = f"Cost ({currency})"
    if totals.get("cache_hits"):
        columns |= _SAVED
        if currency:
            columns["saved_cost"] = f"Saved ({currency})"
    rows = [
        {
            **row,
            "project": row.get("project_name") or row.get("project_id"),
            "token": row.get("token_name") or row.get("token") or row.get("token_id"),
        }
        for row in report["rows"]
    ]
    names = dict.fromkeys(report["group_by"], "") | {report["group_by"][0]: "TOTAL"}
    output.table([*rows, {**totals, **names}], columns)
    click.echo(f"{report['from']} to {report['to']}", err=True)
    if currency and totals["unpriced_tokens"]:
        click.echo(f"{totals['unpriced_tokens']} tokens have no price.", err=True)
    estimated = sum(totals.get(f"estimated_{side}_tokens", 0) for side in ("prompt", "completion"))
    if estimated:
        click.echo(f"{estimated} tokens were estimated; they are not in these sums.", err=True)


def _write_csv(report: Mapping[str, Any]) -> None:
    names = [name for group in report["group_by"] for name in _KEYS[group]]
    names += [*_COUNTS, "cost", "unpriced_tokens", *_SAVED, "saved_cost"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(report["rows"])
    click.echo(text.getvalue(), nl=False)
