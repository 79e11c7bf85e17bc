"""Offset files: how far each sink has read in a writer's folder (see :mod:`proxy.events.spool`).

An offset is written only after the sink has accepted what is before it. A process that is killed in
between delivers a few lines twice, and loses none. A missing or damaged file means the beginning,
for the same reason.
"""

import contextlib
import os
import re
from pathlib import Path
from typing import Final, NamedTuple

_SUFFIX: Final = ".offset"
#: The suffix before 0.1.0: such a file counts where the other one is missing or damaged.
_OLD_SUFFIX: Final = ".position"
_FORM: Final = re.compile(rb"([0-9]{16}) ([0-9]{16})\n")
#: Valid names of sinks.
SINK_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class Offset(NamedTuple):
    """All bytes before `byte` in `segment`, and all earlier segments, are done."""

    segment: int
    byte: int


#: The beginning of every folder.
START: Final = Offset(0, 0)


def read_offset(folder: Path, sink: str) -> Offset:
    """The offset at which `sink` continues; :data:`START` when it has never read here."""
    path = _file(folder, sink)
    for each in (path, path.with_suffix(_OLD_SUFFIX)):
        with contextlib.suppress(FileNotFoundError):
            if found := _FORM.fullmatch(each.read_bytes()):
                return Offset(int(found[1]), int(found[2]))
    return START


def write_offset(folder: Path, sink: str, offset: Offset, *, durable: bool = True) -> None:
    """Write the offset of `sink`; with `durable`, so that it survives a power cut. Raises OSError.

    A removed folder had nothing left for any sink, so there is nothing to write.
    """
    path = _file(folder, sink)
    content = b"%016d %016d\n" % offset
    try:
        if durable:
            # One process writes the offsets of one sink, so no other process uses this name.
            fresh = path.with_suffix(".fresh")
            _write(fresh, content, durable=True)
            fresh.replace(path)
            sync_folder(folder)
        else:
            # In place: all offsets have one length, so a reader finds the old or the new one. It
            # is cheap, and works on a full disk.
            _write(path, content, durable=False)
    except FileNotFoundError:
        if folder.exists():
            raise


def _write(path: Path, content: bytes, *, durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_durable(folder: Path, sink: str) -> None:
    """Sync an offset that was written without `durable`. The caller syncs the folder."""
    path = _file(folder, sink)
    for each in (path, path.with_suffix(_OLD_SUFFIX)):
        try:
            descriptor = os.open(each, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_offsets(folder: Path) -> None:
    for suffix in (_SUFFIX, _OLD_SUFFIX, ".fresh"):
        for path in folder.glob("*" + suffix):
            path.unlink(missing_ok=True)


def highest_offset(folder: Path) -> Offset:
    """The offset of the sink that has read furthest."""
    names = {path.stem for suffix in (_SUFFIX, _OLD_SUFFIX) for path in folder.glob("*" + suffix)}
    return max((read_offset(folder, name) for name in names), default=START)


def sync_folder(folder: Path) -> None:
    """Make names that were added to or removed from ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network file systems refuse this for a directory. They do not need it.
        with contextlib.suppress(PermissionError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file(folder: Path, sink: str) -> Path:
    if not SINK_NAME.fullmatch(sink):
        raise ValueError(f"not a name for a sink: {sink!r}")
    return folder / (sink + _SUFFIX)
