"""The retry budget (``proxy/routing/retry_budget.py``)."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.retry_budget import RetryBudget
from tests.support.clock import Clock


def taken(budget: RetryBudget, attempts: int = 1000) -> int:
    return sum(budget.take() for _ in range(attempts))


def test_three_a_second_without_requests() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    assert taken(budget) == 3
    clock.now += 0.5
    assert taken(budget) == 1
    clock.now += 0.5
    assert taken(budget) == 2
    clock.now += 60.0
    assert taken(budget) == 3


def test_a_tenth_of_the_requests_besides() -> None:
    budget = RetryBudget(Clock())
    for _ in range(109):
        budget.note_request()
    assert budget.available == 13
    assert taken(budget) == 13
    assert budget.available == 0
    budget.note_request()
    assert budget.take()
    assert not budget.take()


def test_requests_count_for_ten_seconds() -> None:
    clock = Clock(1000.5)
    budget = RetryBudget(clock)
    for _ in range(100):
        budget.note_request()
    clock.now = 1009.9
    assert budget.available == 13
    clock.now = 1010.0
    assert budget.available == 3


def test_what_was_taken_is_forgotten_no_sooner_than_what_paid_for_it() -> None:
    clock = Clock(1000.0)
    budget = RetryBudget(clock)
    for _ in range(100):
        budget.note_request()
    clock.now = 1009.0
    assert taken(budget) == 13
    clock.now = 1010.0  # the requests have left the window, their retries have not
    assert budget.available == 3
    for _ in range(50):
        budget.note_request()
    assert taken(budget) == 3
    clock.now = 1019.0
    assert taken(budget) == 3 + 5


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("request"), st.integers(1, 60)),
        st.tuples(st.just("take"), st.integers(1, 40)),
        st.tuples(st.just("wait"), st.floats(0, 15)),
    ),
    max_size=60,
)


@given(STEPS)
def test_never_negative_and_never_more_than_its_share(steps: list[tuple[str, float]]) -> None:
    clock = Clock(0.0)
    budget = RetryBudget(clock)
    requests: list[float] = []
    retries: list[float] = []
    for kind, amount in steps:
        if kind == "wait":
            clock.now += amount
        elif kind == "request":
            for _ in range(int(amount)):
                budget.note_request()
                requests.append(clock.now)
        else:
            for _ in range(int(amount)):
                before = budget.available
                assert before >= 0
                assert budget.take() is (before > 0)
                assert budget.available == max(0, before - 1)
                if before:
                    retries.append(clock.now)
        since = clock.now - 10.0
        window = sum(moment > since for moment in retries)
        # The retries of ten seconds are paid for by the requests of twenty at most.
        earned = sum(moment > since - 10.0 for moment in requests) // 10
        assert window <= earned + 3 + 3 * 10 + 1
    clock.now += 1.001  # the sum of floats may fall short of a second
    assert budget.available >= 3  # everything comes back by itself
