"""What nobody takes (``proxy/events/deadletters.py``)."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from proxy.events.deadletters import DeadLetterFile, Refused, deliver


def lines(*numbers: int) -> list[bytes]:
    return [b"%d\n" % number for number in numbers]


def test_what_is_at_fault_is_found_and_the_rest_arrives(tmp_path: Path) -> None:
    dead = DeadLetterFile(tmp_path / "dead" / "http.jsonl")
    taken: list[bytes] = []

    def send(batch: Sequence[bytes]) -> None:
        if {b"3\n", b"7\n"} & set(batch):
            raise Refused("HTTP 400")
        taken.extend(batch)

    deliver(lines(*range(10)), send, dead)
    assert taken == lines(0, 1, 2, 4, 5, 6, 8, 9)
    assert (tmp_path / "dead" / "http.jsonl").read_bytes() == b"3\n7\n"
    assert dead.count == 2
    dead.close()


def test_other_failures_come_out(tmp_path: Path) -> None:
    def send(batch: Sequence[bytes]) -> None:
        raise ConnectionError

    dead = DeadLetterFile(tmp_path / "dead.jsonl")
    with pytest.raises(ConnectionError):
        deliver(lines(1, 2), send, dead)
    assert dead.count == 0


def test_not_kept_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def send(batch: Sequence[bytes]) -> None:
        raise Refused("HTTP 400")

    with pytest.raises(OSError, match="file"):
        deliver(lines(1), send, DeadLetterFile(tmp_path / "file" / "dead.jsonl"))


def test_a_line_without_its_end_gets_one(tmp_path: Path) -> None:
    dead = DeadLetterFile(tmp_path / "dead.jsonl")
    dead.keep([b"1", b"2\n"], "test")
    assert (tmp_path / "dead.jsonl").read_bytes() == b"1\n2\n"
    dead.close()
