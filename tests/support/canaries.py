"""Secrets of the whole run, which no output of the run may contain.

A test that makes a secret registers it. Servers and their minted tokens register themselves. At
the end of each test process, all its output is looked through.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

#: Every secret that was in use in this run.
SECRETS: set[str] = set()
#: Secrets found in what tests printed or logged: (test, secret).
PRINTED: list[tuple[str, str]] = []

#: Files that a server or a command writes for others to read; not `.env`, nor databases.
_OUTPUT = ("*.log", "*.log.*", "*.jsonl", "*.jsonl.*", "*.samples", "*.out", "*.err")
#: Whatever lies in folders of these names.
_FOLDERS = ("metrics", "spool")
#: Shorter ones are found by chance.
_SHORTEST = 12


def register(*secrets: str) -> None:
    SECRETS.update(secret for secret in secrets if len(secret) >= _SHORTEST)


def register_environment(environ: dict[str, str]) -> None:
    """What is secret among settings."""
    for name, value in environ.items():
        if name.endswith(("_TOKEN", "_KEY", "_KEYS_PREVIOUS")):
            register(*value.split(","))
        elif name.endswith("_URL"):
            register(urlsplit(value).password or "")


def found_in(text: str) -> Iterator[str]:
    return (secret for secret in SECRETS if secret in text)


def outputs(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).parts[:-1]
        wanted = any(path.match(pattern) for pattern in _OUTPUT) or set(_FOLDERS) & set(inside)
        if wanted and path.is_file() and not path.is_symlink():
            yield path


def leaks(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """(file, secret) for each secret that lies in a file."""
    found = []
    for path in paths:
        try:
            text = path.read_bytes().decode("latin-1")
        except FileNotFoundError:
            continue  # a server that still runs has rotated it
        found += [(path, secret) for secret in found_in(text)]
    return found
