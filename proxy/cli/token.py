"""``manage.py token``: access tokens, through the management API.

The secret is shown once, by ``mint`` and ``derive``; all other commands use the id and the mask.
Only ``derive`` calls ``/v1``, with an access token: its user has no management token.
"""

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from proxy.cli import output
from proxy.cli.client import (
    Api,
    base_url,
    base_url_option,
    bearer,
    default_base_url,
    management_command,
    segment,
)
from proxy.cli.policy_options import Command, policy_options, show
from proxy.cli.secret_option import SecretOption

_COLUMNS = {
    "id": "ID",
    "token": "Token",
    "name": "Name",
    "project_id": "Project ID",
    "expires_at": "Expires",
    "is_active": "Active",
    "requests": "Requests",
}
#: A year, the longest life of a token.
_MAX_MINUTES: Final = 525_600

_max_requests_option = click.option(
    "--max-requests", type=click.IntRange(min=0), help="Requests it is good for; 0: no limit."
)
_name_option = click.option("--name", help="What it is for.")


def _new_token(minutes: int, lives: str) -> Callable[[Command], Command]:
    """Adds the options of a command that makes a token, which by default lives for ``minutes``."""
    duration = click.option(
        "--duration",
        "duration_minutes",
        type=click.IntRange(min=1),
        default=minutes,
        show_default=True,
        help=lives,
    )
    raw = click.option("--raw", is_flag=True, help="Print the token alone.")
    policy = policy_options("token", also=["max_requests"])

    def decorate(command: Command) -> Command:
        return duration(_max_requests_option(_name_option(raw(policy(command)))))

    return decorate


@click.group()
def token() -> None:
    """Access tokens: what clients send instead of the real key."""


@token.command()
@click.option("--project-id", required=True)
@_new_token(1440, "Minutes until it expires.")
@management_command
@output.json_option
def mint(api: Api, raw: bool, policy: dict[str, Any], json_wanted: bool, **fields: Any) -> None:
    """Mint an access token. Its secret is shown this once."""
    minted = api.call("POST", "/manage/tokens", policy | _given(fields))
    _show_secret(minted, raw, json_wanted)


token.add_command(mint, "generate")


@token.command(short_help="Mint a child from an access token with can_mint.")
@base_url_option
@click.option(
    "--token",
    "secret",
    cls=SecretOption,
    better="the variable that --token-env names",
    help="The parent; better in the environment, where `ps` does not show it.",
)
@click.option(
    "--token-env", default="PROXY_TOKEN", show_default=True, help="Variable with the parent."
)
@_new_token(5, "Minutes until it expires; never later than its parent.")
@output.json_option
def derive(
    base_url_given: str | None,
    secret: str | None,
    token_env: str,
    raw: bool,
    policy: dict[str, Any],
    json_wanted: bool,
    **fields: Any,
) -> None:
    """Mint a child from an access token that has can_mint, without the management token.

    Its parent's rules and limits apply to the child as well as its own.
    """
    parent = bearer(secret, "--token", token_env)
    where = base_url(base_url_given) if base_url_given else default_base_url()
    with Api(where, parent) as api:
        minted = api.call("POST", "/v1/proxy/tokens", policy | _given(fields))
    _show_secret(minted, raw, json_wanted)


@token.command("list")
@click.option("--project-id", help="Of this project only.")
@click.option("--parent-id", help="Minted from this access token only.")
@click.option("--active", is_flag=True, help="Only tokens that are not revoked.")
@management_command
@output.json_option
def list_tokens(api: Api, active: bool, json_wanted: bool, **chosen: str | None) -> None:
    """Access tokens, newest first."""
    query = _given(chosen) | ({"active": "true"} if active else {})
    found = api.list("/manage/tokens", **query)
    if json_wanted:
        output.as_json(found)
    else:
        columns = dict(_COLUMNS)
        if any(item.get("cache_hit_count") for item in found):
            columns["cache_hit_count"] = "Cache hits"
        output.table([{**item, "requests": _requests(item)} for item in found], columns)


@token.command()
@click.argument("token_id")
@management_command
@output.json_option
def get(api: Api, token_id: str, json_wanted: bool) -> None:
    """One access token, by its id."""
    found = api.call("GET", f"/manage/tokens/{segment(token_id)}")
    output.as_json(found) if json_wanted else show(found, "token")


@token.command()
@click.argument("token_id")
@_name_option
@_max_requests_option
@click.option(
    "--duration",
    type=click.IntRange(1, _MAX_MINUTES),
    help="Minutes from now until it expires, by the clock of this machine.",
)
@click.option("--expires-at", metavar="TIME", help="When it expires: an RFC 3339 time.")
@click.option("--active/--inactive", "is_active", default=None, help="Switch it on or off.")
@policy_options("token", also=["max_requests"], removable=True)
@management_command
@output.json_option
def update(
    api: Api,
    token_id: str,
    duration: int | None,
    policy: dict[str, Any],
    json_wanted: bool,
    **fields: Any,
) -> None:
    """Change an access token: only what is given. A rule is replaced as a whole."""
    changes = _given(fields)
    if duration is not None:
        if "expires_at" in changes:
            raise click.UsageError("--duration or --expires-at, not both")
        changes["expires_at"] = (datetime.now(UTC) + timedelta(minutes=duration)).isoformat()
    body = policy | changes
    if not body:
        raise click.UsageError("nothing to change: give --max-requests, --allowed-model, …")
    changed = api.call("PATCH", f"/manage/tokens/{segment(token_id)}", body)
    output.as_json(changed) if json_wanted else show(changed, "token")


@token.command(short_help="Revoke an access token, by its id or secret.")
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


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in fields.items() if value is not None}


def _show_secret(minted: dict[str, Any], raw: bool, json_wanted: bool) -> None:
    if raw:
        click.echo(minted["token"])
    elif json_wanted:
        output.as_json(minted)
    else:
        show(minted, "token")
        click.echo("\nThe token is shown this once.", err=True)


def _requests(item: dict[str, Any]) -> str:
    """Returns ``3``, or ``3/100`` if there is a limit."""
    limit = item.get("max_requests")
    return f"{item.get('request_count', 0)}{f'/{limit}' if limit else ''}"
