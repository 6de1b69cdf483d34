"""States of an endpoint's health and its circuit breaker: pure decisions; the clock and random numbers are arguments.

                      succeeded                     recovered
              ┌───────────────────────┐   ┌──────────────────────────┐
              ▼                       │   │                          │
      ┌──► HEALTHY ────failed────► FAILING ───tripped──► OPEN ──waited──► HALF_OPEN
      │       ▲                                            ▲              │   │
      │       └────────────────── recovered ───────────────│──────────────┘   │
      │                                                    └──────failed──────┘
   enabled
      │
      └─── DISABLED ◄── gone (a 410 or an operator) from any state; exhausted from any failing state

In HEALTHY and FAILING the breaker is closed and every delivery is sent; in OPEN none is; in HALF_OPEN single probes are.
The breaker counts failures among the latest outcomes, not failures in a row, so one failure in ten never opens it. An
attempt that hung holds a slot until its deadline, so it counts as two failures.

One trap is the late result. An attempt takes up to 15 s, and the breaker first opens for 2 s: attempts under way then end
while it is half-open or closed again. Their results are out of date and must not extend, close or trip it, so results of
attempts that began before the latest probing are ignored.

The other trap is the second worker. Each worker decides by its own results, and they agree through the database by the
number of the opening (queries/endpoint_health.sql); `adopted` applies what another worker decided.

And a clock may be set back: a breaker that is open for longer than any opening lasts counts as half-open (`state_of`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, IntEnum, StrEnum, auto
from types import MappingProxyType
from typing import Final


class State(StrEnum):
    HEALTHY = "healthy"
    """The latest attempt succeeded, or there was none."""
    FAILING = "failing"
    OPEN = "open"
    HALF_OPEN = "half_open"
    DISABLED = "disabled"


class Signal(StrEnum):
    SUCCEEDED = auto()
    FAILED = auto()
    TRIPPED = auto()
    """Too many of the latest outcomes are failures."""
    WAITED = auto()
    """The time of the opening is over."""
    RECOVERED = auto()
    """Enough probes succeeded in a row."""
    EXHAUSTED = auto()
    """No success for `disable_after`."""
    GONE = auto()
    """The receiver answered 410, or an operator disabled the endpoint."""
    ENABLED = auto()


TRANSITIONS: Final[Mapping[tuple[State, Signal], State]] = MappingProxyType(
    {
        (State.HEALTHY, Signal.SUCCEEDED): State.HEALTHY,
        (State.HEALTHY, Signal.FAILED): State.FAILING,
        (State.HEALTHY, Signal.GONE): State.DISABLED,
        (State.FAILING, Signal.SUCCEEDED): State.HEALTHY,
        (State.FAILING, Signal.FAILED): State.FAILING,
        (State.FAILING, Signal.TRIPPED): State.OPEN,
        (State.FAILING, Signal.EXHAUSTED): State.DISABLED,
        (State.FAILING, Signal.GONE): State.DISABLED,
        (State.OPEN, Signal.WAITED): State.HALF_OPEN,
        (State.OPEN, Signal.EXHAUSTED): State.DISABLED,
        (State.OPEN, Signal.GONE): State.DISABLED,
        (State.HALF_OPEN, Signal.SUCCEEDED): State.HALF_OPEN,
        (State.HALF_OPEN, Signal.FAILED): State.OPEN,
        (State.HALF_OPEN, Signal.RECOVERED): State.HEALTHY,
        (State.HALF_OPEN, Signal.EXHAUSTED): State.DISABLED,
        (State.HALF_OPEN, Signal.GONE): State.DISABLED,
        (State.DISABLED, Signal.ENABLED): State.HEALTHY,
    }
)
"""Any other combination leaves the state unchanged."""


def advance(state: State, signal: Signal) -> State:
    return TRANSITIONS.get((state, signal), state)


# The breaker

REMEMBERED: Final = 20
TRIPS_AT: Final = 10
"""Failures among the latest REMEMBERED outcomes."""
HUNG_COUNTS: Final = 2
RECOVERS_AFTER: Final = 3
FIRST_OPEN_S: Final = 2.0
LONGEST_OPEN_S: Final = 300.0
JITTER: Final = 0.10
_ALL: Final = (1 << REMEMBERED) - 1
_CLOSED: Final = (State.HEALTHY, State.FAILING)


class Outcome(Enum):
    OK = auto()
    FAILED = auto()
    HUNG = auto()


@dataclass(frozen=True, slots=True)
class Breaker:
    """Times are seconds of the caller's monotonic clock."""

    state: State = State.HEALTHY
    recent: int = 0
    """One bit per outcome, the newest is the lowest; 1 is a failure."""
    openings: int = 0
    """Openings without a recovery in between; 0 while the breaker is closed."""
    probing_from: float = float("-inf")
    """When the latest half-open time begins or began. Attempts that started before are ignored."""
    recovering: int = 0
    """Successful probes in a row."""

    @property
    def closed(self) -> bool:
        return self.state in _CLOSED

    @property
    def has_no_failures(self) -> bool:
        """Whether a success changes nothing."""
        return self.state is State.HEALTHY and not self.recent

    def at(self, now: float) -> "Breaker":
        """Returns the breaker at that time: an open one becomes half-open."""
        if self.state is State.OPEN and now >= self.probing_from:
            return replace(self, state=advance(self.state, Signal.WAITED))
        return self

    def after(self, outcome: Outcome, began: float, now: float, random: float) -> "Breaker":
        """Returns the breaker after an attempt that started at `began` and ended now. `random` is in [0, 1)."""
        if began < self.probing_from:
            return self
        if self.state is State.OPEN:
            return self.at(now).after(outcome, began, now, random)
        if self.state is State.HALF_OPEN:
            return self._probed(outcome, now, random)
        return self._counted(outcome, now, random)

    def adopted(self, openings: int, now: float) -> "Breaker":
        """Returns the breaker in the database's state: half-open after that many openings, or closed after none."""
        if not openings:
            return self if self.closed else Breaker(probing_from=min(self.probing_from, now))
        if self.state is State.HALF_OPEN and self.openings == openings:
            return self
        return Breaker(State.HALF_OPEN, openings=openings, probing_from=now)

    def _counted(self, outcome: Outcome, now: float, random: float) -> "Breaker":
        recent = remember(self.recent, outcome)
        state = advance(self.state, Signal.SUCCEEDED if outcome is Outcome.OK else Signal.FAILED)
        if state is State.FAILING and recent.bit_count() >= TRIPS_AT:
            return self._opened(advance(state, Signal.TRIPPED), now, random)
        return Breaker(state, recent, probing_from=self.probing_from)

    def _probed(self, outcome: Outcome, now: float, random: float) -> "Breaker":
        if outcome is not Outcome.OK:
            return self._opened(advance(self.state, Signal.FAILED), now, random)
        if self.recovering + 1 >= RECOVERS_AFTER:
            return Breaker(advance(self.state, Signal.RECOVERED), probing_from=self.probing_from)
        return replace(self, state=advance(self.state, Signal.SUCCEEDED), recovering=self.recovering + 1)

    def _opened(self, state: State, now: float, random: float) -> "Breaker":
        openings = self.openings + 1
        return Breaker(state, openings=openings, probing_from=now + open_for_s(openings, random))


def remember(recent: int, outcome: Outcome) -> int:
    if outcome is Outcome.OK:
        return recent << 1 & _ALL
    times = HUNG_COUNTS if outcome is Outcome.HUNG else 1
    return (recent << times | (1 << times) - 1) & _ALL


def open_for_s(openings: int, random: float) -> float:
    """Doubles with each opening, ±10 %, up to LONGEST_OPEN_S."""
    doubled = FIRST_OPEN_S * 2.0 ** min(openings - 1, 10)
    return min(LONGEST_OPEN_S, min(LONGEST_OPEN_S, doubled) * (1 + JITTER * (2 * random - 1)))


LONGER_THAN_ANY_OPENING: Final = timedelta(seconds=LONGEST_OPEN_S * (1 + JITTER))
"""Longer than any opening. A breaker that the database has open for longer was opened before its clock was set back. The
queries for open breakers (deliveries.sql, metrics.sql) use the same limit."""


# Warnings before an endpoint is disabled

DEFAULT_DISABLE_AFTER: Final = timedelta(days=5)


class Step(IntEnum):
    """A warning or the disabling of a failing endpoint, in percent of `disable_after`."""

    NOTHING = 0
    WARN_50 = 50
    WARN_70 = 70
    WARN_90 = 90
    DISABLE = 100


_WARNINGS: Final = (Step.WARN_90, Step.WARN_70, Step.WARN_50)


def first_warning_after(disable_after: timedelta) -> timedelta:
    """How long an endpoint fails before its first warning."""
    return disable_after * Step.WARN_50 / 100


def due_step(
    failing_since: datetime,
    last_failure_at: datetime,
    warned: int,
    now: datetime,
    disable_after: timedelta,
) -> Step:
    """Returns the step that is due for a failing endpoint; all times are of one clock. `warned`: percent of the last
    warning, or 0.

    Warnings depend on time alone, because a merchant with few events needs them too. Disabling needs a failure after
    `disable_after`: an endpoint to which no attempt was made may work again.
    """
    if last_failure_at - failing_since >= disable_after:
        return Step.DISABLE
    passed = now - failing_since
    reached = next((step for step in _WARNINGS if passed * 100 >= disable_after * int(step)), Step.NOTHING)
    return reached if reached > warned else Step.NOTHING


def state_of(
    *, enabled: bool, failing_since: datetime | None, open_until: datetime | None, now: datetime
) -> State:
    """Returns the state of an endpoint's row in the database."""
    if not enabled:
        return State.DISABLED
    if open_until is not None:
        return State.OPEN if now < open_until <= now + LONGER_THAN_ANY_OPENING else State.HALF_OPEN
    return State.FAILING if failing_since is not None else State.HEALTHY
