"""``manage.py token``: access tokens, through the management API.

The secret is shown once, by ``mint``; every other command knows the id and the mask.
"""

import sys
from typing import Any

import click

from proxy.cli import output
from proxy.cli.client import Api, management_command, segment

_COLUMNS = {
    "id": "ID",
    "token": "Token",
    "name": "Name",
    "project_id": "Project ID",
    "expires_at": "Expires",
    "is_active": "Active",
    "requests": "Requests",
}


@click.group()
def token() -> None:
    """Access tokens: what clients send instead of the real key."""


@token.command()
@click.option("--project-id", required=True)
@click.option(
    "--duration",
    "duration_minutes",
    type=click.IntRange(min=1),
    default=1440,
    show_default=True,
    help="Minutes until it expires.",
)
@click.option("--max-requests", type=click.IntRange(min=0), help="Requests it is good for.")
@click.option("--name", help="What it is for.")
@click.option("--raw", is_flag=True, help="Print the token alone.")
@management_command
@output.json_option
def mint(api: Api, raw: bool, json_wanted: bool, **fields: Any) -> None:
    """Mint an access token. Its secret is shown this once."""
    body = {field: value for field, value in fields.items() if value is not None}
    minted = api.call("POST", "/manage/tokens", body)
    if raw:
        click.echo(minted["token"])
    elif json_wanted:
        output.as_json(minted)
    else:
        output.record(minted)
        click.echo("\nThe token is shown this once.", err=True)


token.add_command(mint, "generate")


@token.command("list")
@click.option("--project-id", help="Of this project only.")
@click.option("--active", is_flag=True, help="Only those that nobody revoked.")
@management_command
@output.json_option
def list_tokens(api: Api, project_id: str | None, active: bool, json_wanted: bool) -> None:
    """Access tokens, newest first."""
    query = {"project_id": project_id} if project_id else {}
    found = api.list("/manage/tokens", **query, **({"active": "true"} if active else {}))
    if json_wanted:
        output.as_json(found)
    else:
        output.table([{**item, "requests": _requests(item)} for item in found], _COLUMNS)


@token.command()
@click.argument("token_id")
@management_command
@output.json_option
def get(api: Api, token_id: str, json_wanted: bool) -> None:
    """One access token, by its id."""
    found = api.call("GET", f"/manage/tokens/{segment(token_id)}")
    output.as_json(found) if json_wanted else output.record(found)


@token.command()
@click.argument("which", metavar="ID_OR_TOKEN")
@management_command
@output.json_option
def revoke(api: Api, which: str, json_wanted: bool) -> None:
    """Revoke an access token, by its id, or by the secret (`-` reads that from stdin)."""
    if which == "-":
        which = sys.stdin.readline().strip()
    if which.startswith("sk-"):
        api.call("DELETE", "/manage/tokens", {"token": which})
        shown = f"{which[:7]}..."
    else:
        api.call("DELETE", f"/manage/tokens/{segment(which)}")
        shown = which
    output.as_json({"revoked": shown}) if json_wanted else click.echo(f"Revoked {shown}.")


def _requests(item: dict[str, Any]) -> str:
    """``3``, or ``3/100`` when there is a limit."""
    limit = item.get("max_requests")
    return f"{item.get('request_count', 0)}{f'/{limit}' if limit else ''}"
