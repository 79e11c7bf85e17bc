"""The table of a node: slots, files, and the lock (`proxy/ratelimit/node.py`)."""

import errno
import fcntl
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from proxy.core.errors import LimiterError
from proxy.ratelimit.limiter import Bucket, Charge
from proxy.ratelimit.node import NodeLimiter
from tests.support.clock import Clock
from tests.support.limiter_stress import ROOT, hammer
from tests.support.wait import wait_until


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "limits" / "buckets"


def took(limiter: NodeLimiter, key: str, permits: int = 1, per_minute: int = 60) -> bool:
    return limiter.take([Charge(Bucket(key, per_minute), permits)]).refused is None


def level(limiter: NodeLimiter, key: str, per_minute: int = 60) -> float:
    return limiter.take([Charge(Bucket(key, per_minute), 0)]).remaining[0]


def test_two_see_the_same_buckets_and_restarts_keep_them(place: Path, clock: Clock) -> None:
    one, two = NodeLimiter(place, clock=clock), NodeLimiter(place, clock=clock)
    assert took(one, "a", 10)
    assert level(two, "a") == 50
    two.debit([Charge(Bucket("a", 60), 100)])
    one.close()
    two.close()
    assert level(NodeLimiter(place, clock=clock), "a") == -50
    clock.now += 60
    assert level(one, "a") == 10  # opened again


def test_a_glance_sees_what_others_took_and_what_came_back(place: Path, clock: Clock) -> None:
    one, two = NodeLimiter(place, clock=clock), NodeLimiter(place, clock=clock)
    bucket = Bucket("a", 60)
    assert two.peek(bucket) == 60, "nothing is open yet"
    one.take([Charge(bucket, 40)])
    two.take([Charge(Bucket("b", 1), 1)])
    assert (one.peek(bucket), two.peek(bucket)) == (20, 20)
    clock.now += 10
    assert two.peek(bucket) == 30
    clock.now -= 10.001
    assert two.peek(bucket) == 20, "read just before permits were taken"


def test_a_first_glance_sees_what_others_took(place: Path, clock: Clock) -> None:
    one, two = NodeLimiter(place, clock=clock), NodeLimiter(place, clock=clock)
    bucket = Bucket("a", 60)
    one.take([Charge(bucket, 40)])
    assert two.peek(bucket) == 20
    place.unlink()
    one._file._check_at = two._file._check_at = 0.0
    one.take([Charge(bucket, 50)])
    assert two.peek(bucket) == 10, "and one at the file that took its place"


def test_preparing_waits_while_another_process_makes_the_table(place: Path, clock: Clock) -> None:
    place.parent.mkdir()
    maker = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(maker, fcntl.LOCK_EX)
    limiter = NodeLimiter(place, slots=16, clock=clock)
    gevent.spawn_later(0.01, os.close, maker)
    limiter.prepare()
    assert limiter._file.descriptor >= 0


@pytest.mark.parametrize("cut", [False, True])
def test_a_glance_notices_a_file_that_goes(place: Path, clock: Clock, cut: bool) -> None:
    limiter = NodeLimiter(place, slots=16, clock=clock)
    bucket = Bucket("a", 60)
    limiter.take([Charge(bucket, 40)])
    if cut:
        os.truncate(place, 0)
    else:
        place.unlink()
        limiter._file._check_at = 0.0  # a second later; a cut one is noticed at once
    assert limiter.peek(bucket) == 60, "and reads nothing behind the file's end"


def test_full_buckets_give_their_slots_away_and_busy_ones_do_not(place: Path, clock: Clock) -> None:
    limiter = NodeLimiter(place, slots=16, clock=clock)
    for number in range(16):
        assert took(limiter, f"{number}", 60)
    clock.now += 30
    assert took(limiter, "15", 30)
    clock.now += 30
    for number in range(100, 115):  # all are full again, but one
        assert took(limiter, f"{number}", 60)
    assert level(limiter, "15") == 30
    assert [level(limiter, f"{number}") for number in range(100, 115)] == [0] * 15


def test_a_full_table_refuses_no_request_and_evicts_no_bucket(place: Path, clock: Clock) -> None:
    limiter = NodeLimiter(place, slots=16, clock=clock)
    other = NodeLimiter(place, slots=16, clock=clock)
    for number in range(16):
        assert took(limiter, f"{number}", 60)
    # No slot is left: limited all the same, by each process for itself.
    for one in (limiter, other):
        assert [took(one, "late", 30) for _ in range(3)] == [True, True, False]
    assert [level(other, f"{number}") for number in range(16)] == [0] * 16
    # All are full again, and there is room for it in the table.
    clock.now += 60
    assert took(limiter, "late", 45)
    assert level(other, "late") == 15


def test_a_call_may_use_both(place: Path, clock: Clock) -> None:
    limiter = NodeLimiter(place, slots=16, clock=clock)
    for number in range(16):
        took(limiter, f"{number}", 59)
    charges = [Charge(Bucket("late", 60), 40), Charge(Bucket("3", 60), 1)]
    assert limiter.take(charges) == ([20, 0], None)
    assert limiter.take(charges) == ([20, 0], 0)
    assert level(limiter, "3") == 0


def test_one_call_claims_no_slot_twice(place: Path, clock: Clock) -> None:
    limiter = NodeLimiter(place, slots=16, clock=clock)
    keys = [f"{number}" for number in range(16)]
    limiter.take([Charge(Bucket(key, 60), number) for number, key in enumerate(keys, 1)])
    found = NodeLimiter(place, slots=16, clock=clock)
    assert [level(found, key) for key in keys] == [60 - number for number in range(1, 17)]


def test_killed_while_it_claims_it_leaves_the_former_bucket_full(place: Path, clock: Clock) -> None:
    limiter = NodeLimiter(place, slots=16, clock=clock)
    for number in range(16):
        took(limiter, f"{number}", 60)
    clock.now += 60
    limiter._lock()
    claimed = limiter._claim("new", clock.now)
    assert claimed is not None
    limiter._doubles[claimed[1] + 1] = -1000.0  # and no further
    limiter.close()
    assert [level(limiter, f"{number}") for number in range(16)] == [60] * 16


def test_what_is_remembered_of_slots_is_bounded(place: Path, clock: Clock) -> None:
    limiter = NodeLimiter(place, clock=clock)
    for number in range(10_000):
        took(limiter, f"{number}")
    assert len(limiter._slots) <= 8192
    assert all(level(limiter, f"{number}") == 59 for number in range(0, 10_000, 7))


def test_after_a_reboot_all_are_full(place: Path, clock: Clock) -> None:
    clock.now = 900_000
    limiter = NodeLimiter(place, slots=16, clock=clock)
    for number in range(16):
        took(limiter, f"{number}", 60)
    clock.now = 5
    after = NodeLimiter(place, slots=16, clock=clock)
    level(after, "another")  # it is open
    assert after.peek(Bucket("3", 60)) == 60, "or it would be refused for as long as it was up"
    assert took(after, "3", 60)
    assert not took(after, "3")
    for number in range(100, 115):  # the others' slots are free
        assert took(after, f"{number}", 60)
    assert [level(NodeLimiter(place, slots=16, clock=clock), "114")] == [0]
    clock.now += 1
    assert took(after, "3")  # its time counts from now on


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"garbage"),
        lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
        lambda path: path.write_bytes(path.read_bytes()[:-8]),
        lambda path: path.write_bytes(b"\0" * path.stat().st_size),  # killed while it was made
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes() + b"more"),
    ],
)
def test_whatever_lies_there_is_made_anew(place: Path, clock: Clock, damage: object) -> None:
    before = NodeLimiter(place, slots=16, clock=clock)
    took(before, "a", 60)
    before.close()
    assert callable(damage)
    damage(place)
    after = NodeLimiter(place, slots=16, clock=clock)
    assert took(after, "a", 60)
    assert not took(after, "a")
    assert not took(NodeLimiter(place, slots=16, clock=clock), "a")


def test_damaged_slots_are_full_buckets(place: Path, clock: Clock) -> None:
    limiter = NodeLimiter(place, slots=16, clock=clock)
    took(limiter, "a", 60)
    limiter._file.lock()
    for at in range(8, 8 + 64, 4):
        for offset in (1, 2, 3):
            limiter._doubles[at + offset] = float("nan")
    limiter._file.unlock()
    for key in ("a", "b"):
        assert took(limiter, key, 60)
        assert not took(limiter, key)


@pytest.mark.parametrize("cut", [False, True])
def test_a_file_that_goes_is_noticed(place: Path, clock: Clock, cut: bool) -> None:
    limiter = NodeLimiter(place, slots=16, clock=clock)
    took(limiter, "a", 60)
    if cut:
        place.write_bytes(b"")
    else:
        place.unlink()
        limiter._file._check_at = 0  # a second later; a cut one is noticed at once
    assert took(limiter, "a", 60)
    assert not took(NodeLimiter(place, slots=16, clock=clock), "a")


def test_a_full_disk_is_a_limiter_error_and_leaves_nothing(
    place: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, _offset: int, length: int) -> None:
        os.ftruncate(descriptor, length // 2)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        limiter = NodeLimiter(place, clock=clock)
        with pytest.raises(LimiterError) as caught:
            took(limiter, "a")
        assert isinstance(caught.value.__cause__, OSError)
        assert not place.exists()
    assert took(limiter, "a")


def test_the_whole_file_has_its_blocks(place: Path, clock: Clock) -> None:
    took(NodeLimiter(place, clock=clock), "a")
    status = place.stat()
    assert status.st_blocks * 512 >= status.st_size
    assert status.st_mode & 0o777 == 0o600


@pytest.fixture
def holder(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that keeps the lock, in the middle of a call."""
    program = (
        "import sys, time; from pathlib import Path; from proxy.ratelimit.node import NodeLimiter\n"
        "table = NodeLimiter(Path(sys.argv[1])); table._lock()\n"
        "print('locked', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(place)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


@pytest.mark.parametrize("opened", [False, True])
def test_a_stopped_holder_of_the_lock_stops_no_other_process(
    place: Path, holder: subprocess.Popen[str], opened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []
    monkeypatch.setattr("proxy.runtime.mapped_file.time.sleep", waits.append)
    holder.send_signal(signal.SIGSTOP)
    limiter = NodeLimiter(place)
    if opened:
        with pytest.raises(LimiterError):
            took(limiter, "a")
    with pytest.raises(LimiterError) as caught:
        took(limiter, "a")
    assert isinstance(caught.value.__cause__, TimeoutError)
    # It gives others a turn while it waits; and it does not ask without end.
    assert waits
    holder.send_signal(signal.SIGCONT)
    with pytest.raises(LimiterError):
        limiter.debit([Charge(Bucket("a", 60), 1)])


def test_a_killed_holder_holds_nothing(place: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    limiter = NodeLimiter(place)
    assert took(limiter, "a", 60)
    blows = hammer("node", str(place.parent / "other"), ["a"] * 2, 100, calls=200)
    assert sum(blows.met) == 100


def test_a_process_killed_in_the_middle_of_calls_costs_no_permits(
    place: Path, clock: Clock
) -> None:
    """Again and again, at any moment of a call; the others go on, and the bound holds."""
    program = (
        "import sys; from pathlib import Path; from proxy.ratelimit.limiter import Bucket, Charge\n"
        "from proxy.ratelimit.node import NodeLimiter\n"
        "from proxy.core.errors import LimiterError\n"
        "table = NodeLimiter(Path(sys.argv[1]), clock=lambda: 1000.0)\n"
        "print('go', flush=True)\n"
        "while True:\n"
        "    try: table.take([Charge(Bucket('busy', 10**9), 1)])\n"
        "    except LimiterError: pass\n"
    )

    def has_fallen(limiter: NodeLimiter, before: float) -> bool:
        try:
            return level(limiter, "busy", 10**9) < before
        except LimiterError:
            return False

    limiter = NodeLimiter(place, clock=clock)
    before = 10.0**9
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(place)], cwd=ROOT, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            wait_until(functools.partial(has_fallen, limiter, before))
            process.kill()
            process.wait()
        before = level(limiter, "busy", 10**9)
