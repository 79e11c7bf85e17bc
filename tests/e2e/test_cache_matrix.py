"""Every way for an upstream to respond, three times with `cache: on`: the same each time."""

from collections.abc import Iterator

import pytest

from tests.support.odd_responses import BREAKING, PASSING
from tests.support.raw_cache_house import CacheHouse, asking, replayed


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheHouse]:
    with CacheHouse(tmp_path_factory.mktemp("cache")) as made:
        yield made


@pytest.fixture(scope="module", params=["off", "on"])
def token(house: CacheHouse, request: pytest.FixtureRequest) -> str:
    return house.token(coalesce=request.param)


@pytest.mark.parametrize("name", list(PASSING))
def test_a_valid_response_is_the_same_each_time(house: CacheHouse, token: str, name: str) -> None:
    body = asking(house.upstream.script(PASSING[name]))
    first = house.ask(token, body)
    second = house.ask(token, body)
    house.settle()
    third = house.ask(token, body)
    assert replayed(second) == replayed(first)
    assert replayed(third) == replayed(first)


@pytest.mark.parametrize("name", list(BREAKING))
def test_a_response_that_breaks_off_breaks_off_each_time(
    house: CacheHouse, token: str, name: str
) -> None:
    script = house.upstream.script(BREAKING[name])
    for number in (1, 2, 3):
        response = house.ask(token, asking(script))
        assert not response.clean
        assert response.values("X-Cache") == ["MISS"]
        house.settle()
        assert len(house.upstream.asked_for(script)) == number
