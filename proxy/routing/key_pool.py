"""The upstream keys of one provider: which one a request takes, and which ones rest.

A key that the upstream turns away cools: for one model (403, 429) or for all (401, 402). While it
cools, other keys are taken. Every cooldown ends by itself, since a pool whose keys had to be put
back by hand would only shrink.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import Final

from proxy.policy.globs import Globs
from proxy.providers.records import ProviderKeySecret

MAX_COOLDOWN_SECONDS: Final = 3600.0
#: Stands for the model of requests that name none, so that these do not cool the key for all.
NO_MODEL: Final = "(no model)"
#: Scopes (models, and the whole key) that a key remembers. Clients may choose the models' names.
_MAX_SCOPES: Final = 256


@dataclass(frozen=True, slots=True)
class Cooldown:
    """How long a key rests: `first` seconds, twice as long each further time, up to `maximum`."""

    first: float
    maximum: float

    def seconds(self, repeats: int) -> float:
        return min(self.first * 2.0 ** min(repeats, 20), self.maximum)


#: Status → its cooldown. An exhausted quota counts as 402, whatever status it comes with.
COOLDOWNS: Final[Mapping[int, Cooldown]] = {
    401: Cooldown(300.0, 3600.0),
    402: Cooldown(3600.0, 3600.0),
    403: Cooldown(600.0, 600.0),
    429: Cooldown(5.0, 60.0),
}
#: What other statuses cause, if they cause any.
_OTHER: Final = Cooldown(5.0, 60.0)
#: The status that is no fault of the key.
_RATE_LIMITED: Final = 429


class Health(StrEnum):
    HEALTHY = auto()
    #: Rate limited.
    COOLING = auto()
    #: Turned away for another reason, and resting.
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class KeyView:
    """What one worker knows of a key. Times are durations in seconds."""

    key_id: str
    #: That of the model for which the key is worst.
    health: Health
    #: Until the last cooldown ends; None: none runs.
    cooling_for: float | None
    #: The status of the latest response, as it was recorded; None before the first.
    last_status: int | None
    success_count: int
    failure_count: int


@dataclass(frozen=True, slots=True)
class KeyWait:
    """Why no key may be taken, and for how many seconds."""

    seconds: float
    #: Whether all keys are at their rate limit.
    limited: bool
    #: Whether all keys were turned away for another reason.
    refused: bool


@dataclass(slots=True)
class _Scope:
    """The cooldowns of a key for one model, or for all. `repeats` grows until a success."""

    until: float
    status: int
    repeats: int = 0


@dataclass(slots=True)
class _KeyState:
    """What outlives a change of the configuration, as long as the key's value stays."""

    #: Model, or None for the whole key.
    scopes: dict[str | None, _Scope] = field(default_factory=dict)
    in_flight: int = 0
    last_status: int | None = None
    success_count: int = 0
    failure_count: int = 0

    def cools_until(self, model: str | None, now: float) -> float:
        """Return when the key may be taken for `model`: not after `now` if it may be now."""
        if not self.scopes:
            return now
        whole = self.scopes.get(None)
        until = whole.until if whole is not None else now
        one = self.scopes.get(model or NO_MODEL)
        return max(until, one.until) if one is not None else until

    def cools_by(self, model: str | None, now: float) -> set[int]:
        """Return the statuses of the cooldowns that run for `model`."""
        scopes = (self.scopes.get(None), self.scopes.get(model or NO_MODEL))
        return {scope.status for scope in scopes if scope is not None and scope.until > now}


class _PoolKey:
    """A key with its place in the pool."""

    __slots__ = ("current", "globs", "id_bytes", "secret", "share", "state", "weight")

    def __init__(self, secret: ProviderKeySecret, share: int, state: _KeyState) -> None:
        self.secret = secret
        self.weight = secret.record.weight
        #: Its part in the rotation.
        self.share = share
        self.state = state
        self.globs = Globs(secret.record.models) if secret.record.models else None
        self.id_bytes = secret.record.id.encode()
        #: Of the smooth weighted round robin.
        self.current = 0.0


class KeyPool:
    """The keys of one provider in one worker.

    Args:
        keys: In order. Inactive ones are never taken.
        strategy: One of :data:`proxy.providers.config.KEY_STRATEGIES`.
        clock: Returns monotonic seconds.
        random: Returns a number from 0 to 1. It sets where the rotation begins, or all workers
            would begin with the same key.
        before: The pool that this one replaces. Cooldowns and counts of keys whose value did not
            change are shared with it, so both may be in use for a while.
        cooled: Called with key id, model, seconds and status of each cooldown that begins here, or
            becomes longer. Must not wait.
    """

    def __init__(
        self,
        keys: Sequence[ProviderKeySecret],
        strategy: str,
        clock: Callable[[], float],
        random: Callable[[], float],
        *,
        before: "KeyPool | None" = None,
        cooled: Callable[[str, str | None, float, int], None] = lambda *_: None,
    ) -> None:
        self._strategy = strategy
        self._clock = clock
        self._cooled = cooled
        self._keys: dict[str, _PoolKey] = {}
        for secret in keys:
            weighted = strategy not in ("round_robin", "priority")
            share = secret.record.weight if weighted else min(secret.record.weight, 1)
            key = _PoolKey(secret, share, _state_of(secret, before))
            key.current = random() * share
            self._keys[secret.record.id] = key

    def choose(
        self, model: str | None, affinity: bytes, tried: Set[str]
    ) -> ProviderKeySecret | None:
        """Return a key that serves `model` and does not cool for it, and count it as in flight.

        The caller gives it back with :meth:`release`.

        Args:
            model: The upstream's name of the model; None: the request names none.
            affinity: Requests with equal bytes go to the same key, with the strategy `sticky`.
            tried: Ids of keys that are not to be taken again.

        Returns:
            None when no key is left: see :meth:`waits`.
        """
        now = self._clock()
        free = [
            key
            for key in self._serving(model)
            if key.secret.record.id not in tried and key.state.cools_until(model, now) <= now
        ]
        # A weight of 0 makes a key the reserve.
        free = [key for key in free if key.weight > 0] or free
        if not free:
            return None
        chosen = free[0] if len(free) == 1 else self._pick(free, affinity)
        chosen.state.in_flight += 1
        return chosen.secret

    def pinned(self, model: str | None, affinity: bytes) -> ProviderKeySecret | None:
        """As :meth:`choose`, but the one key for this affinity, whatever the strategy. None while
        that key cools: what the upstream keeps is with this key alone."""
        serving = list(self._serving(model))
        if not serving:
            return None
        chosen = max(serving, key=lambda key: _rendezvous(key, affinity))
        now = self._clock()
        if chosen.state.cools_until(model, now) > now:
            return None
        chosen.state.in_flight += 1
        return chosen.secret

    def free(self, model: str | None, tried: Set[str]) -> bool:
        """Return whether :meth:`choose` would find a key."""
        now = self._clock()
        return any(
            key.secret.record.id not in tried and key.state.cools_until(model, now) <= now
            for key in self._serving(model)
        )

    def waits(self, model: str | None, affinity: bytes | None = None) -> KeyWait | None:
        """Return when the first key for `model` may be taken, or the one that is pinned to
        `affinity`; None: there is none."""
        now = self._clock()
        serving = list(self._serving(model))
        if serving and affinity is not None:
            serving = [max(serving, key=lambda key: _rendezvous(key, affinity))]
        if not serving:
            return None
        first = min(serving, key=lambda key: key.state.cools_until(model, now))
        limited = all(key.state.cools_by(model, now) == {_RATE_LIMITED} for key in serving)
        refused = all(bool(key.state.cools_by(model, now) - {_RATE_LIMITED}) for key in serving)
        return KeyWait(max(0.0, first.state.cools_until(model, now) - now), limited, refused)

    def release(self, key: ProviderKeySecret) -> None:
        """Count the request with this key as done. Keys that are no longer there are ignored."""
        known = self._keys.get(key.record.id)
        # A value that was replaced in the meantime belongs to requests that are counted elsewhere.
        if known is not None and known.secret.value == key.value and known.state.in_flight > 0:
            known.state.in_flight -= 1

    def cool(self, key_id: str, model: str | None, seconds: float | None, status: int) -> None:
        """Let a key rest, since the upstream turned it away.

        Args:
            key_id: Unknown ids are ignored.
            model: The model for which it rests; None: all.
            seconds: What the upstream asked for. None: by :data:`COOLDOWNS`, longer each time
                until a success. A cooldown that already runs is never shortened.
            status: The status that the response counts as.
        """
        known = self._keys.get(key_id)
        if known is None:
            return
        now = self._clock()
        scope = known.state.scopes.get(model)
        repeats = 0
        if scope is not None:
            # Responses to requests that were in flight together are one event.
            repeats = scope.repeats + (scope.until <= now)
        if seconds is None:
            seconds = COOLDOWNS.get(status, _OTHER).seconds(repeats)
        before = now if scope is None else scope.until
        scope = self._rest(known.state, model, seconds, status)
        scope.repeats = repeats
        if scope.until > before:
            self._cooled(key_id, model, scope.until - now, status)

    def cool_all(self, model: str | None, seconds: float | None, status: int) -> None:
        """As :meth:`cool`, for all keys that serve `model`: they share one quota. With None, they
        rest for requests that name no model."""
        for key in self._serving(model):
            self.cool(key.secret.record.id, model or NO_MODEL, seconds, status)

    def hear(self, key_id: str, model: str | None, seconds: float, status: int) -> None:
        """Let a key rest, since another worker says so. `cooled` is not called."""
        known = self._keys.get(key_id)
        if known is not None:
            self._rest(known.state, model, seconds, status)

    def record(self, key_id: str, status: int, model: str | None) -> None:
        """Count a response to a request with this key.

        A success ends the growth of the key's cooldowns and of those for `model`. It does not end
        a cooldown that runs. A 4xx that is no fault of the key counts neither way.
        """
        known = self._keys.get(key_id)
        if known is None:
            return
        state = known.state
        state.last_status = status
        now = self._clock()
        if status < 400:
            state.success_count += 1
            for name in (None, model or NO_MODEL):
                scope = state.scopes.get(name)
                if scope is not None and scope.until <= now:
                    del state.scopes[name]
        elif status in COOLDOWNS or status >= 500:
            state.failure_count += 1

    def health(self) -> list[KeyView]:
        """Return the health of each key, in order."""
        now = self._clock()
        return [_health(key_id, key.state, now) for key_id, key in self._keys.items()]

    def reset(self, key_id: str) -> None:
        """End the cooldowns of a key, and their growth."""
        known = self._keys.get(key_id)
        if known is not None:
            known.state.scopes.clear()

    def _serving(self, model: str | None) -> Iterable[_PoolKey]:
        for key in self._keys.values():
            if key.secret.record.is_active and (
                model is None or key.globs is None or key.globs.match(model)
            ):
                yield key

    def _pick(self, free: list[_PoolKey], affinity: bytes) -> _PoolKey:
        if self._strategy == "priority":
            return free[0]
        if self._strategy == "sticky":
            return max(free, key=lambda key: _rendezvous(key, affinity))
        if self._strategy == "least_used":
            fewest = min(key.state.in_flight for key in free)
            free = [key for key in free if key.state.in_flight == fewest]
        return _next_in_turn(free)

    def _rest(self, state: _KeyState, model: str | None, seconds: float, status: int) -> _Scope:
        now = self._clock()
        until = now + min(max(seconds, 0.0), MAX_COOLDOWN_SECONDS)
        scope = state.scopes.get(model)
        if scope is None:
            if len(state.scopes) >= _MAX_SCOPES:
                _make_room(state.scopes, now)
            scope = state.scopes[model] = _Scope(until, status)
        elif until > scope.until:
            scope.until, scope.status = until, status
        return scope


def _state_of(secret: ProviderKeySecret, before: KeyPool | None) -> _KeyState:
    """Return the state that a key begins with: what `before` knows of the same value."""
    old = before._keys.get(secret.record.id) if before is not None else None  # noqa: SLF001
    if old is None:
        return _KeyState()
    if old.secret.value == secret.value:
        return old.state
    # Another value is another key to the upstream; the history stays.
    state = old.state
    return _KeyState(
        last_status=state.last_status,
        success_count=state.success_count,
        failure_count=state.failure_count,
    )


def _next_in_turn(free: list[_PoolKey]) -> _PoolKey:
    """Smooth weighted round robin, as nginx has it: no key is taken many times in a row."""
    total = 0
    best = free[0]
    for key in free:
        share = key.share or 1  # where only the reserve is left
        total += share
        key.current += share
        if key.current > best.current:
            best = key
    best.current -= total
    return best


def _rendezvous(key: _PoolKey, affinity: bytes) -> float:
    """The weighted score of a key: the highest one wins, whatever other keys come or go."""
    digest = hashlib.blake2b(affinity, digest_size=8, key=key.id_bytes[:64]).digest()
    # Between 0 and 1, without either: 52 bits and a half are exact in a float.
    fraction = ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2.0**52
    return -(key.share or 1) / math.log(fraction)


def _make_room(scopes: dict[str | None, _Scope], now: float) -> None:
    """Forget cooldowns that have ended, or else the one that ends first. The whole key's stays."""
    for name in [name for name, scope in scopes.items() if name is not None and scope.until <= now]:
        del scopes[name]
    if len(scopes) >= _MAX_SCOPES:
        del scopes[
            min((name for name in scopes if name is not None), key=lambda n: scopes[n].until)
        ]


def _health(key_id: str, state: _KeyState, now: float) -> KeyView:
    running = [scope for scope in state.scopes.values() if scope.until > now]
    health = Health.HEALTHY
    if running:
        limited = all(scope.status == _RATE_LIMITED for scope in running)
        health = Health.COOLING if limited else Health.FAILED
    return KeyView(
        key_id,
        health,
        max(scope.until for scope in running) - now if running else None,
        state.last_status,
        state.success_count,
        state.failure_count,
    )
