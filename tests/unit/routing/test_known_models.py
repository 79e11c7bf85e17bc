"""What a worker knows of the models of its upstreams, and when it asks."""

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import orjson
import pytest

from proxy.core.errors import ConnectFailed
from proxy.policy.globs import Globs
from proxy.providers import PROVIDERS
from proxy.providers.base import NO_FACTS, ModelFacts, PreparedCall, Target
from proxy.routing.access import RoutingAccess
from proxy.routing.catalog import Catalog
from proxy.routing.known_models import INTERVAL, RETRY, KnownModels, models_in
from proxy.routing.models_request import MAX_PAGES
from proxy.upstream.timing import Timing
from tests.support.clock import Clock
from tests.support.mock_anthropic import model_info
from tests.support.relay_factories import FakeResponse
from tests.support.routing_records import catalog, key, mapping, provider
from tests.support.wait import wait_until

ALL = RoutingAccess(all_providers=True)


def listing(*names: str) -> FakeResponse:
    return FakeResponse([orjson.dumps({"data": [{"id": name} for name in names]})])


class Upstreams:
    """Responds by host, and keeps each call."""

    def __init__(self) -> None:
        self.respond: dict[str, Callable[[PreparedCall], Any]] = {}
        self.calls: list[PreparedCall] = []

    def handle(self, call: PreparedCall, timing: Timing) -> Any:
        self.calls.append(call)
        host = call.url.split("/")[2].removesuffix(".example")
        return self.respond.get(host, lambda _: listing(f"{host}-1", "common"))(call)

    def upgrade(self, call: PreparedCall, timing: Timing) -> Any:
        raise NotImplementedError


class Known(KnownModels):
    def __init__(self, timeout: float = 5.0) -> None:
        self.upstreams = Upstreams()
        self.clock = Clock()
        self.renewed = 0
        super().__init__(
            PROVIDERS, self.upstreams, self.clock, changed=self._count, timeout=timeout
        )

    def _count(self) -> None:
        self.renewed += 1

    def load(self, made: Catalog) -> None:
        self.made = made
        self.replace(made)
        self.wait(made.providers.values(), seconds=5)

    def names(self, name: str) -> list[str]:
        return [model.name for model in self.of(self.made.providers[name])]

    def later(self, seconds: float) -> None:
        self.clock.now += seconds
        self._task.wake()


@pytest.fixture
def known() -> Iterator[Known]:
    made = Known()
    yield made
    made.close()


def test_nothing_runs_while_there_is_no_provider(known: Known) -> None:
    known.load(catalog())
    assert not known._task.started
    known.load(catalog(provider("a"), key("a", "one")))
    assert known._task.started
    known.load(catalog())
    assert not known._task.started


def test_a_provider_is_asked_once_with_its_key(known: Known) -> None:
    known.load(catalog(provider("a"), key("a", "one")))
    assert known.names("a") == ["a-1", "common"]
    (call,) = known.upstreams.calls
    assert (call.request.method, call.url) == ("GET", "public+https://a.example/v1/models")
    assert ("Authorization", "Bearer secret-one") in call.request.headers


def test_it_is_asked_again_after_an_hour(known: Known) -> None:
    known.load(catalog(provider("a"), key("a", "one")))
    known.later(INTERVAL - 1)
    gevent.sleep(0.02)
    assert len(known.upstreams.calls) == 1
    known.upstreams.respond["a"] = lambda _: listing("new")
    known.later(2)
    wait_until(lambda: known.names("a") == ["new"])
    assert len(known.upstreams.calls) == 2


def test_an_outage_keeps_the_last_list_and_is_noted(known: Known) -> None:
    def down(call: PreparedCall) -> Any:
        raise ConnectFailed("The upstream could not be reached with secret-one.")

    known.load(catalog(provider("a"), key("a", "one")))
    assert known.error("id-a") is None
    known.upstreams.respond["a"] = down
    known.later(INTERVAL + 1)
    wait_until(lambda: known.error("id-a") is not None)
    assert known.error("id-a") == "The upstream could not be reached with [secret]."
    assert known.names("a") == ["a-1", "common"]
    del known.upstreams.respond["a"]
    known.later(RETRY + 1)
    wait_until(lambda: known.error("id-a") is None)


def test_only_what_changed_is_asked_again(known: Known) -> None:
    known.load(catalog(provider("a"), provider("b"), key("a", "one"), key("b", "two")))
    known.upstreams.calls.clear()
    known.load(
        catalog(
            provider("a"),
            provider("b"),
            key("a", "one"),
            key("b", "two", value="secret-new"),
            mapping("smart", "a/x"),
        )
    )
    wait_until(lambda: bool(known.upstreams.calls))
    gevent.sleep(0.02)
    assert [call.url for call in known.upstreams.calls] == ["public+https://b.example/v1/models"]
    assert known.names("b") == ["b-1", "common"]


def test_a_new_address_has_no_old_list(known: Known) -> None:
    known.load(catalog(provider("a"), key("a", "one")))
    known.upstreams.respond["other"] = lambda _: FakeResponse([b"{}"], status=500)
    known.load(catalog(provider("a", base_url="https://other.example"), key("a", "one")))
    assert known.names("a") == []
    assert known.error("id-a") == "HTTP 500"


def test_declared_models_are_not_asked_for(known: Known) -> None:
    known.load(catalog(provider("a", models=["x", "y-*"]), key("a", "one")))
    assert known.names("a") == ["x"]
    assert known.upstreams.calls == []


def test_a_provider_that_is_not_to_be_listed(known: Known) -> None:
    known.load(
        catalog(
            provider("a", list_models=False),
            provider("b"),
            provider("c", list_models=False, models=["x"]),
            key("a", "one"),
            key("c", "two"),
        )
    )
    assert (known.names("a"), known.names("b"), known.names("c")) == ([], [], [])
    assert known.upstreams.calls == []


def test_anthropic_is_asked_what_models_take_that_are_not_listed(known: Known) -> None:
    known.upstreams.respond["c"] = Pages(1)
    made = catalog(
        provider("c", "anthropic", list_models=False),
        provider("d", "anthropic", models=["x"]),
        key("c", "one"),
        key("d", "two"),
    )
    known.load(made)
    assert (known.names("c"), known.names("d")) == ([], ["x"])
    assert known.facts(made.providers["c"], "claude-0").max_tokens == 1000
    assert len(known.upstreams.calls) == 1


def test_a_provider_that_needs_no_key(known: Known) -> None:
    known.load(catalog(provider("a", "ollama")))
    assert known.names("a") == ["a-1", "common"]


def test_models_that_no_key_serves_are_left_out(known: Known) -> None:
    known.load(catalog(provider("a"), key("a", "one", models=("a-*",))))
    assert known.names("a") == ["a-1"]


def test_a_key_that_is_refused_gives_way_to_the_next(known: Known) -> None:
    def respond(call: PreparedCall) -> Any:
        if ("Authorization", "Bearer secret-two") in call.request.headers:
            return listing("x")
        return FakeResponse([b"{}"], status=401)

    known.upstreams.respond["a"] = respond
    known.load(catalog(provider("a"), key("a", "one"), key("a", "two")))
    assert known.names("a") == ["x"]


def test_googles_prefix_is_cut(known: Known) -> None:
    response = FakeResponse(
        [b'{"object":"list","data":[{"id":"models/gemini-2.5-pro","object":"model"}]}'],
        headers=[("Content-Type", "application/json")],
    )
    known.upstreams.respond["g"] = lambda _: response
    known.load(catalog(provider("g", "gemini"), key("g", "one")))
    assert known.names("g") == ["gemini-2.5-pro"]


class Pages:
    """Anthropic's list, two models a page."""

    def __init__(self, count: int) -> None:
        self.models = [model_info(f"claude-{number}", 1000 + number) for number in range(count)]
        self.asked: list[str] = []

    def __call__(self, call: PreparedCall) -> FakeResponse:
        target = call.request.target.decode()
        self.asked.append(target)
        after = target.partition("&after_id=claude-")[2]
        start = int(after) + 1 if after else 0
        page = self.models[start : start + 2]
        more = {"has_more": start + 2 < len(self.models), "last_id": page[-1]["id"]}
        return FakeResponse([orjson.dumps({"data": page, **more})])


def test_anthropics_list_is_read_page_by_page(known: Known) -> None:
    pages = known.upstreams.respond["c"] = Pages(5)
    made = catalog(provider("c", "anthropic"), key("c", "one"))
    known.load(made)
    assert known.names("c") == [f"claude-{number}" for number in range(5)]
    assert pages.asked == [
        "/v1/models?limit=1000",
        "/v1/models?limit=1000&after_id=claude-1",
        "/v1/models?limit=1000&after_id=claude-3",
    ]
    assert {model.created for model in known.of(made.providers["c"])} == {1767225600}


def test_a_list_that_does_not_end(known: Known) -> None:
    known.upstreams.respond["c"] = Pages(1000)
    known.load(catalog(provider("c", "anthropic"), key("c", "one")))
    assert len(known.upstreams.calls) == MAX_PAGES
    assert len(known.names("c")) == 2 * MAX_PAGES


def test_a_page_that_comes_again_is_the_last(known: Known) -> None:
    page = orjson.dumps({"data": [{"id": "a"}], "has_more": True, "last_id": "a"})
    known.upstreams.respond["c"] = lambda _: FakeResponse([page])
    known.load(catalog(provider("c", "anthropic"), key("c", "one")))
    assert known.names("c") == ["a"]
    assert len(known.upstreams.calls) == 2


def test_a_page_that_fails_keeps_the_last_list(known: Known) -> None:
    pages = Pages(4)
    known.upstreams.respond["c"] = pages
    known.load(catalog(provider("c", "anthropic"), key("c", "one")))

    def fails(call: PreparedCall) -> FakeResponse:
        if b"after_id" in call.request.target:
            return FakeResponse([b"{}"], status=500)
        return pages(call)

    known.upstreams.respond["c"] = fails
    known.later(INTERVAL + 1)
    wait_until(lambda: known.error("id-c") == "HTTP 500")
    assert len(known.names("c")) == 4


def test_other_lists_have_one_page(known: Known) -> None:
    page = orjson.dumps({"data": [{"id": "a"}], "has_more": True, "last_id": "a"})
    known.upstreams.respond["a"] = lambda _: FakeResponse([page])
    known.load(catalog(provider("a"), key("a", "one")))
    assert len(known.upstreams.calls) == 1


def test_what_anthropic_says_of_its_models(known: Known) -> None:
    def says(*models: dict[str, Any]) -> FakeResponse:
        return FakeResponse([orjson.dumps({"data": models, "has_more": False})])

    told = model_info("claude-a-20260101", 900, efforts=("low",), thinking=("disabled",))
    known.upstreams.respond["c"] = known.upstreams.respond["o"] = lambda _: says(told)
    made = catalog(provider("c", "anthropic"), provider("o"), key("c", "one"), key("o", "two"))
    known.load(made)
    facts = ModelFacts(900, frozenset({"low"}), frozenset({"disabled"}))
    claude = made.providers["c"]
    assert known.facts(claude, "claude-a-20260101") == facts
    assert known.facts(claude, "claude-a") == facts
    assert known.facts(claude, "claude-b") is NO_FACTS
    assert known.facts(made.providers["o"], "claude-a-20260101") is NO_FACTS, "another dialect"
    # A model that says something else is another list.
    known.upstreams.respond["c"] = lambda _: says({**told, "max_tokens": 901})
    known.later(INTERVAL + 1)
    wait_until(lambda: known.facts(claude, "claude-a").max_tokens == 901)
    # New keys do not make it forgotten meanwhile.
    known.upstreams.respond["c"] = lambda _: FakeResponse([b"{}"], status=500)
    known.load(catalog(provider("c", "anthropic"), key("c", "new")))
    wait_until(lambda: known.error("id-c") is not None)
    assert known.facts(claude, "claude-a").max_tokens == 901


def test_the_first_wait_is_bounded_and_upstreams_are_asked_at_once() -> None:
    known = Known(timeout=60)
    for name in "abc":
        known.upstreams.respond[name] = lambda _: gevent.sleep(60)
    made = catalog(
        *(provider(name) for name in "abcd"), *(key(name, f"key-{name}") for name in "abcd")
    )
    known.made = made
    known.replace(made)
    with gevent.Timeout(5):
        known.wait(made.providers.values(), seconds=0.2)
    assert len(known.upstreams.calls) == 4
    assert known.names("d") == ["d-1", "common"]
    known.close()


def test_a_silent_upstream_is_given_up() -> None:
    known = Known(timeout=0.05)
    known.upstreams.respond["a"] = lambda _: gevent.sleep(60)
    known.load(catalog(provider("a"), key("a", "one")))
    assert known.error("id-a") == "no response within 0.05 s"
    known.close()


def test_an_own_upstream_is_asked_once_for_each_key(known: Known) -> None:
    own = Target.from_url("https://own.example")
    for upstream_key in ("sk-1", "sk-1", "sk-2"):
        known.wait((), (own, upstream_key), seconds=5)
        assert [model.name for model in known.of_own(own, upstream_key)] == ["own-1", "common"]
    assert len(known.upstreams.calls) == 2
    assert ("Authorization", "Bearer sk-2") in known.upstreams.calls[1].request.headers
    known.clock.now += INTERVAL + 1
    known.upstreams.respond["own"] = lambda _: listing("new")
    # The old list serves until the new one is here.
    assert [model.name for model in known.of_own(own, "sk-1")] == ["own-1", "common"]
    wait_until(lambda: [model.name for model in known.of_own(own, "sk-1")] == ["new"])


def test_the_only_provider_with_a_model(known: Known) -> None:
    made = catalog(provider("a"), provider("b"), key("a", "one"), key("b", "two"))
    known.load(made)
    assert known.sole_provider(made, ALL, "a-1") is made.providers["a"]
    assert known.sole_provider(made, ALL, "common") is None
    only_b = RoutingAccess(providers=frozenset({"b"}))
    assert known.sole_provider(made, only_b, "common") is made.providers["b"]
    assert known.sole_provider(made, only_b, "a-1") is None


def test_a_name_that_nothing_lists_is_compared_and_not_matched(
    known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = catalog(provider("a"), key("a", "one", models=("a-*",)))
    known.load(made)
    assert known.sole_provider(made, ALL, "a-1") is made.providers["a"]
    assert known.sole_provider(made, ALL, "common") is None, "no key serves it"
    monkeypatch.setattr(Globs, "match", lambda *_: pytest.fail("a pattern is matched"))
    assert known.sole_provider(made, ALL, "nothing") is None


def test_lists_are_read_with_care() -> None:
    items: list[Any] = [
        {"id": "a", "created": 5, "owned_by": "x"},
        {"id": "a", "created": 6},
        {"id": "b", "created": True, "owned_by": 7},
        {"id": "c", "created": -1},
        {"id": "d", "created_at": "1970-01-01T00:00:01"},
        {"id": "e", "created_at": "yesterday"},
        {"id": "f", "created_at": "1969-01-01T00:00:00Z"},
        {"id": "openai/*"},
        {"id": "line\nbreak"},
        {"id": ""},
        {"id": "x" * 257},
        {"id": 5},
        "d",
        None,
    ]
    found = models_in(items)
    assert [(each.name, each.created, each.owned_by) for each in found] == [
        ("a", 5, "x"),
        ("b", 0, ""),
        ("c", 0, ""),
        ("d", 1, ""),
        ("e", 0, ""),
        ("f", 0, ""),
    ]
    assert len(models_in({"id": f"m-{number}"} for number in range(6000))) == 5000
