"""``manage.py provider-key``: the upstream keys of providers, through the management API.

A key is read without echo, or from stdin with ``--value -``, so that it need not be in the shell's
history. The server returns only its mask.
"""

from typing import Any, Final

import click

from proxy.cli import output
from proxy.cli.client import Api, management_command
from proxy.cli.provider import PATH as PROVIDERS
from proxy.cli.secret_option import SecretOption, read_secret

PATH: Final = "/manage/keys"
# Without ids, for which a terminal is too narrow: all commands take PROVIDER/NAME too.
_COLUMNS: Final = {
    "provider": "Provider",
    "name": "Name",
    "value": "Key",
    "weight": "Weight",
    "models": "Models",
    "requests": "OK/failed",
    "state": "State",
}
_which_argument = click.argument("which", metavar="ID_OR_PROVIDER/NAME")
_value_option = click.option(
    "--value",
    cls=SecretOption,
    better="`--value -`, which reads it from stdin",
    metavar="KEY",
    help="The upstream key; `-` reads it from stdin.",
)
_weight_option = click.option(
    "--weight",
    type=click.IntRange(min=0),
    help="Its share beside the provider's other keys; 0: only while no other is left.",
)
_models_option = click.option(
    "--model",
    "models",
    multiple=True,
    metavar="GLOB",
    help="A model of the upstream that it is for, such as 'gpt-4o*'. Repeatable.",
)
_active_option = click.option(
    "--active/--inactive", "is_active", default=None, help="Switch it on or off."
)


@click.group("provider-key")
def provider_key() -> None:
    """Keys of providers. A project's own key belongs to the project instead."""


@provider_key.command("list")
@click.option("--provider", metavar="ID_OR_NAME", help="Of this provider only.")
@management_command
@output.json_option
def list_keys(api: Api, provider: str | None, json_wanted: bool) -> None:
    """Keys, by name."""
    query = {} if provider is None else {"provider_id": api.id_of(PROVIDERS, provider)}
    found = api.list(PATH, **query)
    if json_wanted:
        output.as_json(found)
    else:
        output.table([_for_people(key) for key in found], _COLUMNS)


@provider_key.command()
@_which_argument
@management_command
@output.json_option
def get(api: Api, which: str, json_wanted: bool) -> None:
    """One key."""
    _show(api.call("GET", f"{PATH}/{_id_of(api, which)}"), json_wanted)


@provider_key.command()
@click.option("--provider", required=True, metavar="ID_OR_NAME")
@click.option("--name", required=True, help="Unique among the provider's keys.")
@_value_option
@_weight_option
@_models_option
@_active_option
@click.option("--raw", is_flag=True, help="Print its id alone.")
@management_command
@output.json_option
def create(
    api: Api,
    provider: str,
    value: str | None,
    models: tuple[str, ...],
    raw: bool,
    json_wanted: bool,
    **fields: Any,
) -> None:
    """A new key. Without --value it is asked for, without echo."""
    body = {name: given for name, given in fields.items() if given is not None}
    body["value"] = _secret(value or None)
    body["provider_id"] = api.id_of(PROVIDERS, provider)
    if models:
        body["models"] = list(models)
    created = api.call("POST", PATH, body)
    click.echo(created["id"]) if raw else _show(created, json_wanted)


@provider_key.command()
@_which_argument
@click.option("--name", help="Unique among the provider's keys.")
@_value_option
@_weight_option
@_models_option
@click.option("--all-models", is_flag=True, help="It is for every model.")
@_active_option
@management_command
@output.json_option
def update(
    api: Api,
    which: str,
    value: str | None,
    models: tuple[str, ...],
    all_models: bool,
    json_wanted: bool,
    **fields: Any,
) -> None:
    """Change a key: only what is given. A new --value keeps its id and history."""
    body = {name: given for name, given in fields.items() if given is not None}
    if models and all_models:
        raise click.UsageError("--model or --all-models, not both")
    if models or all_models:
        body["models"] = list(models)
    if value is not None:
        body["value"] = _secret(value)
    if not body:
        raise click.UsageError("nothing to change: give --name, --value, --weight, …")
    _show(api.call("PATCH", f"{PATH}/{_id_of(api, which)}", body), json_wanted)


@provider_key.command()
@_which_argument
@management_command
@output.json_option
def delete(api: Api, which: str, json_wanted: bool) -> None:
    """Delete a key. `update --inactive` only switches it off."""
    known_id = _id_of(api, which)
    api.call("DELETE", f"{PATH}/{known_id}")
    output.as_json({"deleted": known_id}) if json_wanted else click.echo(f"Deleted {known_id}.")


@provider_key.command()
@_which_argument
@management_command
@output.json_option
def reset(api: Api, which: str, json_wanted: bool) -> None:
    """End its cooldowns on all nodes, so that it is tried again at once."""
    _show(api.call("POST", f"{PATH}/{_id_of(api, which)}/reset"), json_wanted)


def _secret(given: str | None) -> str:
    return read_secret(given, "upstream API key", "--value")


def _show(found: dict[str, Any], json_wanted: bool) -> None:
    if json_wanted:
        output.as_json(found)
    else:
        output.record({**found, "models": _models(found)})


def _id_of(api: Api, which: str) -> str:
    provider, slash, name = which.partition("/")
    if not slash:
        return api.id_of(PATH, which)
    return api.id_of(PATH, name, provider_id=api.id_of(PROVIDERS, provider))


def _for_people(key: dict[str, Any]) -> dict[str, Any]:
    counts = f"{key['success_count']}/{key['failure_count']}"
    return {**key, "models": _models(key), "requests": counts, "state": _state(key)}


def _state(key: dict[str, Any]) -> str:
    """Returns what is to be known of a key in a table: ``off``, ``cooling until … (429)``."""
    state: str = key["health"] if key["is_active"] else "off"
    if key["cooling_until"]:
        state += f" until {key['cooling_until'][:19]}Z ({key['last_status']})"
    return f"{state}, from file" if key["source"] == "file" else state


def _models(key: dict[str, Any]) -> str:
    return ", ".join(key["models"]) or "all"
