"""Folders of writers in a spool, with numbered events, for tests of readers."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from proxy.events.spool.segment import encode_record
from proxy.events.spool.writer import SegmentWriter


def line(number: int) -> bytes:
    return b'{"event_id":"e%d","timestamp":"2026-11-21T08:00:00.000Z"}\n' % number


def numbers(lines: Iterable[bytes]) -> list[int]:
    return [int(json.loads(each)["event_id"][1:]) for each in lines]


def write(root: Path, those: Sequence[int], *, segment_bytes: int = 2000) -> SegmentWriter:
    """A new writer's folder with these events, still owned."""
    writer = SegmentWriter.create(root, segment_bytes=segment_bytes)
    append(writer, those)
    return writer


def append(writer: SegmentWriter, those: Sequence[int]) -> None:
    for number in those:
        writer.append([encode_record(line(number))])


def abandoned(root: Path, those: Sequence[int]) -> Path:
    """The folder of a writer that has ended."""
    writer = write(root, those)
    writer.close()
    writer.release()
    return writer.folder
