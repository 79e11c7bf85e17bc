"""The breaker of one target (``proxy/routing/circuit_breaker.py``)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.circuit_breaker import CircuitBreaker, Permit, State, Verdict
from tests.support.clock import Clock

GOOD, BAD, NONE = Verdict.SUCCESS, Verdict.FAILURE, Verdict.NONE


class World:
    """A breaker, its clock, and the times for which it opened."""

    def __init__(self, chance: float = 0.5) -> None:
        self.clock = Clock()
        self.openings: list[float] = []
        self.breaker = CircuitBreaker(self.clock, lambda: chance, self.openings.append)

    def send(self, *verdicts: Verdict, retry_after: float | None = None) -> None:
        for verdict in verdicts:
            self.breaker.record(self.permit(), verdict, retry_after)

    def permit(self, lone: bool = False) -> Permit:
        permit = self.breaker.ok(lone)
        assert permit is not None
        return permit

    def open(self) -> None:
        self.send(*[BAD] * 5)
        assert self.breaker.state is State.OPEN

    def half_open(self) -> None:
        self.open()
        self.clock.now += self.breaker.opens_in
        assert self.breaker.state is State.HALF_OPEN


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("verdicts", "state"),
    [
        ([BAD] * 4, State.CLOSED),
        ([BAD] * 5, State.OPEN),
        ([BAD] * 4 + [GOOD] + [BAD] * 4, State.CLOSED),
        ([BAD] * 4 + [GOOD] + [BAD] * 4 + [GOOD, BAD], State.OPEN),
        ([GOOD] * 5 + [BAD] * 4, State.CLOSED),
        ([GOOD, BAD] * 4 + [GOOD], State.CLOSED),
        ([GOOD, BAD] * 5, State.OPEN),
        ([GOOD] * 6 + [BAD] * 4, State.CLOSED),
        ([GOOD] * 100 + [BAD] * 4, State.CLOSED),
        ([GOOD] * 100 + [BAD] * 5, State.OPEN),
        ([NONE] * 50, State.CLOSED),
        ([BAD] * 4 + [NONE] * 10, State.CLOSED),
        ([BAD, BAD, NONE, BAD, BAD, BAD], State.OPEN),
    ],
)
def test_when_it_opens(world: World, verdicts: list[Verdict], state: State) -> None:
    for verdict in verdicts:
        permit = world.breaker.ok(lone=False)
        if permit is None:
            break
        world.breaker.record(permit, verdict)
    assert world.breaker.state is state


def test_outcomes_count_for_thirty_seconds(world: World) -> None:
    world.send(BAD, GOOD, BAD, GOOD, BAD, GOOD, BAD, GOOD, GOOD)
    assert world.breaker.error_ratio == pytest.approx(4 / 9)
    world.clock.now += 29.9
    assert world.breaker.error_ratio == pytest.approx(4 / 9)
    world.clock.now += 0.2
    assert world.breaker.error_ratio == 0.0
    world.send(BAD)
    assert world.breaker.state is State.CLOSED
    assert world.breaker.error_ratio == 1.0


def test_a_slot_leaves_the_window_alone(world: World) -> None:
    world.send(GOOD)
    world.clock.now += 5.0
    world.send(BAD)
    world.clock.now += 25.0
    assert world.breaker.error_ratio == 1.0


def test_a_long_pause_empties_the_window(world: World) -> None:
    world.send(BAD)
    world.clock.now += 25.0
    world.send(BAD)
    world.clock.now += 90.0
    assert world.breaker.error_ratio == 0.0


def test_open_refuses_until_its_time(world: World) -> None:
    world.open()
    assert world.openings == [10.0]
    assert world.breaker.opens_in == 10.0
    world.clock.now += 9.9
    assert world.breaker.ok(lone=False) is None
    world.clock.now += 0.1
    assert world.breaker.opens_in == 0.0
    assert world.breaker.ok(lone=False) is not None


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 8.0), (1.0, 12.0)])
def test_jitter_of_a_fifth(chance: float, seconds: float) -> None:
    world = World(chance)
    world.open()
    assert world.breaker.opens_in == pytest.approx(seconds)


def test_each_failed_probe_doubles_the_time_up_to_two_minutes(world: World) -> None:
    world.half_open()
    for _ in range(6):
        world.send(BAD)
        assert world.breaker.ok(lone=False) is None
        world.clock.now += world.breaker.opens_in
    assert world.openings == [10.0, 20.0, 40.0, 80.0, 120.0, 120.0, 120.0]


def test_a_closing_starts_from_ten_seconds_again(world: World) -> None:
    world.half_open()
    world.send(BAD)
    world.clock.now += world.breaker.opens_in
    world.send(GOOD, GOOD)
    assert world.breaker.state is State.CLOSED
    world.open()
    assert world.openings == [10.0, 20.0, 10.0]


def test_one_probe_at_a_time(world: World) -> None:
    world.half_open()
    probe = world.permit()
    assert world.breaker.ok(lone=False) is None
    assert world.breaker.opens_in == 30.0
    world.breaker.record(probe, GOOD)
    assert world.breaker.state is State.HALF_OPEN
    world.send(GOOD)
    assert world.breaker.state is State.CLOSED
    assert world.breaker.error_ratio == 0.0


def test_good_probes_of_an_earlier_opening_do_not_count(world: World) -> None:
    world.half_open()
    world.send(GOOD, BAD)
    world.clock.now += world.breaker.opens_in
    world.send(GOOD)
    assert world.breaker.state is State.HALF_OPEN


def test_good_probes_before_the_last_closing_do_not_count(world: World) -> None:
    world.half_open()
    world.send(GOOD, GOOD)
    world.half_open()
    world.send(GOOD)
    assert world.breaker.state is State.HALF_OPEN


def test_good_ones_of_a_lone_target_count_in_a_row(world: World) -> None:
    world.open()
    for verdict in (GOOD, BAD, GOOD):
        permits = [permit for _ in range(10) if (permit := world.breaker.ok(lone=True))]
        world.breaker.record(permits[0], verdict)
    assert world.breaker.state is State.OPEN


def test_a_client_that_leaves_frees_the_lease_without_verdict(world: World) -> None:
    world.half_open()
    world.send(NONE)
    assert world.breaker.state is State.HALF_OPEN
    assert world.openings == [10.0]
    world.send(GOOD, GOOD)
    assert world.breaker.state is State.CLOSED


def test_a_lease_ends_after_thirty_seconds(world: World) -> None:
    world.half_open()
    lost = world.permit()
    world.clock.now += 29.9
    assert world.breaker.ok(lone=False) is None
    world.clock.now += 0.1
    probe = world.permit()
    # What comes back late counts, and does not free the lease of the other.
    world.breaker.record(lost, GOOD)
    assert world.breaker.ok(lone=False) is None
    world.breaker.record(probe, GOOD)
    assert world.breaker.state is State.CLOSED


def test_a_failure_from_before_the_last_closing_does_not_count(world: World) -> None:
    old = [world.permit() for _ in range(20)]
    world.half_open()
    world.send(GOOD, GOOD)
    for permit in old:
        world.breaker.record(permit, BAD)
    assert world.breaker.state is State.CLOSED
    assert world.breaker.error_ratio == 0.0


def test_a_late_outcome_from_before_the_opening_decides_nothing(world: World) -> None:
    old = [world.permit() for _ in range(20)]
    world.half_open()
    for permit in old[:10]:
        world.breaker.record(permit, GOOD)
    assert world.breaker.state is State.HALF_OPEN
    for permit in old[10:]:
        world.breaker.record(permit, BAD)
    assert world.breaker.state is State.HALF_OPEN
    assert world.openings == [10.0]


def test_a_permit_counts_once(world: World) -> None:
    permit = world.permit()
    for _ in range(10):
        world.breaker.record(permit, BAD)
    assert world.breaker.state is State.CLOSED


def test_a_longer_retry_after_holds(world: World) -> None:
    world.send(BAD, retry_after=45.0)
    world.send(*[BAD] * 4, retry_after=2.0)
    assert world.breaker.opens_in == 45.0
    assert world.openings == [45.0]


def test_a_shorter_retry_after_does_not(world: World) -> None:
    world.send(*[BAD] * 5, retry_after=2.0)
    assert world.breaker.opens_in == 10.0


def test_a_retry_after_is_bounded_and_is_over_with_a_closing(world: World) -> None:
    world.send(*[BAD] * 5, retry_after=1e9)
    assert world.breaker.opens_in == 600.0
    world.clock.now += 600.0
    world.send(GOOD, GOOD)
    world.open()
    assert world.breaker.opens_in == 10.0


def test_a_retry_after_is_over_with_an_early_closing(world: World) -> None:
    world.send(*[BAD] * 5, retry_after=500.0)
    for _ in range(2):
        probe = world.breaker.ok(lone=False, early=True)
        assert probe is not None
        world.breaker.record(probe, GOOD)
    world.open()
    assert world.breaker.opens_in == 10.0


def test_a_late_retry_after_prolongs_an_opening(world: World) -> None:
    late = world.permit()
    world.open()
    world.breaker.record(late, BAD, 100.0)
    assert world.breaker.opens_in == 100.0


def test_one_in_ten_passes_to_a_lone_target(world: World) -> None:
    world.open()
    passed = [world.breaker.ok(lone=True) is not None for _ in range(30)]
    assert passed == ([False] * 9 + [True]) * 3


def test_a_lone_target_closes_before_its_time_when_two_pass_well(world: World) -> None:
    world.open()
    for _ in range(2):
        permits = [permit for _ in range(10) if (permit := world.breaker.ok(lone=True))]
        assert len(permits) == 1
        world.breaker.record(permits[0], GOOD)
    assert world.breaker.state is State.CLOSED


def test_failures_of_a_lone_target_do_not_prolong_its_opening(world: World) -> None:
    world.open()
    for _ in range(100):
        permit = world.breaker.ok(lone=True)
        if permit is not None:
            world.breaker.record(permit, BAD)
    assert world.openings == [10.0]
    assert world.breaker.opens_in == 10.0


def test_a_lone_target_gets_its_probe_as_well(world: World) -> None:
    world.half_open()
    assert world.breaker.ok(lone=True) is not None
    assert world.breaker.ok(lone=True) is None


def test_where_all_targets_are_open_one_early_probe_passes(world: World) -> None:
    world.open()
    probe = world.breaker.ok(lone=False, early=True)
    assert probe is not None
    assert world.breaker.ok(lone=False, early=True) is None
    world.breaker.record(probe, BAD)
    assert world.openings == [10.0]
    for _ in range(2):
        probe = world.breaker.ok(lone=False, early=True)
        assert probe is not None
        world.breaker.record(probe, GOOD)
    assert world.breaker.state is State.CLOSED


@pytest.mark.parametrize(
    ("verdicts", "state"),
    [
        ([BAD] * 2, State.CLOSED),
        ([BAD] * 3, State.OPEN),
        ([BAD, GOOD, BAD, GOOD, BAD], State.OPEN),
        ([GOOD] * 100 + [BAD, GOOD] * 3, State.CLOSED),
    ],
)
def test_a_hint_lowers_the_threshold(world: World, verdicts: list[Verdict], state: State) -> None:
    world.breaker.hint(10.0)
    assert world.breaker.state is State.CLOSED
    world.send(*verdicts)
    assert world.breaker.state is state


def test_a_shorter_hint_does_not_shorten(world: World) -> None:
    world.breaker.hint(10.0)
    world.breaker.hint(5.0)
    world.clock.now += 9.9
    world.send(*[BAD] * 3)
    assert world.breaker.state is State.OPEN


def test_a_hint_ends(world: World) -> None:
    world.breaker.hint(10.0)
    world.breaker.hint(5.0)
    world.clock.now += 9.9
    world.send(BAD, BAD)
    world.clock.now += 0.1
    world.send(BAD)
    assert world.breaker.state is State.CLOSED


def test_a_hint_is_bounded_and_is_over_with_a_closing(world: World) -> None:
    world.breaker.hint(1e9)
    world.clock.now += 120.0
    world.send(*[BAD] * 4)
    assert world.breaker.state is State.CLOSED
    world.send(BAD)
    world.breaker.hint(100.0)
    world.clock.now += world.breaker.opens_in
    world.send(GOOD, GOOD)
    world.send(*[BAD] * 4)
    assert world.breaker.state is State.CLOSED


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.booleans(), st.booleans()),
        st.tuples(
            st.just("record"),
            st.integers(0, 50),
            st.tuples(st.sampled_from(Verdict), st.floats(0, 900)),
        ),
        st.tuples(st.just("wait"), st.floats(0, 50), st.none()),
        st.tuples(st.just("hint"), st.floats(0, 300), st.none()),
    ),
    max_size=150,
)


@given(STEPS, st.floats(0, 1))
def test_any_order_of_outcomes(steps: list[tuple[str, object, object]], chance: float) -> None:
    world = World(chance)
    breaker, clock = world.breaker, world.clock
    out: list[Permit] = []
    #: Probes that are out: permit → end of its lease.
    leases: dict[Permit, float] = {}
    for kind, first, second in steps:
        if kind == "ask":
            state = breaker.state
            permit = breaker.ok(lone=False, early=bool(second) and state is State.OPEN)
            if state is State.CLOSED:
                assert permit is not None
                assert not permit.trial
            elif permit is not None:
                assert permit.trial
                assert not [end for end in leases.values() if end > clock.now], "a second probe"
                leases[permit] = clock.now + 30.0
            elif state is State.OPEN and not second:
                assert breaker.opens_in > 0.0
            if permit is not None:
                out.append(permit)
        elif kind == "record" and out:
            permit = out.pop(first % len(out))  # type: ignore[operator]
            verdict, retry_after = second  # type: ignore[misc]
            before = breaker.state
            breaker.record(permit, verdict, retry_after)
            leases.pop(permit, None)
            if verdict is NONE:
                assert breaker.state is before
            if breaker.state is State.CLOSED:
                leases.clear()
        elif kind == "wait":
            clock.now += first  # type: ignore[operator]
        else:
            breaker.hint(first)  # type: ignore[arg-type]
        assert 0.0 <= breaker.error_ratio <= 1.0
        assert 0.0 <= breaker.opens_in <= 600.0 + 1e-6  # the sum of floats may exceed it
        assert all(8.0 - 1e-6 <= seconds <= 600.0 + 1e-6 for seconds in world.openings)
    # It comes back by itself, whatever has been lost.
    for _ in range(2):
        clock.now += breaker.opens_in + 0.001  # the sum of floats may fall short
        permit = breaker.ok(lone=False)
        assert permit is not None
        breaker.record(permit, GOOD)
    assert breaker.state is State.CLOSED
