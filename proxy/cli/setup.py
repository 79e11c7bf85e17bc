"""``manage.py setup``: a ``.env`` with fresh secrets, so that the next command can be ``serve``.

Running it again is harmless: values that are set, there or in the environment, stay unchanged.
"""

import click

from proxy.cli import local_settings
from proxy.cli.keys import new_encryption_key, new_management_token
from proxy.core.errors import SettingsError
from proxy.settings.settings import Settings

#: The questions of ``--interactive``: setting, question, meaning of an empty reply.
_QUESTIONS = (
    ("HOST", "Address to listen on", "127.0.0.1"),
    ("PORT", "Port", "8080"),
    (
        "DATABASE_URL",
        "Database (sqlite:///file, mysql://user:pass@host/name or postgresql://…)",
        "",
    ),
    ("UPSTREAM_BASE_URL", "Upstream", "https://api.openai.com"),
)


@click.command()
@click.option("--interactive", is_flag=True, help="Ask for address, database and upstream too.")
@click.option("--part-of-run", is_flag=True, hidden=True, help="What comes next is done anyway.")
def setup(interactive: bool, part_of_run: bool) -> None:
    """Write .env (mode 0600) with a MANAGEMENT_TOKEN and an ENCRYPTION_KEY.

    Values that are set already, there or in the environment, are never changed.
    """
    secrets = {"MANAGEMENT_TOKEN": new_management_token(), "ENCRYPTION_KEY": new_encryption_key()}
    values = {name: value for name, value in secrets.items() if not local_settings.lookup(name)}
    if interactive:
        values |= _asked(secrets)
    if values:
        try:
            local_settings.add(local_settings.PATH, values)
        except OSError as error:
            raise click.ClickException(f"{local_settings.PATH}: {error.strerror}") from error
        click.echo(f"Wrote {', '.join(values)} to {local_settings.PATH.resolve()} (mode 0600).")
    else:
        click.echo("Nothing to do: MANAGEMENT_TOKEN and ENCRYPTION_KEY are set.")
    if "ENCRYPTION_KEY" in values:
        click.echo("Keep a copy of ENCRYPTION_KEY: without it the stored keys cannot be read.")
    if not part_of_run:
        click.echo("\nNext:\n  python manage.py db migrate\n  python manage.py serve")


def _asked(secrets: dict[str, str]) -> dict[str, str]:
    """Returns the replies that differ from the default, for settings that are not set yet."""
    answers: dict[str, str] = {}
    for name, question, default in _QUESTIONS:
        if local_settings.lookup(name):
            continue
        while True:
            answer = click.prompt(question, default=default, show_default=bool(default)).strip()
            problem = _problem(name, answer, secrets) if answer else ""
            if not problem:
                break
            click.echo(f"  {problem}")
        if answer and answer != default:
            answers[name] = answer
    return answers


def _problem(name: str, value: str, secrets: dict[str, str]) -> str:
    """Returns the settings' problem with ``value`` alone, or an empty text if it is valid."""
    try:
        Settings.load({**secrets, name: value})
    except SettingsError as error:
        return "; ".join(error.problems)
    return ""
