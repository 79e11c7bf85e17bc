"""``manage.py cache``: figures of the response cache, and purges, through the management API."""

from collections.abc import Mapping
from typing import Final

import click

from proxy.cli import output
from proxy.cli.client import Api, management_command

_ENTRIES: Final[Mapping[str, str]] = {
    "key": "Key",
    "project_id": "Project",
    "method": "Method",
    "path": "Path",
    "bytes": "Bytes",
    "hits": "Hits",
    "stored_at": "Stored",
    "expires_at": "Expires",
}
#: Lists of entries, which get tables of their own → headings.
_LISTS: Final[Mapping[str, str]] = {"largest": "Largest", "most_hit": "Most hit"}


@click.group()
def cache() -> None:
    """The response cache: its figures, and purges."""


@cache.command()
@management_command
@output.json_option
def stats(api: Api, json_wanted: bool) -> None:
    """Figures of the node that responds, and its top responses."""
    found = api.call("GET", "/manage/cache")
    if json_wanted:
        output.as_json(found)
        return
    output.record({name: value for name, value in found.items() if name not in _LISTS})
    for name, heading in _LISTS.items():
        if found[name]:
            click.echo(f"\n{heading}:")
            output.table(found[name], _ENTRIES)


@cache.command()
@click.option("--project-id", help="Of this project only.")
@click.option("--method", help="Of this HTTP method only.")
@click.option("--url", metavar="TARGET", help="Of this request target, with its query.")
@click.option("--prefix", metavar="TARGET", help="Of request targets that begin so.")
@click.option("--cache-key", "key", help="The one with this X-Cache-Key.")
@click.option("--all", "all_wanted", is_flag=True, help="All responses of all projects.")
@management_command
@output.json_option
def purge(api: Api, all_wanted: bool, json_wanted: bool, **chosen: str | None) -> None:
    """Delete stored responses on all nodes.

    Those that match all that is given.
    """
    body = {name: value for name, value in chosen.items() if value is not None}
    if all_wanted == bool(body):
        raise click.UsageError(
            "say what to purge: --all, or some of --project-id, --method, --url, --prefix,"
            " --cache-key"
        )
    if all_wanted:
        found = api.call("DELETE", "/cache")
    else:
        found = api.call("POST", "/manage/cache/purge", body)
    output.as_json(found) if json_wanted else click.echo(f"{found['deleted']} responses purged.")
