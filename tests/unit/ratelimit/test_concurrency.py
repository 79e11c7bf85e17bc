"""Requests in flight over all workers of a node (`proxy/ratelimit/concurrency.py`)."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from proxy.ratelimit.concurrency import NodeConcurrency
from proxy.runtime import worker_table as table_module
from proxy.runtime.mapped_file import MappedFile
from proxy.runtime.worker_table import USED
from tests.support.limiter_stress import ROOT


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "limits" / "lanes"


@pytest.fixture
def start(place: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Workers that reserve each of the keys (with blanks between) once, and then stay."""
    processes = []

    def start(keys: str, path: Path | None = None) -> subprocess.Popen[str]:
        program = (
            "import sys, time; from pathlib import Path\n"
            "from proxy.ratelimit.concurrency import NodeConcurrency\n"
            "table = NodeConcurrency(Path(sys.argv[1]))\n"
            "print([table.reserve([(key, 100)]) for key in sys.argv[2].split()], flush=True)\n"
            "time.sleep(600)"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path or place), keys],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == f"{[None] * len(keys.split())}\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_no_limits_cost_nothing(place: Path) -> None:
    assert NodeConcurrency(place).reserve([]) is None
    assert not place.exists()


def test_as_many_as_the_limit_over_all_workers(place: Path) -> None:
    one, two = NodeConcurrency(place), NodeConcurrency(place)
    assert one.reserve([("a", 3)]) is None
    assert two.reserve([("a", 3)]) is None
    assert one.reserve([("a", 3)]) is None
    assert one.reserve([("a", 3)]) == two.reserve([("a", 3)]) == 0
    one.release(["a"])
    assert two.reserve([("a", 3)]) is None
    assert one.reserve([("a", 3)]) == 0
    assert one.reserve([("b", 1)]) is None


def test_all_or_nothing(place: Path) -> None:
    one, two = NodeConcurrency(place), NodeConcurrency(place)
    assert one.reserve([("project", 2), ("token", 1)]) is None
    assert two.reserve([("project", 2), ("token", 1)]) == 1
    assert two.reserve([("project", 2), ("other", 1)]) is None  # the refused one took nothing
    assert two.reserve([("project", 2), ("token", 1)]) == 0
    one.release(["project", "token"])
    two.release(["project", "other"])
    assert two.reserve([("token", 1), ("project", 1), ("other", 1)]) is None


def test_the_limit_may_change(place: Path) -> None:
    table = NodeConcurrency(place)
    for _ in range(3):
        assert table.reserve([("a", 3)]) is None
    assert table.reserve([("a", 2)]) == 0
    assert table.reserve([("a", 4)]) is None


def test_what_a_killed_worker_held_is_given_back(
    place: Path, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    table = NodeConcurrency(place)
    assert table.reserve([("a", 4)]) is None
    workers = [start("a a b"), start("a b")]
    assert table.reserve([("a", 4)]) == 0
    workers[0].send_signal(signal.SIGSTOP)
    assert table.reserve([("a", 4)]) == 0  # it lives, and its requests may, too
    workers[0].kill()
    workers[0].wait()
    assert [table.reserve([("a", 4)]) for _ in range(3)] == [None, None, 0]
    assert table.reserve([("b", 2)]) is None  # of all that it held
    assert table.reserve([("b", 2)]) == 0


def test_a_new_worker_begins_with_nothing(
    place: Path, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    for _ in range(3):
        worker = start("a a")
        worker.kill()
        worker.wait()
    other = NodeConcurrency(place)  # in whose column the last one was
    assert [other.reserve([("a", 2)]) for _ in range(3)] == [None, None, 0]
    other.close()
    after = NodeConcurrency(place)
    assert after.reserve([("b", 1)]) is None  # has its column, and nobody takes it for the former's
    another = NodeConcurrency(place)
    assert [another.reserve([("a", 2)]) for _ in range(3)] == [None, None, 0]


def test_a_stopped_holder_of_the_lock_leaves_each_worker_its_own(place: Path) -> None:
    one, two = NodeConcurrency(place), NodeConcurrency(place)
    assert one.reserve([("a", 3)]) is None
    assert two.reserve([("a", 3)]) is None
    holder = MappedFile(place, b"proxy lanes 1", one._file._size - 64)
    holder.lock()
    for table in (one, two):  # the one more that each has is known to the other again below
        assert table.reserve([("a", 3), ("b", 1)]) is None
        assert table.reserve([("b", 1)]) == 0
    one.release(["a"])  # needs no lock
    holder.unlock()
    assert one.reserve([("a", 4)]) is None
    assert one.reserve([("a", 4)]) == 0
    assert two.reserve([("b", 2)]) is None
    for key in ("a", "a", "b"):
        one.release([key])
    assert two.reserve([("a", 3)]) is None
    assert two.reserve([("a", 3)]) == 0


def test_more_workers_than_columns_go_by_their_own(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "_COLUMNS", 2)
    tables = [NodeConcurrency(place) for _ in range(3)]
    assert [table.reserve([("a", 2)]) for table in tables] == [None, None, None]
    assert [table.reserve([("a", 2)]) for table in tables] == [0, 0, None]
    assert tables[2].reserve([("a", 2)]) == 0
    tables[0].close()
    tables[2].release(["a"])
    assert tables[2].reserve([("a", 3)]) is None  # has a column now, and says what it holds
    assert tables[1].reserve([("a", 3)]) == 0


def test_more_accounts_than_rows_are_counted_by_each_worker(place: Path) -> None:
    one, two = NodeConcurrency(place), NodeConcurrency(place)
    keys = [f"{number}" for number in range(5000)]
    assert {one.reserve([(key, 1)]) for key in keys} == {None}
    assert {one.reserve([(key, 1)]) for key in keys} == {0}
    seen = sum(two.reserve([(key, 1)]) == 0 for key in keys)
    assert 1500 < seen <= 2048
    one.release(keys)
    two.release(key for key in list(two._own))
    assert {one.reserve([(key, 1)]) for key in keys[:500]} == {None}
    assert {two.reserve([(key, 1)]) for key in keys[:500]} == {0}  # there is room again


def test_a_file_that_goes_is_made_again_with_what_is_held(place: Path) -> None:
    one, two = NodeConcurrency(place), NodeConcurrency(place)
    for table in (one, two):
        assert table.reserve([("a", 3)]) is None
    place.unlink()
    for table in (one, two):
        table._file._check_at = 0  # a second later
    assert one.reserve([("b", 3)]) is None
    assert two.reserve([("b", 3)]) is None
    assert [one.reserve([("a", 3)]), two.reserve([("a", 3)])] == [None, 0]


@pytest.mark.parametrize("grown", [False, True])
def test_a_file_that_is_cut_is_made_again_with_what_is_held(place: Path, grown: bool) -> None:
    one, two = NodeConcurrency(place), NodeConcurrency(place)
    for table in (one, two):
        assert table.reserve([("a", 3)]) is None
    size = place.stat().st_size
    os.truncate(place, 0)
    if grown:
        os.truncate(place, size)
    for table in (one, two):
        table._file._check_at = 0  # a second later
    two.release(["a"])  # touches nothing that is not there
    assert one.reserve([("b", 3)]) is None
    assert two.reserve([("a", 3)]) is None
    assert [one.reserve([("a", 3)]), two.reserve([("a", 3)])] == [None, 0]


def test_a_table_that_says_nothing_of_its_columns(place: Path) -> None:
    """What stands there is believed only where it can be so."""
    table = NodeConcurrency(place)
    for said in (0, 2**31):
        assert table.reserve([("a", 1)]) is None
        table._file.halves[USED] = said
        assert table.reserve([("a", 1)]) == 0
        table.release(["a"])


def test_leaving_works_without_a_file(place: Path) -> None:
    table = NodeConcurrency(place)
    table.reserve([("a", 1), ("b", 1)])
    table.close()
    table.release(["a", "b"])
    place.unlink()
    place.mkdir()  # nothing can be made there
    assert [table.reserve([("a", 1)]) for _ in range(2)] == [None, 0]
    table.release(["a"])
    assert table.reserve([("a", 1)]) is None


@pytest.mark.slow
@given(
    steps=some.lists(
        some.tuples(some.integers(0, 2), some.sampled_from("abc"), some.booleans()), max_size=60
    ),
    most=some.integers(1, 4),
)
def test_never_more_than_the_limit(
    steps: list[tuple[int, str, bool]], most: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("limits") / "lanes"
    tables = [NodeConcurrency(place) for _ in range(3)]
    held: list[tuple[int, str]] = []
    for who, key, reserves in steps:
        if reserves:
            there = sum(each == key for _, each in held)
            assert tables[who].reserve([(key, most)]) == (0 if there >= most else None)
            if there < most:
                held.append((who, key))
        elif (who, key) in held:
            held.remove((who, key))
            tables[who].release([key])
    for table in tables:
        table.close()
    place.unlink(missing_ok=True)
