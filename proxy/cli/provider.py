"""``manage.py provider``: services with models, through the management API."""

from typing import Any, Final

import click

from proxy.cli import output
from proxy.cli.client import Api, management_command
from proxy.cli.config_options import config_options, config_text
from proxy.providers.records import PROVIDER_TYPES

PATH: Final = "/manage/providers"
# Without ids, for which a terminal is too narrow: all commands take names too.
_COLUMNS: Final = {
    "name": "Name",
    "provider_type": "Type",
    "base_url": "Base URL",
    "keys_count": "Keys",
    "state": "State",
}
_TEST_COLUMNS: Final = {
    "name": "Key",
    "ok": "OK",
    "status": "HTTP",
    "ms": "ms",
    "models_count": "Models",
    "error": "Error",
}
_NO_KEYS: Final = (
    "It has no active keys to test: `provider-key create` adds one. The types ollama and custom"
    " need none."
)
#: Seconds to wait for a test: each of many keys may take ten.
_TEST_PATIENCE: Final = 600
_TYPE: Final = click.Choice(PROVIDER_TYPES)
_URL_HELP: Final = "Its base URL, such as https://api.openai.com/v1."
_active_option = click.option(
    "--active/--inactive", "is_active", default=None, help="Switch it on or off."
)
_default_option = click.option(
    "--default/--no-default",
    "is_default",
    default=None,
    help="Whether models that nothing else names go to it. It replaces the one before.",
)
_private_option = click.option(
    "--allow-private",
    is_flag=True,
    help="Its URL may lead to a private address: `--config allow_private=true`.",
)


@click.group()
def provider() -> None:
    """Providers: services with models, with keys of their own, which projects may share."""


@provider.command("list")
@management_command
@output.json_option
def list_providers(api: Api, json_wanted: bool) -> None:
    """All providers, by name."""
    found = api.list(PATH)
    if json_wanted:
        output.as_json(found)
    else:
        output.table([{**each, "state": _state(each)} for each in found], _COLUMNS)


@provider.command()
@click.argument("which", metavar="ID_OR_NAME")
@management_command
@output.json_option
def get(api: Api, which: str, json_wanted: bool) -> None:
    """One provider."""
    _show(api.call("GET", f"{PATH}/{api.id_of(PATH, which)}"), json_wanted)


@provider.command()
@click.option("--name", required=True, help="Unique, without `/`: clients write NAME/MODEL.")
@click.option("--type", "provider_type", type=_TYPE, required=True)
# `--base-url` is where the proxy is, as in all commands.
@click.option("--url", "base_url", metavar="URL", required=True, help=_URL_HELP)
@config_options
@_private_option
@_active_option
@_default_option
@click.option("--raw", is_flag=True, help="Print its id alone.")
@management_command
@output.json_option
def create(api: Api, raw: bool, json_wanted: bool, **fields: Any) -> None:
    """A new provider. Its keys follow: `provider-key create`."""
    created = api.call("POST", PATH, _given(**fields))
    click.echo(created["id"]) if raw else _show(created, json_wanted)


@provider.command()
@click.argument("which", metavar="ID_OR_NAME")
@click.option("--name", help="Unique, without `/`: clients write NAME/MODEL.")
@click.option("--type", "provider_type", type=_TYPE)
@click.option("--url", "base_url", metavar="URL", help=_URL_HELP)
@config_options
@_private_option
@_active_option
@_default_option
@management_command
@output.json_option
def update(api: Api, which: str, json_wanted: bool, **fields: Any) -> None:
    """Change a provider: only what is given. Other members of its config stay."""
    changes = _given(**fields)
    if not changes:
        raise click.UsageError("nothing to change: give --name, --url, --config, …")
    _show(api.call("PATCH", f"{PATH}/{api.id_of(PATH, which)}", changes), json_wanted)


@provider.command()
@click.argument("which", metavar="ID_OR_NAME")
@management_command
@output.json_option
def delete(api: Api, which: str, json_wanted: bool) -> None:
    """Delete a provider and its keys. Refused while mappings use it."""
    known_id = api.id_of(PATH, which)
    api.call("DELETE", f"{PATH}/{known_id}")
    output.as_json({"deleted": known_id}) if json_wanted else click.echo(f"Deleted {known_id}.")


@provider.command()
@click.argument("which", metavar="ID_OR_NAME")
@management_command
@output.json_option
def test(api: Api, which: str, json_wanted: bool) -> None:
    """Ask it for its models, once with each key. Exit code 1 if a key fails."""
    path = f"{PATH}/{api.id_of(PATH, which)}/test"
    api.patience = _TEST_PATIENCE
    results = api.call("POST", path)
    if json_wanted:
        output.as_json(results)
    elif results["results"]:
        rows = [{**each, "ms": round(each["duration_ms"])} for each in results["results"]]
        output.table(rows, _TEST_COLUMNS)
    else:
        click.echo(_NO_KEYS, err=True)
    if not all(result["ok"] for result in results["results"]):
        raise click.exceptions.Exit(1)


def _state(found: dict[str, Any]) -> str:
    """Returns what is to be known of a provider in a table: ``default, breaker open``."""
    facts = {
        "off": not found["is_active"],
        "default": found["is_default"],
        f"breaker {found['breaker'].replace('_', ' ')}": found["breaker"] != "closed",
        "from file": found["source"] == "file",
    }
    return ", ".join(fact for fact, holds in facts.items() if holds) or "on"


def _given(*, config: dict[str, Any] | None, allow_private: bool, **fields: Any) -> dict[str, Any]:
    body = {name: value for name, value in fields.items() if value is not None}
    if allow_private:
        config = {**(config or {}), "allow_private": True}
    if config is not None:
        body["config"] = config
    return body


def _show(found: dict[str, Any], json_wanted: bool) -> None:
    if json_wanted:
        output.as_json(found)
    else:
        output.record({**found, "config": config_text(found["config"]) or None})
