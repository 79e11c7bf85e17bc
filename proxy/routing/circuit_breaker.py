"""A target that fails is left alone for a while, and comes back by itself.

Three states. CLOSED: all requests pass, and their outcomes are counted over the last 30 seconds.
OPEN: none passes until a time is over. HALF_OPEN: one request at a time passes, as a probe; two
good ones close the breaker, a bad one opens it again, for longer.

The counts are those of one worker. What other workers see arrives as a hint only (see
:meth:`CircuitBreaker.hint`): a node whose own network is ill must not take a target from all.
"""

from collections.abc import Callable
from enum import Enum, StrEnum, auto
from typing import Final

_SLOTS: Final = 6
_SLOT_SECONDS: Final = 5.0
#: The breaker opens at this part of at least so many outcomes, or after so many failures in a row.
_RATIO: Final = 0.5
_MIN_OUTCOMES: Final = 10
_MAX_RUN: Final = 5
#: Takes the place of the last two while a hint holds.
_HINTED: Final = 3

_FIRST_OPEN_SECONDS: Final = 10.0
_MAX_OPEN_SECONDS: Final = 120.0
_JITTER: Final = 0.2
#: A longer `retry-after` counts as this one: a probe costs the upstream little.
_MAX_RETRY_AFTER: Final = 600.0
_LEASE_SECONDS: Final = 30.0
_GOOD_PROBES: Final = 2
#: One of so many requests passes the open breaker of a lone target.
_LONE_SHARE: Final = 10
_MAX_HINT_SECONDS: Final = 120.0


class State(StrEnum):
    CLOSED = auto()
    OPEN = auto()
    HALF_OPEN = auto()


class Verdict(Enum):
    """What an attempt says about its target. Most 4xx are a SUCCESS: the target responds."""

    SUCCESS = auto()
    FAILURE = auto()
    #: Nothing: the client left, or the key was turned away.
    NONE = auto()


class Permit:
    """Leave to send one request. It goes back with :meth:`CircuitBreaker.record`, once."""

    __slots__ = ("closings", "recorded", "trial")

    def __init__(self, closings: int, trial: bool) -> None:
        #: How often the breaker had closed when the request began.
        self.closings = closings
        #: Whether the breaker was not closed then, so that this request shows how the target is.
        self.trial = trial
        self.recorded = False


class CircuitBreaker:
    """The breaker of one target in one worker.

    Args:
        clock: Returns monotonic seconds.
        random: Returns a number from 0 to 1, for the jitter.
        opened: Called with the seconds for which the breaker opened, each time. Must not wait.
    """

    __slots__ = (
        "_bad",
        "_clock",
        "_closings",
        "_good",
        "_good_probes",
        "_hinted_until",
        "_in_a_row",
        "_is_open",
        "_lease_until",
        "_lone_requests",
        "_not_before",
        "_opened",
        "_openings",
        "_opens_at",
        "_probe",
        "_random",
        "_slot",
    )

    def __init__(
        self,
        clock: Callable[[], float],
        random: Callable[[], float],
        opened: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._random = random
        self._opened = opened
        # Outcomes per slot of the window, and the failures since the last success.
        self._good = [0] * _SLOTS
        self._bad = [0] * _SLOTS
        self._slot = int(clock() // _SLOT_SECONDS)
        self._in_a_row = 0
        # Not closed: open until `_opens_at`, half open afterwards.
        self._is_open = False
        self._opens_at = 0.0
        # The end of the longest `retry-after`.
        self._not_before = 0.0
        # Openings since the last closing, and closings.
        self._openings = self._closings = 0
        self._probe: Permit | None = None
        self._lease_until = 0.0
        self._good_probes = 0
        self._lone_requests = 0
        self._hinted_until = 0.0

    @property
    def state(self) -> State:
        if not self._is_open:
            return State.CLOSED
        return State.OPEN if self._clock() < self._opens_at else State.HALF_OPEN

    @property
    def error_ratio(self) -> float:
        """The part of failures among the outcomes of the window; 0 without outcomes."""
        self._advance(self._clock())
        bad = sum(self._bad)
        return bad / ((sum(self._good) + bad) or 1)

    @property
    def opens_in(self) -> float:
        """Seconds until the next request may pass; 0 when it may pass now."""
        if not self._is_open:
            return 0.0
        now = self._clock()
        lease = self._lease_until if self._probe is not None else 0.0
        return max(0.0, self._opens_at - now, lease - now)

    def ok(self, lone: bool, *, early: bool = False) -> Permit | None:
        """Return a permit for one request, or None: the target is to be left alone.

        Args:
            lone: Whether the request has no other target. One in ten of those that would be
                refused passes, or one bad minute of the only target were an outage.
            early: Whether all targets are open and this one opens next. Then its probe need not
                wait for its time.
        """
        if not self._is_open:
            return Permit(self._closings, trial=False)
        now = self._clock()
        free = self._probe is None or now >= self._lease_until
        if free and (early or now >= self._opens_at):
            # A probe whose lease is over may still come back with a verdict, which then counts.
            self._probe = Permit(self._closings, trial=True)
            self._lease_until = now + _LEASE_SECONDS
            return self._probe
        if lone:
            self._lone_requests += 1
            if self._lone_requests % _LONE_SHARE == 0:
                return Permit(self._closings, trial=True)
        return None

    def record(self, permit: Permit, verdict: Verdict, retry_after: float | None = None) -> None:
        """Count the outcome of a permitted request. A second call for a permit does nothing.

        `retry_after` is what a 503 or 529 said, in seconds: the breaker stays open as long.
        """
        if permit.recorded:
            return
        permit.recorded = True
        if permit is self._probe:
            self._probe = None
        # An outcome from before the last closing says nothing about the target of now.
        if verdict is Verdict.NONE or permit.closings != self._closings:
            return
        now = self._clock()
        self._advance(now)
        if verdict is Verdict.SUCCESS:
            self._succeeded(permit)
        else:
            self._failed(permit, now, min(retry_after or 0.0, _MAX_RETRY_AFTER))

    def hint(self, seconds: float) -> None:
        """Open after three failures during this time: the breaker of another worker has opened."""
        until = self._clock() + min(seconds, _MAX_HINT_SECONDS)
        self._hinted_until = max(self._hinted_until, until)

    def _succeeded(self, permit: Permit) -> None:
        self._good[self._slot % _SLOTS] += 1
        self._in_a_row = 0
        if self._is_open and permit.trial:
            self._good_probes += 1
            if self._good_probes >= _GOOD_PROBES:
                self._close()

    def _failed(self, permit: Permit, now: float, retry_after: float) -> None:
        self._bad[self._slot % _SLOTS] += 1
        self._in_a_row += 1
        self._not_before = max(self._not_before, now + retry_after)
        if not self._is_open:
            if self._is_too_much(now):
                self._open(now)
        elif permit.trial:
            self._good_probes = 0
            # Before its time, a failure is what was expected.
            if now >= self._opens_at:
                self._open(now)
        self._opens_at = max(self._opens_at, self._not_before)

    def _is_too_much(self, now: float) -> bool:
        hinted = now < self._hinted_until
        if self._in_a_row >= (_HINTED if hinted else _MAX_RUN):
            return True
        bad = sum(self._bad)
        outcomes = sum(self._good) + bad
        enough = bad >= _HINTED if hinted else outcomes >= _MIN_OUTCOMES
        return enough and bad >= _RATIO * outcomes

    def _open(self, now: float) -> None:
        seconds = min(_FIRST_OPEN_SECONDS * 2.0 ** min(self._openings, 10), _MAX_OPEN_SECONDS)
        seconds *= 1 - _JITTER + 2 * _JITTER * self._random()
        self._is_open = True
        self._openings += 1
        self._good_probes = 0
        self._opens_at = max(now + seconds, self._not_before)
        self._opened(self._opens_at - now)

    def _close(self) -> None:
        self._is_open = False
        self._closings += 1
        self._openings = self._in_a_row = self._lone_requests = 0
        self._good = [0] * _SLOTS
        self._bad = [0] * _SLOTS
        self._probe = None
        self._not_before = self._hinted_until = 0.0

    def _advance(self, now: float) -> None:
        """Empty the slots whose time has come again."""
        slot = int(now // _SLOT_SECONDS)
        for passed in range(min(slot - self._slot, _SLOTS)):
            self._good[(slot - passed) % _SLOTS] = self._bad[(slot - passed) % _SLOTS] = 0
        self._slot = slot
