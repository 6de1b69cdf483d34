"""No time span has more deliveries than the rate limit allows, polls reach it, and a changed clock does not break it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.engine.rate_limit import BURST, advance, grant

START = datetime(2026, 6, 28, 9, 0, tzinfo=UTC)
POLL = timedelta(milliseconds=50)
RATES = st.integers(1, 10_000)
PAUSES = st.one_of(
    st.timedeltas(timedelta(0), timedelta(milliseconds=300)), st.timedeltas(timedelta(0), timedelta(hours=1))
)


@dataclass
class Endpoint:
    """One endpoint's rate limit over time, and the deliveries sent."""

    rate: int
    now: datetime = START
    next_at: datetime | None = None
    sent: list[tuple[datetime, int]] = field(default_factory=list)

    def claim(self, wanted: int, found: int | None = None) -> int:
        """`found`: how many deliveries there are, if fewer than granted."""
        granted = grant(self.next_at, self.now, self.rate, wanted)
        assert 0 <= granted <= wanted
        count = granted if found is None else min(granted, found)
        if count:
            self.next_at = advance(self.next_at, self.now, self.rate, count)
            self.sent.append((self.now, count))
        return count

    @property
    def total(self) -> int:
        return sum(count for _, count in self.sent)


def allowed(rate: int, window: timedelta) -> Fraction:
    return rate * Fraction((window + BURST) // timedelta(microseconds=1), 1_000_000) + 1


@given(rate=RATES, polls=st.lists(st.tuples(PAUSES, st.integers(1, 5000), st.integers(0, 5000)), max_size=40))
def test_no_time_span_exceeds_the_rate_and_the_burst(
    rate: int, polls: list[tuple[timedelta, int, int]]
) -> None:
    """For any claims at any times, whether or not all granted deliveries exist."""
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
    """Deliveries that become due between two polls are within the burst, so none is lost."""
    endpoint = Endpoint(rate)
    for _ in range(20 * 60):
        endpoint.now += POLL
        endpoint.claim(10_000)
    assert 0.999 * rate * 60 <= endpoint.total <= allowed(rate, timedelta(seconds=60))


@given(
    rate=RATES,
    pauses=st.lists(st.timedeltas(timedelta(0), timedelta(milliseconds=60)), min_size=1, max_size=50),
)
def test_polls_within_the_burst_reach_the_full_rate(rate: int, pauses: list[timedelta]) -> None:
    endpoint = Endpoint(rate)
    for pause in pauses:
        endpoint.now += pause
        endpoint.claim(10_000)
    # Rounded up to the clock's step, each claim may cost a microsecond.
    lost = timedelta(microseconds=len(pauses)) + timedelta(microseconds=1)
    due = rate * ((sum(pauses, timedelta(0)) - pauses[0] - lost) / timedelta(seconds=1))
    assert endpoint.total >= int(due)


@given(rate=RATES, idle=st.timedeltas(timedelta(0), timedelta(days=400)))
def test_idle_time_is_not_saved_up(rate: int, idle: timedelta) -> None:
    endpoint = Endpoint(rate)
    endpoint.claim(1)
    endpoint.now += idle
    assert endpoint.claim(100_000) <= allowed(rate, timedelta(0))


def test_the_first_claim_gets_the_burst_and_one() -> None:
    assert grant(None, START, 40, 1000) == 11
    assert grant(None, START, 1, 1000) == 1
    assert grant(None, START, 40, 3) == 3
    assert grant(None, START, 40, 0) == 0


def test_a_delivery_is_granted_exactly_when_the_rate_allows() -> None:
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
def test_a_clock_set_back_delays_only_briefly(
    rate: int, before: list[tuple[timedelta, int]], back: timedelta
) -> None:
    endpoint = Endpoint(rate)
    for pause, wanted in before:
        endpoint.now += pause
        endpoint.claim(wanted)
    endpoint.now -= back
    immediate = endpoint.claim(1)  # a large step back is noticed by this claim
    endpoint.now += BURST + timedelta(seconds=1) / rate + timedelta(microseconds=2)
    assert immediate or endpoint.claim(1) == 1


@given(
    rate=RATES,
    before=st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    back=st.timedeltas(timedelta(0), timedelta(days=400)),
    polls=st.lists(st.tuples(PAUSES, st.integers(1, 5000)), min_size=1, max_size=10),
)
def test_a_clock_set_back_adds_one_burst_at_most(
    rate: int, before: list[int], back: timedelta, polls: list[tuple[timedelta, int]]
) -> None:
    """Measured by the time that really passes."""
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
def test_a_changed_limit_applies_from_the_next_claim(rate: int, other: int, wanted: int) -> None:
    endpoint = Endpoint(rate)
    endpoint.claim(wanted)
    endpoint.rate = other
    endpoint.now += BURST + timedelta(seconds=1) / min(rate, other) + timedelta(microseconds=2)
    assert 1 <= endpoint.claim(100_000) <= allowed(other, timedelta(0))


@pytest.mark.parametrize(("rate", "granted"), [(1, 1), (3, 1), (4, 2), (7, 2), (8, 3), (10_000, 2501)])
def test_the_end_of_the_burst_is_included(rate: int, granted: int) -> None:
    assert grant(None, START, rate, 100_000) == granted


def test_a_claim_in_the_past_of_next_at_gets_nothing() -> None:
    step = timedelta(microseconds=1)
    assert grant(START + BURST, START, 10, 5) == 1
    assert grant(START + BURST + step, START, 10, 5) == 0


def test_next_at_beyond_the_burst_and_one_delivery_is_ignored() -> None:
    """Only another clock can have written it."""
    furthest = START + BURST + timedelta(milliseconds=100)
    step = timedelta(microseconds=1)
    assert grant(furthest, START, 10, 5) == 0
    assert grant(furthest + step, START, 10, 5) == 3
    assert advance(furthest + step, START, 10, 1) == START + timedelta(milliseconds=100)


def test_the_time_of_a_delivery_is_rounded_up() -> None:
    assert advance(START, START, 3, 1) - START == timedelta(microseconds=333_334)
    assert advance(START, START, 3, 3) - START == timedelta(seconds=1)
