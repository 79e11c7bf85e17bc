"""Dead letters and their isolation (``proxy/events/dead_letters.py``)."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from proxy.events.dead_letters import DeadLetterFile, PoisonIsolator, Refused


class Kept:
    """Dead letters in a list."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines

    def keep(self, lines: Sequence[bytes], reason: str) -> None:
        self._lines += lines

    def close(self) -> None:
        pass


def lines(*numbers: int) -> list[bytes]:
    return [b"%d\n" % number for number in numbers]


def test_bad_events_are_isolated_and_the_rest_arrives(tmp_path: Path) -> None:
    dead = DeadLetterFile(tmp_path / "dead" / "http.jsonl")
    taken: list[bytes] = []

    def send(batch: Sequence[bytes]) -> None:
        if {b"3\n", b"7\n"} & set(batch):
            raise Refused("HTTP 400")
        taken.extend(batch)

    PoisonIsolator(send, dead).write(lines(*range(10)))
    assert taken == lines(0, 1, 2, 4, 5, 6, 8, 9)
    assert (tmp_path / "dead" / "http.jsonl").read_bytes() == b"3\n7\n"
    assert dead.count == 2
    dead.close()


def test_other_failures_propagate(tmp_path: Path) -> None:
    def send(batch: Sequence[bytes]) -> None:
        raise ConnectionError

    dead = DeadLetterFile(tmp_path / "dead.jsonl")
    with pytest.raises(ConnectionError):
        PoisonIsolator(send, dead).write(lines(1, 2))
    assert dead.count == 0


def test_a_batch_whose_dead_letters_cannot_be_stored_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def send(batch: Sequence[bytes]) -> None:
        raise Refused("HTTP 400")

    isolator = PoisonIsolator(send, DeadLetterFile(tmp_path / "file" / "dead.jsonl"))
    with pytest.raises(OSError, match="file"):
        isolator.write(lines(1))


def test_with_a_full_disk_the_rest_arrives_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = DeadLetterFile(tmp_path / "dead.jsonl")
    taken: list[bytes] = []

    def send(batch: Sequence[bytes]) -> None:
        if {b"3\n", b"7\n"} & set(batch):
            raise Refused("HTTP 400")
        taken.extend(batch)

    def full(_lines: Sequence[bytes], _reason: str) -> None:
        raise OSError(28, "No space left on device")

    isolator = PoisonIsolator(send, dead)
    with monkeypatch.context() as patch:
        patch.setattr(dead, "keep", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                isolator.write(lines(*range(10)))
            isolator.write(lines(20, 21))  # a batch of another folder
            with pytest.raises(OSError, match="No space"):
                isolator.write(lines(*range(12)))  # with newer events
    assert sorted(set(taken)) == sorted(lines(0, 1, 2, 4, 5, 6, *range(8, 12), 20, 21))
    assert len([line for line in taken if line not in lines(20, 21)]) == 10, "each once"
    isolator.write(lines(*range(12)))
    assert len([line for line in taken if line not in lines(20, 21)]) == 10
    assert (tmp_path / "dead.jsonl").read_bytes() == b"3\n7\n"
    isolator.write(lines(1))  # lines of finished batches are not remembered
    assert taken[-1] == b"1\n"
    dead.close()


def test_events_accepted_before_a_failure_are_not_sent_again() -> None:
    taken: list[bytes] = []

    def send(batch: Sequence[bytes]) -> None:
        if b"0\n" in batch:
            raise Refused("HTTP 400")
        if len(taken) == 1 and not back:
            raise ConnectionError
        taken.extend(batch)

    back: list[bool] = []
    kept: list[bytes] = []
    isolator = PoisonIsolator(send, Kept(kept))
    with pytest.raises(ConnectionError):
        isolator.write(lines(0, 1, 2, 3))
    back.append(True)
    isolator.write(lines(0, 1, 2, 3))
    assert (taken, kept) == (lines(1, 2, 3), lines(0))


def test_a_line_without_its_end_gets_one(tmp_path: Path) -> None:
    dead = DeadLetterFile(tmp_path / "dead.jsonl")
    dead.keep([b"1", b"2\n"], "test")
    assert (tmp_path / "dead.jsonl").read_bytes() == b"1\n2\n"
    dead.close()


def test_only_the_owner_may_read_dead_letters(tmp_path: Path) -> None:
    dead = DeadLetterFile(tmp_path / "dead" / "http.jsonl")
    dead.keep([b"1\n"], "test")
    dead.close()
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "dead", *tmp_path.glob("dead/*"))]
    assert modes == [0o700, 0o600]
