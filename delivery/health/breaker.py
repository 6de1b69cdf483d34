"""How an endpoint fares: pure decisions, with the clock and chance as arguments.

                      succeeded                     recovered
              ┌───────────────────────┐   ┌──────────────────────────┐
              ▼                       │   │                          │
      ┌──► HEALTHY ────failed────► FAILING ───tripped──► OPEN ──waited──► HALF_OPEN
      │       ▲                                            ▲              │   │
      │       └────────────────── recovered ───────────────│──────────────┘   │
      │                                                    └──────failed──────┘
   enabled
      │
      └─── DISABLED ◄── gone (410, or an operator's word) from anywhere; exhausted from where it fails

While it is HEALTHY or FAILING the breaker is closed and everything is sent; OPEN, nothing is; HALF_OPEN, single
probes. The breaker judges by the latest outcomes, not by failures in a row: an endpoint that fails one in ten has
none of it. An attempt that hung holds a place until its deadline, so it counts as several.

The trap is the late result. An attempt takes up to 15 s and the breaker first opens for 2: what was under way when it
opened comes in while it is half-open, or closed again. Such results say nothing about the endpoint as it is now, and
neither extend, close nor trip it: whatever began before the latest probing did is passed over.

The other trap is the second worker. Each judges by its own results, and they agree through the database by the number
of the opening (queries/endpoint_health.sql); `adopted` is how one learns what another decided.

And a clock may be set back: a breaker that the database has open for longer than any opens is half-open (`state_of`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, IntEnum, StrEnum, auto
from types import MappingProxyType
from typing import Final


class State(StrEnum):
    HEALTHY = "healthy"
    """The last attempt succeeded, or there was none."""
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
    """The breaker has been open for as long as it was to be."""
    RECOVERED = auto()
    """Enough probes succeeded in a row."""
    EXHAUSTED = auto()
    """No success for as long as is borne."""
    GONE = auto()
    """The receiver answered 410, or an operator disables it."""
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
"""Everything that is not here leaves the state as it is."""


def advance(state: State, signal: Signal) -> State:
    return TRANSITIONS.get((state, signal), state)


# The breaker

REMEMBERED: Final = 20
TRIPS_AT: Final = 10
"""Failures among the outcomes remembered."""
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
    """Seconds are of any clock that does not go back; it is the caller's."""

    state: State = State.HEALTHY
    recent: int = 0
    """One bit for each of the latest outcomes, the newest lowest; 1 is a failure."""
    openings: int = 0
    """Without a recovery in between; 0 while it is closed."""
    probing_from: float = float("-inf")
    """When the latest half-open time begins or began. What started before is late."""
    recovering: int = 0
    """Probes that succeeded in a row."""

    @property
    def closed(self) -> bool:
        return self.state in _CLOSED

    @property
    def spotless(self) -> bool:
        """A success changes nothing."""
        return self.state is State.HEALTHY and not self.recent

    def at(self, now: float) -> "Breaker":
        if self.state is State.OPEN and now >= self.probing_from:
            return replace(self, state=advance(self.state, Signal.WAITED))
        return self

    def after(self, outcome: Outcome, began: float, now: float, random: float) -> "Breaker":
        """With the result of an attempt that `began` and ended now. `random` is in [0, 1)."""
        if began < self.probing_from:
            return self
        if self.state is State.OPEN:
            return self.at(now).after(outcome, began, now, random)
        if self.state is State.HALF_OPEN:
            return self._probed(outcome, now, random)
        return self._counted(outcome, now, random)

    def adopted(self, openings: int, now: float) -> "Breaker":
        """As the database has it: half-open after so many openings, or closed when there were none."""
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
    """Twice as long with each opening, ±10 %, and never longer than LONGEST_OPEN_S."""
    doubled = FIRST_OPEN_S * 2.0 ** min(openings - 1, 10)
    return min(LONGEST_OPEN_S, min(LONGEST_OPEN_S, doubled) * (1 + JITTER * (2 * random - 1)))


NEVER_OPEN_FOR: Final = timedelta(seconds=LONGEST_OPEN_S * (1 + JITTER))
"""Beyond any opening. What the database has open for that long was opened before its clock was set back; the queries
that ask for open breakers (deliveries.sql, metrics.sql) say the same."""


# The way to being disabled

DEFAULT_DISABLE_AFTER: Final = timedelta(days=5)


class Step(IntEnum):
    """How far along the way an endpoint is to be told of, in percent."""

    NOTHING = 0
    WARN_50 = 50
    WARN_70 = 70
    WARN_90 = 90
    DISABLE = 100


_WARNINGS: Final = (Step.WARN_90, Step.WARN_70, Step.WARN_50)


def watched_after(disable_after: timedelta) -> timedelta:
    """For how long an endpoint fails before there is anything to decide."""
    return disable_after * Step.WARN_50 / 100


def watch(
    failing_since: datetime,
    last_failure_at: datetime,
    warned: int,
    now: datetime,
    disable_after: timedelta,
) -> Step:
    """What is due for an endpoint that fails; all moments of one clock. `warned`: the last warning's percent, or 0.

    Warnings go by time, for a merchant with few events has to hear of it too. Disabling takes a failure at the end of
    the way: that nothing was sent for days proves nothing.
    """
    if last_failure_at - failing_since >= disable_after:
        return Step.DISABLE
    passed = now - failing_since
    reached = next((step for step in _WARNINGS if passed * 100 >= disable_after * int(step)), Step.NOTHING)
    return reached if reached > warned else Step.NOTHING


def state_of(
    *, enabled: bool, failing_since: datetime | None, open_until: datetime | None, now: datetime
) -> State:
    """From what the database has."""
    if not enabled:
        return State.DISABLED
    if open_until is not None:
        return State.OPEN if now < open_until <= now + NEVER_OPEN_FOR else State.HALF_OPEN
    return State.FAILING if failing_since is not None else State.HEALTHY
