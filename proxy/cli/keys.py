"""``manage.py keys``: the key that encrypts upstream keys at rest.

``generate`` only prints one: putting it into ``ENCRYPTION_KEY`` of a proxy that already has
projects would make their stored keys unreadable.
"""

import base64
import secrets

import click


@click.group()
def keys() -> None:
    """Encryption keys."""


@keys.command()
def generate() -> None:
    """Print a fresh ENCRYPTION_KEY: 32 random bytes in base64."""
    click.echo(new_encryption_key())


def new_encryption_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode("ascii")


def new_management_token() -> str:
    """64 hex digits: 256 random bits. Never starts with a dash, which a shell option would."""
    return secrets.token_hex(32)
