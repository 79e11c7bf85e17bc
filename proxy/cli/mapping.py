"""``manage.py mapping``: which models an alias stands for, through the management API."""

from typing import Any, Final
from urllib.parse import quote

import click

from proxy.cli import output
from proxy.cli.client import Api, management_command, segment
from proxy.cli.config_options import config_options, config_text
from proxy.cli.provider import PATH as PROVIDERS

PATH: Final = "/manage/mappings"
_COLUMNS: Final = {
    "alias_name": "Alias",
    "order_index": "Order",
    "target": "Target",
    "weight": "Weight",
    "notes": "Notes",
    "id": "ID",
}
_order_option = click.option(
    "--order",
    "order_index",
    type=click.IntRange(min=0),
    help="Targets of an alias are tried in this order; equal ones are chosen by weight.",
)
_weight_option = click.option(
    "--weight", type=click.IntRange(min=0), help="Its share among targets of the same order."
)
_default_option = click.option(
    "--default/--no-default",
    "is_default",
    default=None,
    help="Whether its alias serves models that nothing else names. It replaces the one before.",
)


@click.group()
def mapping() -> None:
    """Mappings: aliases of models, each with one or more targets."""


@mapping.command("list")
@click.option("--alias", help="Of this alias only.")
@click.option("--provider", metavar="ID_OR_NAME", help="To this provider only.")
@management_command
@output.json_option
def list_mappings(api: Api, alias: str | None, provider: str | None, json_wanted: bool) -> None:
    """Mappings by alias, the targets of each in their order."""
    query = {} if alias is None else {"alias": alias}
    if provider is not None:
        query["provider_id"] = api.id_of(PROVIDERS, provider)
    _table(api.list(PATH, **query), json_wanted)


@mapping.command()
@click.argument("mapping_id")
@management_command
@output.json_option
def get(api: Api, mapping_id: str, json_wanted: bool) -> None:
    """One mapping, by its id."""
    _show(api.call("GET", f"{PATH}/{segment(mapping_id)}"), json_wanted)


@mapping.command("set", short_help="Give an alias exactly these targets, in this order.")
@click.argument("alias")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@management_command
@output.json_option
def set_targets(api: Api, alias: str, targets: tuple[str, ...], json_wanted: bool) -> None:
    """Give an alias exactly these targets, in this order. A TARGET is PROVIDER/MODEL.

    Weights, configs and the default of its earlier targets are gone; `create` and `update` set
    them.
    """
    body = [_target(target) for target in targets]
    _table(api.call("PUT", f"{PATH}/{_alias_path(alias)}", body), json_wanted)


@mapping.command()
@click.option("--alias", "alias_name", required=True, help="A model name, or a glob of names.")
@click.option("--provider", required=True, metavar="ID_OR_NAME")
@click.option("--model", "provider_model_name", required=True, help="The provider's name of it.")
@_order_option
@_weight_option
@_default_option
@config_options
@click.option("--raw", is_flag=True, help="Print its id alone.")
@management_command
@output.json_option
def create(api: Api, provider: str, raw: bool, json_wanted: bool, **fields: Any) -> None:
    """A further target of an alias. `set` replaces all of them at once."""
    body = {name: value for name, value in fields.items() if value is not None}
    body["provider_id"] = api.id_of(PROVIDERS, provider)
    created = api.call("POST", PATH, body)
    click.echo(created["id"]) if raw else _show(created, json_wanted)


@mapping.command()
@click.argument("mapping_id")
@click.option("--alias", "alias_name", help="A model name, or a glob of names.")
@click.option("--provider", metavar="ID_OR_NAME")
@click.option("--model", "provider_model_name", help="The provider's name of it.")
@_order_option
@_weight_option
@_default_option
@config_options
@management_command
@output.json_option
def update(
    api: Api, mapping_id: str, provider: str | None, json_wanted: bool, **fields: Any
) -> None:
    """Change a mapping: only what is given. Other members of its config stay."""
    body = {name: value for name, value in fields.items() if value is not None}
    if provider is not None:
        body["provider_id"] = api.id_of(PROVIDERS, provider)
    if not body:
        raise click.UsageError("nothing to change: give --model, --order, --weight, …")
    _show(api.call("PATCH", f"{PATH}/{segment(mapping_id)}", body), json_wanted)


@mapping.command()
@click.argument("mapping_id")
@management_command
@output.json_option
def delete(api: Api, mapping_id: str, json_wanted: bool) -> None:
    """Delete one mapping. An alias without any is unknown again."""
    api.call("DELETE", f"{PATH}/{segment(mapping_id)}")
    output.as_json({"deleted": mapping_id}) if json_wanted else click.echo(f"Deleted {mapping_id}.")


def _target(target: str) -> dict[str, str]:
    provider, slash, model = target.partition("/")
    if not (provider and slash and model):
        raise click.BadParameter(
            f"{target!r}: expected PROVIDER/MODEL, such as openai/gpt-4.1", param_hint="TARGET"
        )
    return {"provider": provider, "provider_model_name": model}


def _alias_path(alias: str) -> str:
    """Returns the end of the path. An alias may contain `/`, but no segment that is only dots."""
    if any(not part.strip(".") for part in alias.split("/")):
        raise click.BadParameter("expected a model name", param_hint="ALIAS")
    return quote(alias, safe="/")


def _show(found: dict[str, Any], json_wanted: bool) -> None:
    if json_wanted:
        output.as_json(found)
    else:
        output.record({**found, "config": config_text(found["config"]) or None})


def _table(found: list[dict[str, Any]], json_wanted: bool) -> None:
    if json_wanted:
        output.as_json(found)
    else:
        output.table([_for_people(each) for each in found], _COLUMNS)


def _for_people(found: dict[str, Any]) -> dict[str, Any]:
    notes = {
        "default": found["is_default"],
        "with config": bool(found["config"]),
        "from file": found["source"] == "file",
    }
    return {
        **found,
        "target": f"{found['provider'] or '?'}/{found['provider_model_name']}",
        "notes": ", ".join(note for note, holds in notes.items() if holds) or None,
    }
