"""Amounts held against totals by several workers (``proxy/quota/holds.py``)."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.quota import holds as holds_module
from proxy.quota.holds import Full, NodeHolds
from proxy.runtime import worker_table as table_module
from tests.support.limiter_stress import ROOT


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "limits" / "holds"


@pytest.fixture
def workers(place: Path) -> tuple[NodeHolds, NodeHolds]:
    return NodeHolds(place), NodeHolds(place)


SPENT, IN_FLIGHT = Full(0, in_flight=False), Full(0, in_flight=True)


def hold(table: NodeHolds, amount: int, used: int = 0, total: int = 100) -> Full | None:
    return table.hold([("a", amount, used, total)])


def test_one_is_let_in_while_something_is_left(workers: tuple[NodeHolds, NodeHolds]) -> None:
    one, two = workers
    assert hold(one, 60) is None
    assert hold(two, 60) is None, "the last one may go over"
    assert hold(one, 1) == IN_FLIGHT
    two.settle([("a", 60)])
    assert hold(one, 1) is None


def test_what_was_spent_by_one_counts_for_all_at_once(
    workers: tuple[NodeHolds, NodeHolds],
) -> None:
    one, two = workers
    assert hold(one, 10) is None
    one.settle([("a", 10)], 99)
    assert (one.spent("a"), two.spent("a")) == (99, 0)
    assert hold(two, 5) is None
    assert hold(two, 5) == IN_FLIGHT
    two.settle([("a", 5)], 1)
    assert hold(one, 5) == hold(two, 5) == SPENT


def test_what_the_store_has_is_used_and_not_spent_any_more(
    workers: tuple[NodeHolds, NodeHolds],
) -> None:
    one, two = workers
    assert hold(one, 10) is None
    one.settle([("a", 10)], 60)
    assert hold(two, 10) is None
    # It has 50 of the 60, and 20 of another node.
    one.stored("a", 70, left=10, asked_at=5)
    assert one.spent("a") == 10
    assert hold(two, 9) is None, "19 are held, 80 used or spent"
    assert hold(two, 1, total=99) == IN_FLIGHT
    assert hold(one, 1, used=3) is None, "an older number of the store changes nothing"
    assert hold(one, 1) == IN_FLIGHT
    two.stored("a", 99, left=0, asked_at=4)
    assert hold(two, 1, total=100) == IN_FLIGHT, "two asked before one"
    one.stored("a", 100, left=0, asked_at=6)
    assert hold(two, 1) == SPENT


def test_what_the_store_takes_back_is_there_again(workers: tuple[NodeHolds, NodeHolds]) -> None:
    one, two = workers
    assert hold(one, 1) is None
    one.stored("a", 100, left=0, asked_at=7)
    assert hold(two, 1) == SPENT
    two.stored("a", 90, left=0, asked_at=8)
    one.stored("a", 100, left=0, asked_at=7)
    assert hold(two, 1) is None


def test_a_moment_of_a_clock_that_went_back(workers: tuple[NodeHolds, NodeHolds]) -> None:
    one, two = workers
    assert hold(one, 1) is None
    one.stored("a", 5, left=0, asked_at=2**62)
    two.stored("a", 100, left=0, asked_at=9)
    assert hold(one, 1) == SPENT


def test_a_row_is_never_free_while_something_is_settled(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or another key may get it, and what was spent with it."""
    table = NodeHolds(place)
    assert hold(table, 10) is None
    (row,) = table._rows.values()
    view, free = table._view, []

    class Watched:
        def __setitem__(self, at: int, number: int) -> None:
            view[at] = number
            free.append(not any(table._columns(row)))

        def __getitem__(self, at: slice) -> memoryview:
            return view[at]

    monkeypatch.setattr(NodeHolds, "_view", Watched())
    table.settle([("a", 10)], 7)
    assert free == [False, False]


def test_a_table_that_is_new_to_a_worker_says_nothing_of_its_keys(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds_module, "_ROWS", 1)
    one = NodeHolds(place)
    assert hold(one, 1) is None
    place.unlink()
    two = NodeHolds(place)
    assert two.hold([("b", 1, 100, 1000)]) is None
    two.settle([("b", 1)])
    one._file._check_at = 0.0
    assert hold(one, 1) is None, "what the row says is of another key"


def test_all_or_none(workers: tuple[NodeHolds, NodeHolds]) -> None:
    one, two = workers
    assert one.hold([("a", 5, 0, 100), ("b", 5, 7, 7)]) == Full(1, in_flight=False)
    assert hold(two, 1, total=1) is None


def test_what_costs_nothing_is_held_all_the_same(workers: tuple[NodeHolds, NodeHolds]) -> None:
    one, two = workers
    assert hold(one, 0) is None
    one.settle([("a", 0)], 100)
    assert hold(two, 0) == SPENT
    assert one._own == {"a": [0, 100]}


def test_after_all_is_settled_and_stored_nothing_is_left_of_it(
    workers: tuple[NodeHolds, NodeHolds],
) -> None:
    chance = random.Random(3)
    held: list[tuple[NodeHolds, int]] = []
    used = 0
    for _ in range(500):
        table = chance.choice(workers)
        if held and chance.random() < 0.5:
            table, amount = held.pop(chance.randrange(len(held)))
            table.settle([("a", amount)], chance.randrange(9))
        elif chance.random() < 0.2:
            used += table.spent("a")
            table.stored("a", used, left=0, asked_at=used)
        else:
            amount = chance.randrange(50)
            assert table.hold([("a", amount, 0, 10**9)]) is None
            held.append((table, amount))
    for table, amount in held:
        table.settle([("a", amount)])
    for table in workers:
        used += table.spent("a")
        table.stored("a", used, left=0, asked_at=used)
    assert [table._own for table in workers] == [{}, {}]
    assert [table._rows for table in workers] == [{}, {}]
    assert hold(workers[0], 1, total=used) == SPENT
    assert hold(workers[0], 1, total=used + 1) is None


@pytest.mark.parametrize("spends", [False, True])
def test_a_killed_worker_holds_nothing(place: Path, spends: bool) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from proxy.quota.holds import NodeHolds\n"
        "table = NodeHolds(Path(sys.argv[1]))\n"
        "for _ in range(3): assert table.hold([('a', 50, 0, 500)]) is None\n"
        f"if {spends}: table.settle([('a', 50)], 100)\n"
        "print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(place)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    table = NodeHolds(place)
    assert hold(table, 1, total=100) == (SPENT if spends else IN_FLIGHT)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert hold(table, 1, total=100) is None


def test_without_a_table_each_goes_by_its_own(place: Path) -> None:
    place.parent.mkdir()
    place.mkdir()  # there can be no such file
    one, two = NodeHolds(place), NodeHolds(place)
    assert hold(one, 100) is None
    assert hold(two, 100) is None
    assert hold(one, 1) == IN_FLIGHT
    one.stored("a", 7, left=3, asked_at=1)
    one.settle([("a", 100)])
    assert one.spent("a") == 3
    place.rmdir()
    assert hold(one, 1, total=5) is None
    assert hold(two, 1, total=5) == IN_FLIGHT, "what it held before is in the table now"


def test_a_full_table_leaves_the_rest_to_each(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "_WINDOW", 1)
    monkeypatch.setattr("proxy.quota.holds._ROWS", 1)
    one, two = NodeHolds(place), NodeHolds(place)
    assert hold(one, 100) is None
    assert hold(two, 1) == IN_FLIGHT
    assert one.hold([("b", 100, 0, 100)]) is None
    assert two.hold([("b", 100, 0, 100)]) is None
    assert one.hold([("b", 100, 0, 100)]) == IN_FLIGHT
    one.settle([("a", 100)])
    one.settle([("b", 100)], 7)
    assert (one.spent("a"), one.spent("b")) == (0, 7)


def test_huge_amounts(workers: tuple[NodeHolds, NodeHolds]) -> None:
    one, two = workers
    assert hold(one, 10**30, used=10**30, total=10**40) is None
    assert hold(two, 1) == SPENT
    one.settle([("a", 10**30)], 10**30)
    one.stored("a", 10**30, left=10**30, asked_at=1)


def test_workers_at_once_let_in_no_more_than_the_total_covers(place: Path) -> None:
    """Each request holds what it costs: then nothing goes over."""
    program = (
        "import sys; from pathlib import Path\n"
        "from proxy.quota.holds import NodeHolds\n"
        "table, spent = NodeHolds(Path(sys.argv[1])), 0\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "while True:\n"
        "    full = table.hold([('a', 7, 0, 7000)])\n"
        "    if full is None: table.settle([('a', 7)], 7); spent += 7\n"
        "    elif not full.in_flight: break\n"
        "print(spent, flush=True); sys.stdin.readline()\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(place)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    spent = []
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        spent.append(int(process.stdout.readline()))
    for process in processes:
        process.communicate("\n")
    assert sum(spent) == 7000
