"""``manage.py db``: the only thing that changes the schema. A server never migrates by itself:
two of them starting at once would race, and a rolled-back release would meet a newer schema.
"""

import sys
from contextlib import closing

import click

from proxy.cli import output
from proxy.cli.installation import load_settings, open_database
from proxy.settings import Settings
from proxy.store.migrate import Migrator, Status


@click.group()
def db() -> None:
    """The database and its schema."""


@db.command()
def migrate() -> None:
    """Bring the schema up to date."""
    applied = bring_up_to_date(load_settings())
    for step in applied:
        click.echo(f"Applied {step.number:04d} {step.name}.")
    if not applied:
        click.echo("The schema is up to date.")


@db.command()
def status() -> None:
    """Show which migrations are applied. Exit code 1 when one is pending."""
    with closing(open_database(load_settings())) as database:
        steps = Migrator(database).status()
    rows = [
        {
            "number": f"{step.number:04d}",
            "name": step.name,
            "applied_at": step.applied_at.isoformat() if step.applied_at else "pending",
        }
        for step in steps
    ]
    output.table(rows, {"number": "Number", "name": "Name", "applied_at": "Applied"})
    sys.exit(1 if any(step.applied_at is None for step in steps) else 0)


def bring_up_to_date(settings: Settings) -> list[Status]:
    """Apply what is pending to the database of ``settings``; returns what was."""
    with closing(open_database(settings)) as database:
        return Migrator(database).migrate()
