"""``manage.py project``: projects, through the management API.

The upstream key is read without echo, or from stdin with ``--api-key -``, so that it need not be in
the shell's history. The server returns only its mask.
"""

from typing import Any

import click

from proxy.cli import output
from proxy.cli.client import Api, management_command, segment
from proxy.cli.policy_options import policy_options, show
from proxy.cli.secret_option import SecretOption, read_secret

_COLUMNS = {
    "id": "ID",
    "name": "Name",
    "api_key": "API key",
    "is_active": "Active",
    "created_at": "Created",
}
_api_key_option = click.option(
    "--api-key",
    "--openai-key",
    "api_key",
    cls=SecretOption,
    better="`--api-key -`, which reads it from stdin",
    metavar="KEY",
    help="The upstream key; `-` reads it from stdin.",
)


@click.group()
def project() -> None:
    """Projects: each holds an upstream key or names providers, and has access tokens."""


@project.command("list")
@management_command
@output.json_option
def list_projects(api: Api, json_wanted: bool) -> None:
    """All projects, by name."""
    found = api.list("/manage/projects")
    output.as_json(found) if json_wanted else output.table(found, _COLUMNS)


@project.command()
@click.argument("project_id")
@management_command
@output.json_option
def get(api: Api, project_id: str, json_wanted: bool) -> None:
    """One project."""
    _show(api.call("GET", f"/manage/projects/{segment(project_id)}"), json_wanted)


@project.command()
@click.option("--name", required=True)
@_api_key_option
@click.option("--description")
@click.option("--raw", is_flag=True, help="Print its id alone.")
@policy_options("project")
@management_command
@output.json_option
def create(
    api: Api,
    name: str,
    api_key: str | None,
    description: str | None,
    raw: bool,
    policy: dict[str, Any],
    json_wanted: bool,
) -> None:
    """A new project. Without --api-key the command prompts for the key, without echo, unless the
    project uses shared providers."""
    body = policy | {"name": name}
    if api_key is not None or not policy.get("providers"):
        body["api_key"] = _secret(api_key or None)
    if description is not None:
        body["description"] = description
    created = api.call("POST", "/manage/projects", body)
    click.echo(created["id"]) if raw else _show(created, json_wanted)


@project.command()
@click.argument("project_id")
@click.option("--name")
@_api_key_option
@click.option("--description")
@click.option("--active/--inactive", "is_active", default=None, help="Switch it on or off.")
@policy_options("project", removable=True)
@management_command
@output.json_option
def update(
    api: Api, project_id: str, policy: dict[str, Any], json_wanted: bool, **changes: Any
) -> None:
    """Change a project: only what is given. A rule is replaced as a whole."""
    body = policy | {field: value for field, value in changes.items() if value is not None}
    if not body:
        raise click.UsageError("nothing to change: give --name, --api-key, --description, …")
    if "api_key" in body:
        body["api_key"] = _secret(body["api_key"])
    _show(api.call("PATCH", f"/manage/projects/{segment(project_id)}", body), json_wanted)


@project.command()
@click.argument("project_id")
@click.option("--revoke-tokens", is_flag=True, help="Revoke all its access tokens, too.")
@management_command
@output.json_option
def deactivate(api: Api, project_id: str, revoke_tokens: bool, json_wanted: bool) -> None:
    """Switch a project off: its tokens stop working. `update --active` undoes it."""
    body = {"is_active": False} | ({"revoke_tokens": True} if revoke_tokens else {})
    _show(api.call("PATCH", f"/manage/projects/{segment(project_id)}", body), json_wanted)


def _show(value: Any, json_wanted: bool) -> None:
    output.as_json(value) if json_wanted else show(value, "project")


def _secret(given: str | None) -> str:
    return read_secret(given, "upstream API key", "--api-key")
