"""``manage.py keys``: the key that encrypts upstream keys at rest.

``generate`` only prints a key: setting it as ``ENCRYPTION_KEY`` of a proxy that already has
projects makes their stored keys unreadable, unless the old one is moved to
``ENCRYPTION_KEYS_PREVIOUS``. ``rotate`` and ``status`` work on the database, beside any server.
"""

import base64
import secrets
import sys
from contextlib import closing

import click

from proxy.cli import output
from proxy.cli.local_settings import load_settings, open_database
from proxy.crypto.cipher import Cipher
from proxy.store import rotation
from proxy.store.audit import PendingEntry
from proxy.store.migrate import check_schema


@click.group()
def keys() -> None:
    """Encryption keys."""


@keys.command()
def generate() -> None:
    """Print a fresh ENCRYPTION_KEY: 32 random bytes in base64."""
    click.echo(new_encryption_key())


@keys.command()
@output.json_option
def rotate(json_wanted: bool) -> None:
    """Encrypt every upstream key with the current ENCRYPTION_KEY.

    Servers may go on serving. Plaintext keys are encrypted too. Exit code 1 when a key could not
    be read; the others are done, and running it again does what is left.
    """
    settings = load_settings()
    cipher = Cipher(settings.encryption.key, settings.encryption.previous_keys)
    with closing(open_database(settings)) as database:
        check_schema(database)
        done = rotation.rotate(database, cipher, lambda: PendingEntry("keys.rotate", "cli"))
    failed = [row._asdict() for row in done.failed]
    counts = {"rotated": done.rotated, "encrypted": done.encrypted, "current": done.current}
    if json_wanted:
        output.as_json({"key_id": cipher.key_id, **counts, "failed": failed})
    else:
        click.echo(
            f"Now under key {cipher.key_id}: {done.rotated} re-encrypted, {done.encrypted} that "
            f"were plaintext, {done.current} as before. Not readable: {len(failed)}."
        )
        for row in done.failed:
            what = f"Project {row.project_id}"
            if row.provider_key_id:
                what = f"Provider key {row.provider_key_id}"
            elif row.secret_id:
                what = f"Secret {row.secret_id}"
            click.echo(f"{what} ({row.name}): {row.problem}", err=True)
    sys.exit(1 if failed else 0)


@keys.command()
@output.json_option
def status(json_wanted: bool) -> None:
    """Count the stored upstream keys by the encryption key they need.

    Exit code 1 when some need a key that is not among the settings, or are damaged.
    """
    settings = load_settings()
    cipher = Cipher(settings.encryption.key, settings.encryption.previous_keys)
    with closing(open_database(settings)) as database:
        check_schema(database)
        counts = [count._asdict() for count in rotation.count_by_key(database, cipher)]
    if json_wanted:
        output.as_json({"keys": counts})
    else:
        output.table(counts, {"state": "State", "key_id": "Key ID", "rows": "Rows"})
    unusable = any(count["state"] in ("unknown", "damaged") for count in counts)
    sys.exit(1 if unusable else 0)


def new_encryption_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode("ascii")


def new_management_token() -> str:
    """Returns 64 hex digits: 256 random bits. Never starts with a dash, as an option would."""
    return secrets.token_hex(32)
