"""The keys of a provider (``proxy/routing/key_pool.py``)."""

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.providers.config import KEY_STRATEGIES
from proxy.providers.records import ProviderKeyRecord, ProviderKeySecret
from proxy.routing.key_pool import COOLDOWNS, MAX_COOLDOWN_SECONDS, Health, KeyPool
from tests.support.clock import Clock
from tests.support.routing_records import available_in

MODEL = "gpt-5"


def key(
    name: str,
    weight: int = 1,
    *,
    models: tuple[str, ...] = (),
    active: bool = True,
    value: str = "",
) -> ProviderKeySecret:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    record = ProviderKeyRecord(
        name, "provider", name, "sk-…", weight, models, active, moment, moment
    )
    return ProviderKeySecret(record, value or f"sk-{name}")


class World:
    """A pool, its clock, and the cooldowns that it announced."""

    def __init__(self, *keys: ProviderKeySecret, strategy: str = "weighted") -> None:
        self.clock = Clock()
        self.strategy = strategy
        self.cooled: list[tuple[str, str | None, float, int]] = []
        self.pool = self.rebuilt(*keys)

    def rebuilt(self, *keys: ProviderKeySecret, before: KeyPool | None = None) -> KeyPool:
        return KeyPool(
            keys,
            self.strategy,
            self.clock,
            lambda: 0.0,
            before=before,
            cooled=lambda *cooldown: self.cooled.append(cooldown),
        )

    def choose(self, *tried: str, model: str | None = MODEL, affinity: bytes = b"") -> str | None:
        """Choose a key and keep it in flight; returns its id."""
        chosen = self.pool.choose(model, affinity, set(tried))
        return None if chosen is None else chosen.record.id

    def take(self, *tried: str, model: str | None = MODEL, affinity: bytes = b"") -> str | None:
        """Choose a key and release it."""
        chosen = self.pool.choose(model, affinity, set(tried))
        if chosen is None:
            return None
        self.pool.release(chosen)
        return chosen.record.id

    def taken(self, requests: int, **how: bytes) -> str:
        return "".join(str(self.take(**how)) for _ in range(requests))  # type: ignore[arg-type]


def test_an_empty_pool() -> None:
    world = World()
    assert world.choose() is None
    assert available_in(world.pool, MODEL) is None
    assert world.pool.health() == []


def test_weighted_is_smooth() -> None:
    """As nginx shows it in the commit that introduced it: 5, 1, 1."""
    assert World(key("a", 5), key("b", 1), key("c", 1)).taken(14) == "aabacaa" * 2


def test_round_robin_ignores_weights() -> None:
    world = World(key("a", 9), key("b", 1), key("c", 3), strategy="round_robin")
    assert world.taken(6) == "abcabc"


def test_priority_takes_the_first_that_is_healthy() -> None:
    world = World(key("a", 1), key("b", 9), strategy="priority")
    assert world.taken(3) == "aaa"
    world.pool.cool("a", MODEL, None, 429)
    assert world.taken(3) == "bbb"
    world.clock.now += 5.0
    assert world.taken(1) == "a"


def test_least_used_takes_the_one_with_fewest_in_flight() -> None:
    world = World(key("a"), key("b"), key("c"), strategy="least_used")
    first = world.pool.choose(MODEL, b"", set())
    assert first is not None
    assert {world.choose(), world.choose()} == {"b", "c"}
    world.pool.release(first)
    assert world.choose() == "a"


def test_least_used_settles_ties_by_weight() -> None:
    world = World(key("a", 1), key("b", 3), strategy="least_used")
    assert Counter(world.taken(40)) == {"a": 10, "b": 30}


@pytest.mark.parametrize("strategy", KEY_STRATEGIES)
def test_weight_0_only_when_no_other_is_left(strategy: str) -> None:
    world = World(key("r", 0), key("a"), key("b", 2), strategy=strategy)
    assert "r" not in world.taken(50)
    assert world.take("a", "b") == "r"
    world.pool.cool("a", None, 60.0, 401)
    world.pool.cool("b", MODEL, 60.0, 429)
    assert world.taken(3) == "rrr"


def test_two_reserves_take_turns() -> None:
    assert World(key("a", 0), key("b", 0)).taken(4) == "abab"


def test_sticky_keeps_to_a_key_and_falls_through_when_that_cools() -> None:
    world = World(key("a"), key("b"), key("c"), strategy="sticky")
    homes = {n: world.take(affinity=b"%d" % n) for n in range(60)}
    assert set(homes.values()) == {"a", "b", "c"}
    assert homes == {n: world.take(affinity=b"%d" % n) for n in range(60)}
    world.pool.cool("a", MODEL, None, 429)
    moved = {n: world.take(affinity=b"%d" % n) for n in range(60)}
    assert "a" not in moved.values()
    # Only requests of the key that cools move, and they come back.
    assert all(moved[n] == homes[n] for n in homes if homes[n] != "a")
    world.clock.now += 5.0
    assert homes == {n: world.take(affinity=b"%d" % n) for n in range(60)}


def test_sticky_shares_by_weight() -> None:
    world = World(key("a", 1), key("b", 3), strategy="sticky")
    counts = Counter(world.take(affinity=b"%d" % n) for n in range(2000))
    assert 400 < counts["a"] < 600


def test_workers_do_not_begin_with_the_same_key() -> None:
    clock = Clock()
    chances = iter([0.1, 0.9])
    pool = KeyPool([key("a"), key("b")], "weighted", clock, lambda: next(chances))
    chosen = pool.choose(MODEL, b"", set())
    assert chosen is not None
    assert chosen.record.id == "b"


def test_a_key_may_be_limited_to_models_and_inactive_ones_are_never_taken() -> None:
    world = World(key("a", models=("gpt-*",)), key("b", models=("o3",)), key("c", active=False))
    assert world.taken(3) == "aaa"
    assert world.take(model="o3") == "b"
    assert world.take(model="claude") is None
    assert available_in(world.pool, "claude") is None
    assert world.take(model=None) in ("a", "b")


def test_all_keys_of_a_target_are_tried() -> None:
    """401, 402, 403, good: the fourth serves (bifrost#5876)."""
    world = World(key("a"), key("b"), key("c"), key("d"), strategy="priority")
    tried: list[str] = []
    for status, model in ((401, None), (402, None), (403, MODEL)):
        name = world.choose(*tried)
        assert name is not None
        world.pool.cool(name, model, None, status)
        tried.append(name)
    assert tried == ["a", "b", "c"]
    assert world.choose(*tried) == "d"
    # The next request goes there at once. For another model, the key with the 403 serves too.
    assert world.taken(1) == "d"
    assert world.take(model="gpt-5-mini") == "c"


@pytest.mark.parametrize(
    ("status", "lengths"),
    [
        (429, [5, 10, 20, 40, 60, 60]),
        (401, [300, 600, 1200, 2400, 3600, 3600]),
        (402, [3600, 3600]),
        (403, [600, 600]),
    ],
)
def test_growth_of_cooldowns(status: int, lengths: list[float]) -> None:
    world = World(key("a"))
    for seconds in lengths:
        world.pool.cool("a", MODEL, None, status)
        assert available_in(world.pool, MODEL) == seconds
        world.clock.now += seconds
        assert available_in(world.pool, MODEL) == 0.0
    assert [cooled[2] for cooled in world.cooled] == lengths


def test_a_success_ends_the_growth() -> None:
    world = World(key("a"))
    for _ in range(3):
        world.pool.cool("a", MODEL, None, 429)
        world.clock.now += available_in(world.pool, MODEL) or 0.0
    world.pool.record("a", 200, "another")
    world.pool.cool("a", MODEL, None, 429)
    assert available_in(world.pool, MODEL) == 40.0
    world.clock.now += 40.0
    world.pool.record("a", 200, MODEL)
    world.pool.cool("a", MODEL, None, 429)
    assert available_in(world.pool, MODEL) == 5.0


def test_a_success_does_not_end_a_cooldown_that_runs() -> None:
    world = World(key("a"))
    world.pool.cool("a", MODEL, None, 429)
    world.pool.record("a", 200, MODEL)
    assert world.choose() is None


def test_failures_in_flight_together_are_one_event() -> None:
    world = World(key("a"))
    for _ in range(20):
        world.pool.cool("a", MODEL, None, 429)
    assert available_in(world.pool, MODEL) == 5.0
    assert len(world.cooled) == 1


def test_the_longer_cooldown_holds() -> None:
    """429 with `Retry-After: 1`, then 429 without (litellm#40130), and the other way round."""
    world = World(key("a"))
    world.pool.cool("a", MODEL, 1.0, 429)
    world.pool.cool("a", MODEL, None, 429)
    assert available_in(world.pool, MODEL) == 5.0
    world.pool.cool("a", MODEL, 1.0, 429)
    assert available_in(world.pool, MODEL) == 5.0
    assert world.cooled == [("a", MODEL, 1.0, 429), ("a", MODEL, 5.0, 429)]


def test_what_the_upstream_asks_for_is_bounded() -> None:
    world = World(key("a"))
    world.pool.cool("a", MODEL, 1e12, 429)
    assert available_in(world.pool, MODEL) == MAX_COOLDOWN_SECONDS
    world.pool.reset("a")
    world.pool.cool("a", MODEL, -5.0, 429)
    assert available_in(world.pool, MODEL) == 0.0


def test_the_first_key_back_decides_the_wait() -> None:
    world = World(key("a"), key("b"), key("c", models=("o3",)))
    world.pool.cool("a", MODEL, 30.0, 429)
    assert available_in(world.pool, MODEL) == 0.0
    world.pool.cool("b", None, 12.0, 401)
    assert available_in(world.pool, MODEL) == 12.0
    assert world.choose() is None
    assert available_in(world.pool, "o3") == 0.0


def test_whole_key_and_model_both_count() -> None:
    world = World(key("a"))
    world.pool.cool("a", None, 10.0, 401)
    world.pool.cool("a", MODEL, 30.0, 429)
    assert available_in(world.pool, "other") == 10.0
    assert available_in(world.pool, None) == 10.0
    assert available_in(world.pool, MODEL) == 30.0
    world.clock.now += 10.0
    assert world.take() is None
    assert world.take(model="other") == "a"


def test_a_reset_ends_everything() -> None:
    world = World(key("a"))
    world.pool.cool("a", None, None, 401)
    world.pool.cool("a", MODEL, None, 429)
    world.pool.reset("a")
    assert world.choose() == "a"
    world.pool.cool("a", None, None, 401)
    assert available_in(world.pool, MODEL) == 300.0


def test_unknown_keys_are_ignored() -> None:
    world = World(key("a"))
    world.pool.cool("z", None, 10.0, 401)
    world.pool.hear("z", None, 10.0, 401)
    world.pool.record("z", 200, MODEL)
    world.pool.reset("z")
    world.pool.release(key("z"))
    assert [health.key_id for health in world.pool.health()] == ["a"]


def test_another_worker_is_heard_and_not_repeated() -> None:
    world = World(key("a"))
    world.pool.hear("a", MODEL, 20.0, 429)
    world.pool.hear("a", MODEL, 5.0, 429)
    assert available_in(world.pool, MODEL) == 20.0
    assert world.cooled == []


def test_health_is_that_of_the_worst_model() -> None:
    world = World(key("a"))
    [health] = world.pool.health()
    assert (health.health, health.cooling_for, health.last_status) == (Health.HEALTHY, None, None)
    assert (health.success_count, health.failure_count) == (0, 0)
    for status in (200, 200, 429, 500, 400):
        world.pool.record("a", status, MODEL)
    world.clock.now += 3.0
    world.pool.cool("a", MODEL, 60.0, 429)
    [health] = world.pool.health()
    assert (health.health, health.cooling_for, health.last_status) == (Health.COOLING, 60.0, 400)
    assert (health.success_count, health.failure_count) == (2, 2)
    world.pool.cool("a", "other", 20.0, 403)
    [health] = world.pool.health()
    assert (health.health, health.cooling_for) == (Health.FAILED, 60.0)
    world.clock.now += 20.0
    [health] = world.pool.health()
    assert (health.health, health.cooling_for) == (Health.COOLING, 40.0)
    world.clock.now += 40.0
    [health] = world.pool.health()
    assert (health.health, health.cooling_for) == (Health.HEALTHY, None)


def test_a_rebuilt_pool_knows_what_the_old_one_knew() -> None:
    world = World(key("a"), key("b"), strategy="least_used")
    world.pool.cool("a", MODEL, None, 429)
    world.pool.record("b", 200, MODEL)
    in_flight = world.pool.choose(MODEL, b"", set())
    old = world.pool
    world.pool = world.rebuilt(key("a", 7), key("b", models=("gpt-*",)), key("c"), before=old)
    assert available_in(world.pool, "o3") == 0.0
    assert world.take("c") == "b"
    assert world.take() == "c"  # `b` has one in flight
    assert in_flight is not None
    world.pool.release(in_flight)
    assert world.pool.health()[1].success_count == 1
    # Requests that still use the old pool are heard as well.
    old.cool("b", None, None, 401)
    assert world.taken(2) == "cc"


def test_a_new_value_ends_cooldowns_and_keeps_the_counts() -> None:
    world = World(key("a"))
    old_key = world.pool.choose(MODEL, b"", set())
    assert old_key is not None
    world.pool.record("a", 401, MODEL)
    world.pool.cool("a", None, None, 401)
    old = world.pool
    world.pool = world.rebuilt(key("a", value="sk-new"), before=old)
    [health] = world.pool.health()
    assert (health.health, health.failure_count, health.last_status) == (Health.HEALTHY, 1, 401)
    assert world.choose() == "a"
    world.pool.release(old_key)  # it is not the one that is in flight here
    assert world.pool._keys["a"].state.in_flight == 1
    old.cool("a", None, None, 401)
    assert world.choose() == "a"


def test_many_models_do_not_take_much_memory() -> None:
    world = World(key("a"))
    world.pool.cool("a", None, 5.0, 401)
    for number in range(2000):
        world.pool.cool("a", f"model-{number}", 10.0 + number, 403)
    state = world.pool._keys["a"].state
    assert len(state.scopes) == 256
    assert None in state.scopes
    assert "model-1999" in state.scopes
    world.clock.now += 3000.0
    world.pool.cool("a", "last", 10.0, 403)
    assert set(state.scopes) == {None, "last"}


def test_secrets_are_not_shown() -> None:
    world = World(key("a", value="sk-secret"))
    assert "sk-secret" not in repr(world.pool.health()) + repr(world.pool)


MODELS = [None, "gpt-5", "o3", "claude"]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("choose_one"), st.sampled_from(MODELS), st.sets(st.sampled_from("abcd"))),
        st.tuples(st.just("release_one"), st.integers(0, 9), st.none()),
        st.tuples(
            st.just("cool_one"),
            st.tuples(st.sampled_from("abcdz"), st.sampled_from(MODELS)),
            st.tuples(st.none() | st.floats(-1, 9000), st.sampled_from([*COOLDOWNS, 500])),
        ),
        st.tuples(
            st.just("hear_one"),
            st.tuples(st.sampled_from("abcdz"), st.sampled_from(MODELS)),
            st.tuples(st.floats(-1, 9000), st.sampled_from([*COOLDOWNS])),
        ),
        st.tuples(
            st.just("record_one"), st.sampled_from("abcdz"), st.sampled_from([200, 400, 429, 500])
        ),
        st.tuples(st.just("wait_for"), st.floats(0, 400), st.none()),
        st.tuples(st.just("rebuild_it"), st.none(), st.none()),
    ),
    max_size=80,
)


SERVING: dict[str | None, str] = {None: "abc", "gpt-5": "abc", "o3": "abc", "claude": "ac"}


class Checked(World):
    """A world that knows what must hold: the ends of cooldowns, and what is in flight."""

    def __init__(self, strategy: str) -> None:
        self.keys = [
            key("a", 3),
            key("b", models=("gpt-*", "o3")),
            key("c", 0),
            key("d", active=False),
        ]
        super().__init__(*self.keys, strategy=strategy)
        #: Key and model (None: all) → end of the cooldown.
        self.ends: dict[tuple[str, str | None], float] = {}
        self.in_flight: list[ProviderKeySecret] = []

    def free(self, model: str | None) -> set[str]:
        return {
            name
            for name in SERVING[model]
            if max(self.ends.get((name, scope), 0.0) for scope in (None, model)) <= self.clock.now
        }

    def choose_one(self, model: str | None, tried: set[str]) -> None:
        left = self.free(model) - tried
        chosen = self.pool.choose(model, b"x", tried)
        if not left:
            assert chosen is None
            return
        assert chosen is not None
        assert chosen.record.id in left
        assert chosen.record.weight > 0 or left == {chosen.record.id}
        self.in_flight.append(chosen)

    def release_one(self, number: int, _: object) -> None:
        if self.in_flight:
            self.pool.release(self.in_flight.pop(number % len(self.in_flight)))

    def cool_one(self, where: tuple[str, str | None], how: tuple[float | None, int]) -> None:
        self.pool.cool(*where, *how)
        self.check_end(*where)

    def hear_one(self, where: tuple[str, str | None], how: tuple[float, int]) -> None:
        self.pool.hear(*where, *how)
        self.check_end(*where)

    def check_end(self, name: str, model: str | None) -> None:
        if name != "z":
            end = self.pool._keys[name].state.scopes[model].until
            assert end >= self.ends.get((name, model), 0.0), "shortened"
            assert end <= self.clock.now + MAX_COOLDOWN_SECONDS
            self.ends[name, model] = end

    def record_one(self, name: str, status: int) -> None:
        self.pool.record(name, status, "gpt-5")

    def wait_for(self, seconds: float, _: object) -> None:
        self.clock.now += seconds

    def rebuild_it(self, _: object, __: object) -> None:
        self.pool = self.rebuilt(*self.keys, before=self.pool)

    def check(self) -> None:
        for model in MODELS:
            wait = available_in(self.pool, model)
            assert wait is not None
            assert 0.0 <= wait <= MAX_COOLDOWN_SECONDS
            assert (wait == 0.0) is bool(self.free(model))
        held = Counter(secret.record.id for secret in self.in_flight)
        for name, one in self.pool._keys.items():
            assert one.state.in_flight == held[name]


@given(STEPS, st.sampled_from(KEY_STRATEGIES))
def test_any_order_of_outcomes(steps: list[tuple[str, object, object]], strategy: str) -> None:
    world = Checked(strategy)
    for step, first, second in steps:
        getattr(world, step)(first, second)
        world.check()
    # Everything comes back by itself.
    world.clock.now += MAX_COOLDOWN_SECONDS
    assert world.choose() is not None
    assert all(health.health is Health.HEALTHY for health in world.pool.health())
