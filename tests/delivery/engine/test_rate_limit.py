"""The rate limit as arithmetic: never more than it says over any window, never less for want of polls, whatever the clock does."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.engine.rate_limit import BURST, after, grant

START = datetime(2026, 6, 28, 9, 0, tzinfo=UTC)
POLL = timedelta(milliseconds=50)
RATES = st.integers(1, 10_000)
PAUSES = st.one_of(
    st.timedeltas(timedelta(0), timedelta(milliseconds=300)), st.timedeltas(timedelta(0), timedelta(hours=1))
)


@dataclass
class Endpoint:
    """One endpoint's pacing through time, and what went out when."""

    rate: int
    now: datetime = START
    next_at: datetime | None = None
    sent: list[tuple[datetime, int]] = field(default_factory=list)

    def claim(self, wanted: int, found: int | None = None) -> int:
        """`found`: as many as there were, if fewer than granted."""
        granted = grant(self.next_at, self.now, self.rate, wanted)
        assert 0 <= granted <= wanted
        count = granted if found is None else min(granted, found)
        if count:
            self.next_at = after(self.next_at, self.now, self.rate, count)
            self.sent.append((self.now, count))
        return count

    @property
    def total(self) -> int:
        return sum(count for _, count in self.sent)


def allowed(rate: int, window: timedelta) -> Fraction:
    return rate * Fraction((window + BURST) // timedelta(microseconds=1), 1_000_000) + 1


@given(rate=RATES, polls=st.lists(st.tuples(PAUSES, st.integers(1, 5000), st.integers(0, 5000)), max_size=40))
def test_no_window_has_more_than_the_rate_and_the_burst(
    rate: int, polls: list[tuple[timedelta, int, int]]
) -> None:
    """Whenever it is asked, for however many, and whether or not they are all there."""
    endpoint = Endpoint(rate)
    for pause, wanted, found in polls:
        endpoint.now += pause
        endpoint.claim(wanted, found)
    for first, (begin, _) in enumerate(endpoint.sent):
        within = 0
        for end, count in endpoint.sent[first:]:
            within += count
            assert within <= allowed(rate, end - begin)


@pytest.mark.parametrize("rate", [1, 3, 7, 40, 999, 10_000])
def test_polls_reach_the_rate_and_no_more(rate: int) -> None:
    """What falls due between two polls is within the burst, so nothing of it is lost."""
    endpoint = Endpoint(rate)
    for _ in range(20 * 60):
        endpoint.now += POLL
        endpoint.claim(10_000)
    assert 0.999 * rate * 60 <= endpoint.total <= allowed(rate, timedelta(seconds=60))


@given(
    rate=RATES,
    pauses=st.lists(st.timedeltas(timedelta(0), timedelta(milliseconds=60)), min_size=1, max_size=50),
)
def test_whoever_polls_within_the_burst_loses_nothing_of_the_rate(rate: int, pauses: list[timedelta]) -> None:
    endpoint = Endpoint(rate)
    for pause in pauses:
        endpoint.now += pause
        endpoint.claim(10_000)
    # Rounded up to the clock's step, each claim may cost a microsecond.
    lost = timedelta(microseconds=len(pauses)) + timedelta(microseconds=1)
    due = rate * ((sum(pauses, timedelta(0)) - pauses[0] - lost) / timedelta(seconds=1))
    assert endpoint.total >= int(due)


@given(rate=RATES, idle=st.timedeltas(timedelta(0), timedelta(days=400)))
def test_idleness_saves_nothing_up(rate: int, idle: timedelta) -> None:
    endpoint = Endpoint(rate)
    endpoint.claim(1)
    endpoint.now += idle
    assert endpoint.claim(100_000) <= allowed(rate, timedelta(0))


def test_the_first_ever_is_the_burst_and_one() -> None:
    assert grant(None, START, 40, 1000) == 11
    assert grant(None, START, 1, 1000) == 1
    assert grant(None, START, 40, 3) == 3
    assert grant(None, START, 40, 0) == 0


def test_what_is_not_granted_waits_for_its_moment() -> None:
    endpoint = Endpoint(rate=10)
    assert endpoint.claim(100) == 3, "at 0, 100 and 200 ms, all within the burst"
    assert endpoint.claim(100) == 0
    endpoint.now += timedelta(milliseconds=49)
    assert endpoint.claim(100) == 0
    endpoint.now += timedelta(milliseconds=1)
    assert endpoint.claim(100) == 1


@given(
    rate=RATES,
    before=st.lists(st.tuples(PAUSES, st.integers(1, 5000)), min_size=1, max_size=10),
    back=st.timedeltas(timedelta(0), timedelta(days=400)),
)
def test_a_clock_set_back_stalls_nobody_for_longer_than_the_burst_and_one_delivery(
    rate: int, before: list[tuple[timedelta, int]], back: timedelta
) -> None:
    endpoint = Endpoint(rate)
    for pause, wanted in before:
        endpoint.now += pause
        endpoint.claim(wanted)
    endpoint.now -= back
    at_once = endpoint.claim(1)  # who waits polls; a clock that is far behind is noticed here, and only here
    endpoint.now += BURST + timedelta(seconds=1) / rate + timedelta(microseconds=2)
    assert at_once or endpoint.claim(1) == 1


@given(
    rate=RATES,
    before=st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    back=st.timedeltas(timedelta(0), timedelta(days=400)),
    polls=st.lists(st.tuples(PAUSES, st.integers(1, 5000)), min_size=1, max_size=10),
)
def test_a_clock_set_back_adds_one_burst_at_most(
    rate: int, before: list[int], back: timedelta, polls: list[tuple[timedelta, int]]
) -> None:
    """By the time that really passes."""
    endpoint = Endpoint(rate)
    for wanted in before:
        endpoint.claim(wanted)
    endpoint.now -= back
    passed = timedelta(0)
    for pause, wanted in polls:
        endpoint.now += pause
        passed += pause
        endpoint.claim(wanted)
    assert endpoint.total <= allowed(rate, passed) + allowed(rate, timedelta(0))


@given(rate=RATES, other=RATES, wanted=st.integers(1, 5000))
def test_a_limit_that_is_changed_holds_from_the_next_claim_on(rate: int, other: int, wanted: int) -> None:
    endpoint = Endpoint(rate)
    endpoint.claim(wanted)
    endpoint.rate = other
    endpoint.now += BURST + timedelta(seconds=1) / min(rate, other) + timedelta(microseconds=2)
    assert 1 <= endpoint.claim(100_000) <= allowed(other, timedelta(0))
