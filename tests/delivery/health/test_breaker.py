"""The table of states, the breaker, and the warnings before disabling. Tests set the clock and random numbers."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from delivery.health.breaker import (
    HUNG_COUNTS,
    LONGEST_OPEN_S,
    RECOVERS_AFTER,
    REMEMBERED,
    TRANSITIONS,
    TRIPS_AT,
    Breaker,
    Outcome,
    Signal,
    State,
    Step,
    advance,
    due_step,
    first_warning_after,
    open_for_s,
    state_of,
)

OK, FAILED, HUNG = Outcome.OK, Outcome.FAILED, Outcome.HUNG
EVEN = 0.5
"""The random number without jitter."""
FIVE_DAYS = timedelta(days=5)
START = datetime(2026, 6, 28, 9, 0, tzinfo=UTC)
STEP = timedelta(microseconds=1)

signals = st.lists(st.sampled_from(Signal), max_size=40)
outcomes = st.sampled_from(Outcome)
chances = st.floats(0, 1, exclude_max=True)


def path(given_signals: list[Signal]) -> list[State]:
    states = [State.HEALTHY]
    for signal in given_signals:
        states.append(advance(states[-1], signal))
    return states


# The table


@given(signals)
def test_only_enabling_leaves_the_state_disabled(given_signals: list[Signal]) -> None:
    for (before, after), signal in zip(pairwise(path(given_signals)), given_signals, strict=True):
        if before is State.DISABLED and after is not State.DISABLED:
            assert (signal, after) == (Signal.ENABLED, State.HEALTHY)


@given(signals)
def test_half_open_follows_open_and_open_follows_failures(
    given_signals: list[Signal],
) -> None:
    for before, after in pairwise(path(given_signals)):
        if after is State.HALF_OPEN:
            assert before in {State.OPEN, State.HALF_OPEN}
        if after is State.OPEN:
            assert before in {State.OPEN, State.HALF_OPEN, State.FAILING}


@pytest.mark.parametrize("state", State)
def test_gone_disables_from_every_state(state: State) -> None:
    assert advance(state, Signal.GONE) is State.DISABLED


def test_only_time_ends_the_state_open() -> None:
    """Late results neither close nor extend it."""
    for signal in (Signal.SUCCEEDED, Signal.FAILED, Signal.TRIPPED, Signal.RECOVERED):
        assert advance(State.OPEN, signal) is State.OPEN


def test_only_a_failing_endpoint_is_disabled_for_failing() -> None:
    disabled = {state for state in State if advance(state, Signal.EXHAUSTED) is State.DISABLED}
    assert disabled == {State.FAILING, State.OPEN, State.HALF_OPEN, State.DISABLED}


def test_every_state_and_every_signal_is_in_the_table() -> None:
    assert set(TRANSITIONS.values()) == set(State)
    assert {signal for _, signal in TRANSITIONS} == set(Signal)


# The breaker, step by step


def run(breaker: Breaker, *results: Outcome, now: float = 0.0) -> Breaker:
    """Each attempt begins and ends at `now`."""
    for result in results:
        breaker = breaker.after(result, now, now, EVEN)
    return breaker


@pytest.mark.parametrize(
    ("results", "state"),
    [
        ([FAILED] * 9, State.FAILING),
        ([FAILED] * 10, State.OPEN),
        ([HUNG] * 4, State.FAILING),
        ([HUNG] * 5, State.OPEN),
        ([FAILED, OK] * 9 + [FAILED], State.OPEN),
        ([OK] * 500 + [FAILED] * 10, State.OPEN),
        (([FAILED] + [OK] * 9) * 50, State.HEALTHY),
        (([HUNG] + [OK] * 9) * 50, State.HEALTHY),
        ([FAILED] * 9 + [OK], State.HEALTHY),
        ([FAILED] * 9 + [OK] * 10 + [FAILED], State.OPEN),
        ([FAILED] * 9 + [OK] * 11 + [FAILED], State.FAILING),
        ([HUNG] * 4 + [FAILED], State.FAILING),
        ([HUNG] * 4 + [FAILED] * 2, State.OPEN),
        ([HUNG, *[OK] * 10, *[FAILED] * 9], State.OPEN),
        ([HUNG, *[OK] * 11, *[FAILED] * 9], State.FAILING),
    ],
    ids=repr,
)
def test_ten_failures_in_the_latest_twenty_outcomes_trip_it(results: list[Outcome], state: State) -> None:
    assert run(Breaker(), *results).state is state


TRIPPED = run(Breaker(), *[FAILED] * 10)


def test_it_opens_for_two_seconds_and_is_then_half_open() -> None:
    assert TRIPPED.probing_from == 2.0
    assert TRIPPED.at(1.999).state is State.OPEN
    assert TRIPPED.at(2.0).state is State.HALF_OPEN
    assert not TRIPPED.at(2.0).closed


def test_three_successful_probes_close_and_reset_it() -> None:
    assert run(TRIPPED, OK, OK, now=2.0).state is State.HALF_OPEN
    recovered = run(TRIPPED, OK, OK, OK, now=2.0)
    assert (recovered.state, recovered.openings, recovered.recent) == (State.HEALTHY, 0, 0)
    reopened = run(recovered, *[FAILED] * 10, now=9.0)
    assert (reopened.openings, reopened.probing_from) == (1, 11.0)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_failed_probe_opens_it_for_twice_as_long(before: int) -> None:
    breaker, now = TRIPPED, 2.0
    for opening in range(2, 12):
        breaker = run(breaker, *[OK] * before, FAILED, now=now)
        assert (breaker.state, breaker.openings) == (State.OPEN, opening)
        assert breaker.probing_from == now + min(300.0, 2.0**opening)
        now = breaker.probing_from


@pytest.mark.parametrize("outcome", Outcome)
def test_an_attempt_from_before_the_opening_changes_nothing(outcome: Outcome) -> None:
    began = 1.0  # even after it opened: the delivery had been claimed before
    assert TRIPPED.after(outcome, began, 1.5, EVEN) == TRIPPED
    half_open = run(TRIPPED, OK, now=2.0)
    assert half_open.after(outcome, began, 8.0, EVEN) == half_open
    recovered = run(TRIPPED, OK, OK, OK, now=3.0)
    assert recovered.after(outcome, began, 15.0, EVEN) == recovered


@given(st.integers(1, 10_000), chances)
def test_the_open_time_grows_and_is_bounded(openings: int, random: float) -> None:
    lasts = open_for_s(openings, random)
    middle = min(LONGEST_OPEN_S, 2.0 ** min(openings, 20))
    assert 0.9 * middle <= lasts <= min(LONGEST_OPEN_S, 1.1 * middle)


@pytest.mark.parametrize(
    ("openings", "random", "seconds"),
    [(1, 0.0, 1.8), (1, EVEN, 2.0), (8, EVEN, 256.0), (9, EVEN, 300.0), (9, 0.0, 270.0), (9, 0.999, 300.0)],
)
def test_the_open_time_is_exact(openings: int, random: float, seconds: float) -> None:
    assert open_for_s(openings, random) == pytest.approx(seconds)


# The breaker against a simple model


@dataclass
class Model:
    """The same with a plain list of outcomes."""

    latest: list[bool] = field(default_factory=list)
    openings: int = 0
    open_until: float | None = None
    late_before: float = float("-inf")
    successes: int = 0

    def result(self, outcome: Outcome, began: float, now: float, random: float) -> None:
        if began < self.late_before:
            return
        if self.open_until is None:
            self.latest += [outcome is not OK] * (HUNG_COUNTS if outcome is HUNG else 1)
            self.latest = self.latest[-REMEMBERED:]
            if self.latest.count(True) >= TRIPS_AT:
                self.open(now, random)
        elif outcome is not OK:
            self.open(now, random)
        else:
            self.successes += 1
            if self.successes == RECOVERS_AFTER:
                self.latest, self.openings, self.open_until, self.successes = [], 0, None, 0

    def open(self, now: float, random: float) -> None:
        self.openings += 1
        self.open_until = self.late_before = now + open_for_s(self.openings, random)
        self.latest, self.successes = [], 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from([OK, OK, FAILED, FAILED, HUNG]),
            st.floats(0, 20),  # seconds since the result before
            st.floats(0, 15),  # seconds that the attempt took
            chances,
        ),
        max_size=80,
    )
)
def test_it_equals_the_model(results: list[tuple[Outcome, float, float, float]]) -> None:
    breaker, model, now = Breaker(), Model(), 0.0
    for outcome, passed, took, random in results:
        now += passed
        breaker = breaker.after(outcome, now - took, now, random)
        model.result(outcome, now - took, now, random)
        assert breaker.closed == (model.open_until is None)
        assert breaker.openings == model.openings
        if model.open_until is not None:
            assert breaker.at(now).state is (State.OPEN if now < model.open_until else State.HALF_OPEN)
            assert breaker.recovering == model.successes


# Changes of another worker


def test_an_opening_of_another_worker_is_half_open_here() -> None:
    adopted = run(Breaker(), FAILED).adopted(4, now=100.0)
    assert (adopted.state, adopted.openings) == (State.HALF_OPEN, 4)
    assert adopted.after(FAILED, 99.0, 101.0, EVEN) == adopted, "it began before the adoption"
    assert adopted.after(FAILED, 100.0, 101.0, EVEN).probing_from == 101.0 + 32.0


def test_adopting_the_same_opening_keeps_its_probes() -> None:
    probed = run(Breaker().adopted(4, now=100.0), OK, OK, now=100.0)
    assert probed.adopted(4, now=101.0) is probed
    assert probed.adopted(5, now=101.0).recovering == 0


def test_a_breaker_closed_by_another_worker_is_closed_here() -> None:
    assert TRIPPED.adopted(0, now=5.0).state is State.HEALTHY
    failing = run(Breaker(), FAILED)
    assert failing.adopted(0, now=5.0) is failing, "it was closed here too: its outcomes stay"


def test_a_breaker_closed_from_outside_counts_from_then_on() -> None:
    """Not from when it would be half-open: the endpoint got a new URL, or was enabled."""
    open_long = Breaker(State.HALF_OPEN, openings=7).after(FAILED, 0.0, 1.0, EVEN)
    assert open_long.probing_from > 200
    closed = open_long.adopted(0, now=3.0)
    assert run(closed, *[HUNG] * 5, now=3.0).state is State.OPEN
    assert closed.after(HUNG, 2.9, 4.0, EVEN) == closed, "that attempt began before"


# Warnings before an endpoint is disabled


@dataclass
class Period:
    """An endpoint's row from its first failure, as the watch changes it."""

    last_failure: timedelta = timedelta(0)
    warned: int = 0
    steps: list[Step] = field(default_factory=list)

    def check(self, at: timedelta) -> Step:
        step = due_step(START, START + self.last_failure, self.warned, START + at, FIVE_DAYS)
        if step:
            self.steps.append(step)
            self.warned = int(step)
        return step


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=40))
def test_warnings_come_once_in_rising_order(
    moments: list[tuple[int, bool]],
) -> None:
    period, now = Period(), timedelta(0)
    for hours, fails in moments:
        now += timedelta(hours=hours)
        if fails:
            period.last_failure = now
        step = period.check(now)
        assert (step is Step.DISABLE) == (period.last_failure >= FIVE_DAYS)
        if step is Step.DISABLE:
            break
        reached = [percent for percent in (50, 70, 90) if now * 100 >= FIVE_DAYS * percent]
        assert period.warned == max(reached, default=0)
    assert period.steps == sorted(set(period.steps))


@pytest.mark.parametrize(
    ("after", "step"),
    [
        (timedelta(hours=59, minutes=59), Step.NOTHING),
        (timedelta(hours=60) - STEP, Step.NOTHING),
        (timedelta(hours=60), Step.WARN_50),
        (timedelta(hours=84) - STEP, Step.WARN_50),
        (timedelta(hours=84), Step.WARN_70),
        (timedelta(hours=108) - STEP, Step.WARN_70),
        (timedelta(hours=108), Step.WARN_90),
        (timedelta(days=400), Step.WARN_90),
    ],
)
def test_the_highest_warning_reached_by_time_is_due(after: timedelta, step: Step) -> None:
    assert due_step(START, START, 0, START + after, FIVE_DAYS) is step


@pytest.mark.parametrize(
    ("hours", "warned", "step"),
    [
        (60, 50, Step.NOTHING),
        (84, 50, Step.WARN_70),
        (84, 70, Step.NOTHING),
        (84, 90, Step.NOTHING),
        (108, 0, Step.WARN_90),
        (108, 90, Step.NOTHING),
    ],
)
def test_a_warning_is_due_only_above_the_last_one(hours: int, warned: int, step: Step) -> None:
    assert due_step(START, START, warned, START + timedelta(hours=hours), FIVE_DAYS) is step


def test_disabling_needs_a_late_failure() -> None:
    """With one event a week, nothing is known of the endpoint until the next attempt."""
    since = START + FIVE_DAYS
    assert (
        due_step(START, since - timedelta(microseconds=1), 90, START + timedelta(days=99), FIVE_DAYS)
        is Step.NOTHING
    )
    assert due_step(START, since, 90, START + timedelta(days=99), FIVE_DAYS) is Step.DISABLE


@given(st.timedeltas(timedelta(seconds=1), timedelta(days=365)), st.floats(0, 1, exclude_max=True))
def test_before_the_first_warning_nothing_is_due(disable_after: timedelta, share: float) -> None:
    passed = share * first_warning_after(disable_after)
    assume(passed < first_warning_after(disable_after))  # not so if rounding carried it there
    assert due_step(START, START + passed, 0, START + passed, disable_after) is Step.NOTHING


@pytest.mark.parametrize(
    ("enabled", "failing", "open_for", "state"),
    [
        (True, False, None, State.HEALTHY),
        (True, True, None, State.FAILING),
        (True, True, 1, State.OPEN),
        (True, False, 1, State.OPEN),
        (True, True, 0, State.HALF_OPEN),
        (True, True, -1, State.HALF_OPEN),
        (True, True, LONGEST_OPEN_S, State.OPEN),
        (True, True, 330, State.OPEN),
        (True, True, 330.000001, State.HALF_OPEN),  # the clock was set back
        (True, True, 0.000001, State.OPEN),
        (False, True, 1, State.DISABLED),
        (False, False, None, State.DISABLED),
    ],
)
def test_the_row_in_the_database_has_a_state(
    enabled: bool, failing: bool, open_for: float | None, state: State
) -> None:
    open_until = None if open_for is None else START + timedelta(seconds=open_for)
    since = START - timedelta(hours=1) if failing else None
    assert state_of(enabled=enabled, failing_since=since, open_until=open_until, now=START) is state
