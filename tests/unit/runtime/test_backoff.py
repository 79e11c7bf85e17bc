"""Growing pauses (`proxy/runtime/backoff.py`)."""

from proxy.runtime.backoff import Backoff


def test_doubling_up_to_a_limit_and_from_the_start_again() -> None:
    backoff = Backoff(first=1, longest=10)
    for whole in (1, 2, 4, 8, 10, 10):
        assert whole / 2 <= backoff.pause() <= whole
    backoff.reset()
    assert backoff.pause() <= 1


def test_no_two_wait_alike() -> None:
    assert len({Backoff().pause() for _ in range(20)}) > 10
