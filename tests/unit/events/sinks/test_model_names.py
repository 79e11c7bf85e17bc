"""Names of models that make rows of the ledger (``proxy/events/sinks/model_names.py``)."""

from datetime import UTC, datetime, timedelta

from proxy.events.sinks.model_names import MAX_PER_PROJECT, MAX_PER_TOKEN, OTHER, ModelNames

HOUR = datetime(2026, 5, 20, 10, tzinfo=UTC)


def names(names: ModelNames, token: str, count: int, project: str = "p") -> list[str]:
    return [names.bounded(HOUR, project, token, f"{token}-{number}") for number in range(count)]


def test_names_of_a_token_are_bounded_and_the_first_stay() -> None:
    known = ModelNames()
    found = names(known, "t", 1000)
    assert found[:MAX_PER_TOKEN] == [f"t-{number}" for number in range(MAX_PER_TOKEN)]
    assert set(found[MAX_PER_TOKEN:]) == {OTHER}
    assert names(known, "t", 1000) == found
    assert known.bounded(HOUR, "p", "t", "") == "", "no name is none"


def test_another_token_has_names_of_its_own() -> None:
    known = ModelNames()
    names(known, "t", 1000)
    assert OTHER not in names(known, "other", MAX_PER_TOKEN)
    assert known.bounded(HOUR, "p", "other", "t-0") == OTHER
    assert known.bounded(HOUR, "p", "third", "t-0") == "t-0"


def test_minted_tokens_do_not_raise_the_limit_of_the_project() -> None:
    known = ModelNames()
    found = {name for number in range(50) for name in names(known, f"t{number}", 20)}
    assert len(found) == MAX_PER_PROJECT + 1
    assert known.bounded(HOUR, "p", "new", "t0-0") == "t0-0", "what the project uses already"
    assert OTHER not in names(known, "elsewhere", 20, "p2")


def test_each_hour_has_its_own_names_and_old_hours_are_forgotten() -> None:
    known = ModelNames()
    names(known, "t", 1000)
    for hours in range(1, 40):
        later = HOUR + timedelta(hours=hours)
        assert known.bounded(later, "p", "t", "t-999") == "t-999"
    assert len(known._hours) == 26
