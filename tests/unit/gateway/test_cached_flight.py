"""A request that may begin a flight, while another one of the same ends."""

from typing import Any

import pytest

from tests.support.cached_world import WHOLE, CachedWorld


def test_what_was_stored_since_the_look_up_is_not_paid_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    it = CachedWorld(coalesce=True)
    assert it.send().body == WHOLE
    it.check()
    get, looks = it.cache.get, [0]

    def late(*args: Any, **more: Any) -> Any:
        looks[0] += 1
        return None if looks[0] == 1 else get(*args, **more)

    monkeypatch.setattr(it.cache, "get", late)
    again = it.send()
    assert (again.body, it.calls) == (WHOLE, 1)
    assert dict(again.headers)["X-Cache"] == "HIT"
    assert it.events[-1].cache is not None
    assert it.events[-1].cache.how == "hit"
