"""``manage.py db``: the only command that changes the schema.

A server never migrates by itself: two servers that start at once would race, and a rolled-back
release would meet a newer schema.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import click

from proxy.cli import output
from proxy.cli.local_settings import load_settings, open_database
from proxy.crypto.cipher import Cipher
from proxy.settings.settings import Settings
from proxy.store import export
from proxy.store.audit import PendingEntry
from proxy.store.export_format import Header
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


@db.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default="-")
def export_(file: Path) -> None:
    """Write projects and tokens to FILE (or -, stdout) as JSON lines.

    The export shows one moment, and servers may go on serving. Upstream keys stay encrypted: keep
    the ENCRYPTION_KEY too, elsewhere. FILE is readable by its owner alone, and written whole or
    not at all.
    """
    with closing(open_database(load_settings())) as database, _whole(file) as output_file:
        header = export.export_all(database, output_file.write)
    click.echo(f"Exported {_counts(header)}.", err=True)


@db.command("import", short_help="Read an export from FILE into an empty, migrated database.")
@click.argument("file", type=click.File("rb"), default="-")
@click.option(
    "--allow-missing-keys",
    is_flag=True,
    help="Import also what the keys in the settings cannot decrypt.",
)
def import_(file: BinaryIO, allow_missing_keys: bool) -> None:
    """Read an export from FILE (or -, stdin) into an empty, migrated database.

    Every line is checked, and all of it is imported or nothing.
    """
    settings = load_settings()
    cipher = Cipher(settings.encryption.key, settings.encryption.previous_keys)
    key_ids = None if allow_missing_keys else cipher.key_ids
    with closing(open_database(settings)) as database:
        header = export.import_all(database, file, key_ids, PendingEntry("db.import", "cli"))
    click.echo(f"Imported {_counts(header)}.")


def _counts(header: Header) -> str:
    """Returns ``1 projects, 0 tokens and 2 providers``: besides the first two, what there is."""
    shown = [
        f"{count} {table.replace('_', ' ')}"
        for table, count in header.counts.items()
        if count or table in ("projects", "tokens")
    ]
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


@contextlib.contextmanager
def _whole(target: Path) -> Iterator[BinaryIO]:
    """A file whose content replaces ``target`` only if the block ends without an exception."""
    if named := str(target) != "-":
        target = target.resolve()
    # A device or a pipe is written to, never replaced.
    replaced = named and (target.is_file() or not target.exists())
    try:
        # mkstemp creates it with mode 0600.
        folder = target.parent if replaced else None
        handle, name = tempfile.mkstemp(dir=folder, prefix=".export.")
        try:
            with os.fdopen(handle, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if not replaced:
                    file.seek(0)
                    _copy(file, target if named else None)
            if replaced:
                Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise click.ClickException(f"{target}: {error.strerror or error}") from error


def _copy(file: BinaryIO, target: Path | None) -> None:
    if target is None:
        shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    else:
        with target.open("wb") as other:
            shutil.copyfileobj(file, other)


def bring_up_to_date(settings: Settings) -> list[Status]:
    """Applies the pending migrations to the database of ``settings`` and returns them."""
    with closing(open_database(settings)) as database:
        return Migrator(database).migrate()
