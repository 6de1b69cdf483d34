"""The table of states, the breaker and the way to being disabled, with clock and chance in the test's hand."""

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
    open_for_s,
    state_of,
    watch,
    watched_after,
)

OK, FAILED, HUNG = Outcome.OK, Outcome.FAILED, Outcome.HUNG
EVEN = 0.5
"""Chance that neither stretches nor shrinks."""
FIVE_DAYS = timedelta(days=5)
START = datetime(2026, 6, 28, 9, 0, tzinfo=UTC)

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
def test_a_disabled_endpoint_is_left_only_by_enabling_it(given_signals: list[Signal]) -> None:
    for (before, after), signal in zip(pairwise(path(given_signals)), given_signals, strict=True):
        if before is State.DISABLED and after is not State.DISABLED:
            assert (signal, after) == (Signal.ENABLED, State.HEALTHY)


@given(signals)
def test_half_open_comes_after_open_alone_and_open_after_failing_or_half_open(
    given_signals: list[Signal],
) -> None:
    for before, after in pairwise(path(given_signals)):
        if after is State.HALF_OPEN:
            assert before in {State.OPEN, State.HALF_OPEN}
        if after is State.OPEN:
            assert before in {State.OPEN, State.HALF_OPEN, State.FAILING}


@pytest.mark.parametrize("state", State)
def test_gone_disables_from_anywhere(state: State) -> None:
    assert advance(state, Signal.GONE) is State.DISABLED


def test_an_open_breaker_takes_no_word_for_it_but_time_s() -> None:
    """Results that are late neither close nor extend it."""
    for signal in (Signal.SUCCEEDED, Signal.FAILED, Signal.TRIPPED, Signal.RECOVERED):
        assert advance(State.OPEN, signal) is State.OPEN


def test_only_who_fails_is_disabled_for_failing() -> None:
    disabled = {state for state in State if advance(state, Signal.EXHAUSTED) is State.DISABLED}
    assert disabled == {State.FAILING, State.OPEN, State.HALF_OPEN, State.DISABLED}


def test_every_state_is_reached_and_every_signal_leads_somewhere() -> None:
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
    ],
    ids=repr,
)
def test_it_trips_when_half_of_the_latest_outcomes_are_failures(results: list[Outcome], state: State) -> None:
    assert run(Breaker(), *results).state is state


TRIPPED = run(Breaker(), *[FAILED] * 10)


def test_it_opens_for_two_seconds_and_is_half_open_then() -> None:
    assert TRIPPED.probing_from == 2.0
    assert TRIPPED.at(1.999).state is State.OPEN
    assert TRIPPED.at(2.0).state is State.HALF_OPEN
    assert not TRIPPED.at(2.0).closed


def test_three_successes_in_a_row_close_it_and_the_next_trouble_begins_anew() -> None:
    assert run(TRIPPED, OK, OK, now=2.0).state is State.HALF_OPEN
    recovered = run(TRIPPED, OK, OK, OK, now=2.0)
    assert (recovered.state, recovered.openings, recovered.recent) == (State.HEALTHY, 0, 0)
    again = run(recovered, *[FAILED] * 10, now=9.0)
    assert (again.openings, again.probing_from) == (1, 11.0)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_one_failed_probe_opens_it_again_for_twice_as_long(before: int) -> None:
    breaker, now = TRIPPED, 2.0
    for opening in range(2, 12):
        breaker = run(breaker, *[OK] * before, FAILED, now=now)
        assert (breaker.state, breaker.openings) == (State.OPEN, opening)
        assert breaker.probing_from == now + min(300.0, 2.0**opening)
        now = breaker.probing_from


@pytest.mark.parametrize("outcome", Outcome)
def test_what_was_under_way_when_it_opened_changes_nothing_whenever_it_ends(outcome: Outcome) -> None:
    began = 1.0  # after it opened even: it had been claimed before
    assert TRIPPED.after(outcome, began, 1.5, EVEN) == TRIPPED
    half_open = run(TRIPPED, OK, now=2.0)
    assert half_open.after(outcome, began, 8.0, EVEN) == half_open
    recovered = run(TRIPPED, OK, OK, OK, now=3.0)
    assert recovered.after(outcome, began, 15.0, EVEN) == recovered


@given(st.integers(1, 10_000), chances)
def test_it_is_open_for_a_bounded_time_that_grows(openings: int, random: float) -> None:
    lasts = open_for_s(openings, random)
    middle = min(LONGEST_OPEN_S, 2.0 ** min(openings, 20))
    assert 0.9 * middle <= lasts <= min(LONGEST_OPEN_S, 1.1 * middle)


# The breaker against a plain model


@dataclass
class Model:
    """The same in the plainest words: a list, and what has been said of it."""

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
def test_it_does_as_the_model_does(results: list[tuple[Outcome, float, float, float]]) -> None:
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


# What another worker decided


def test_a_breaker_that_another_worker_opened_is_half_open_here_and_counts_on() -> None:
    adopted = run(Breaker(), FAILED).adopted(4, now=100.0)
    assert (adopted.state, adopted.openings) == (State.HALF_OPEN, 4)
    assert adopted.after(FAILED, 99.0, 101.0, EVEN) == adopted, "it began before it was known"
    assert adopted.after(FAILED, 100.0, 101.0, EVEN).probing_from == 101.0 + 32.0


def test_hearing_of_the_same_opening_again_forgets_no_probe() -> None:
    probed = run(Breaker().adopted(4, now=100.0), OK, OK, now=100.0)
    assert probed.adopted(4, now=101.0) is probed
    assert probed.adopted(5, now=101.0).recovering == 0


def test_a_breaker_that_another_worker_closed_is_closed_here() -> None:
    assert TRIPPED.adopted(0, now=5.0).state is State.HEALTHY
    failing = run(Breaker(), FAILED)
    assert failing.adopted(0, now=5.0) is failing, "it was closed here too: what was counted stays"


def test_a_breaker_that_was_closed_while_it_was_open_counts_from_then_on() -> None:
    """Not from when it would have been half-open: somebody gave it a new URL, or enabled it again."""
    open_long = Breaker(State.HALF_OPEN, openings=7).after(FAILED, 0.0, 1.0, EVEN)
    assert open_long.probing_from > 200
    afresh = open_long.adopted(0, now=3.0)
    assert run(afresh, *[HUNG] * 5, now=3.0).state is State.OPEN
    assert afresh.after(HUNG, 2.9, 4.0, EVEN) == afresh, "that was under way before"


# The way to being disabled


@dataclass
class Period:
    """An endpoint's row as the watch leaves it, from the first failure on."""

    last_failure: timedelta = timedelta(0)
    warned: int = 0
    told: list[Step] = field(default_factory=list)

    def look(self, at: timedelta) -> Step:
        step = watch(START, START + self.last_failure, self.warned, START + at, FIVE_DAYS)
        if step:
            self.told.append(step)
            self.warned = int(step)
        return step


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=40))
def test_each_warning_is_told_once_in_rising_order_and_disabling_takes_evidence(
    moments: list[tuple[int, bool]],
) -> None:
    period, now = Period(), timedelta(0)
    for hours, fails in moments:
        now += timedelta(hours=hours)
        if fails:
            period.last_failure = now
        step = period.look(now)
        assert (step is Step.DISABLE) == (period.last_failure >= FIVE_DAYS)
        if step is Step.DISABLE:
            break
        reached = [percent for percent in (50, 70, 90) if now * 100 >= FIVE_DAYS * percent]
        assert period.warned == max(reached, default=0)
    assert period.told == sorted(set(period.told))


@pytest.mark.parametrize(
    ("after", "step"),
    [
        (timedelta(hours=59, minutes=59), Step.NOTHING),
        (timedelta(hours=60), Step.WARN_50),
        (timedelta(hours=84), Step.WARN_70),
        (timedelta(hours=108), Step.WARN_90),
        (timedelta(days=400), Step.WARN_90),
    ],
)
def test_warnings_go_by_time_and_the_highest_reached_is_the_one_told(after: timedelta, step: Step) -> None:
    assert watch(START, START, 0, START + after, FIVE_DAYS) is step


def test_time_alone_never_disables() -> None:
    """A merchant with one event a week: nothing is known of the endpoint until the next one fails too."""
    since = START + FIVE_DAYS
    assert (
        watch(START, since - timedelta(microseconds=1), 90, START + timedelta(days=99), FIVE_DAYS)
        is Step.NOTHING
    )
    assert watch(START, since, 90, START + timedelta(days=99), FIVE_DAYS) is Step.DISABLE


@given(
    st.timedeltas(timedelta(seconds=1), timedelta(days=365)), st.timedeltas(timedelta(0), timedelta(days=400))
)
def test_before_half_of_the_way_there_is_nothing_to_decide(
    disable_after: timedelta, passed: timedelta
) -> None:
    assume(passed < watched_after(disable_after))
    assert watch(START, START + passed, 0, START + passed, disable_after) is Step.NOTHING


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
        (True, True, 3600, State.HALF_OPEN),  # the clock was set back
        (False, True, 1, State.DISABLED),
        (False, False, None, State.DISABLED),
    ],
)
def test_the_database_s_row_tells_the_state(
    enabled: bool, failing: bool, open_for: int | None, state: State
) -> None:
    open_until = None if open_for is None else START + timedelta(seconds=open_for)
    since = START - timedelta(hours=1) if failing else None
    assert state_of(enabled=enabled, failing_since=since, open_until=open_until, now=START) is state
