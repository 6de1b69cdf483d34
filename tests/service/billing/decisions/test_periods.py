"""Periods are counted from the anchor in UTC and do not drift."""

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schema.billing.rows import Interval
from service.billing.decisions.periods import boundary

EXACT = {
    Interval.HOUR: timedelta(hours=1),
    Interval.DAY: timedelta(days=1),
    Interval.WEEK: timedelta(weeks=1),
}
MONTHS = {Interval.MONTH: 1, Interval.QUARTER: 3, Interval.BIANNUAL: 6, Interval.YEAR: 12}

anchors = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
numbers = st.integers(0, 600)


def day(year: int, month: int, day_: int) -> datetime:
    return datetime(year, month, day_, 10, 30, tzinfo=UTC)


def length(moment: datetime) -> int:
    return monthrange(moment.year, moment.month)[1]


def months_between(start: datetime, end: datetime) -> int:
    return (end.year - start.year) * 12 + end.month - start.month


def test_every_interval_is_of_one_kind_or_the_other() -> None:
    assert {*EXACT, *MONTHS} == set(Interval)


@given(anchors, st.sampled_from(Interval))
def test_the_first_period_begins_at_the_anchor(anchor: datetime, interval: Interval) -> None:
    assert boundary(anchor, interval, 0) == anchor


@given(anchors, st.sampled_from(Interval), numbers)
def test_boundaries_strictly_increase(anchor: datetime, interval: Interval, number: int) -> None:
    ends = [boundary(anchor, interval, number + more) for more in range(4)]
    assert all(one < next_ for one, next_ in pairwise(ends))


@given(anchors, st.sampled_from(list(EXACT)), numbers)
def test_hours_days_and_weeks_are_whole(anchor: datetime, interval: Interval, number: int) -> None:
    assert boundary(anchor, interval, number) - anchor == number * EXACT[interval]


@given(anchors, st.sampled_from(list(MONTHS)), numbers)
@example(day(2027, 1, 31), Interval.MONTH, 1)
@example(day(2024, 2, 29), Interval.YEAR, 4)
def test_months_keep_the_anchor_s_day_if_it_exists(anchor: datetime, interval: Interval, number: int) -> None:
    """A shorter month uses its last day. The next long month uses the anchor's day."""
    end = boundary(anchor, interval, number)
    assert months_between(anchor, end) == number * MONTHS[interval]
    assert end.day == min(anchor.day, length(end))
    assert end.timetz() == anchor.timetz()


@given(anchors, numbers)
def test_longer_intervals_are_whole_months(anchor: datetime, number: int) -> None:
    for interval, months in MONTHS.items():
        assert boundary(anchor, interval, number) == boundary(anchor, Interval.MONTH, number * months)


@pytest.mark.parametrize(
    ("anchor", "interval", "ends"),
    [
        (
            day(2027, 1, 31),
            Interval.MONTH,
            [day(2027, 2, 28), day(2027, 3, 31), day(2027, 4, 30), day(2027, 5, 31)],
        ),
        (day(2028, 1, 31), Interval.MONTH, [day(2028, 2, 29), day(2028, 3, 31)]),
        (day(2027, 1, 29), Interval.MONTH, [day(2027, 2, 28), day(2027, 3, 29)]),
        (day(2026, 11, 30), Interval.QUARTER, [day(2027, 2, 28), day(2027, 5, 30)]),
        (day(2026, 8, 31), Interval.BIANNUAL, [day(2027, 2, 28), day(2027, 8, 31), day(2028, 2, 29)]),
        (
            day(2024, 2, 29),
            Interval.YEAR,
            [day(2025, 2, 28), day(2026, 2, 28), day(2027, 2, 28), day(2028, 2, 29)],
        ),
        (day(2026, 12, 15), Interval.MONTH, [day(2027, 1, 15), day(2027, 2, 15)]),
        (day(2099, 2, 28), Interval.YEAR, [day(2100, 2, 28), day(2101, 2, 28)]),
    ],
    ids=lambda value: f"{value:%d.%m.%Y}" if isinstance(value, datetime) else str(value)[:8],
)
def test_month_ends_and_leap_years(anchor: datetime, interval: Interval, ends: list[datetime]) -> None:
    assert [boundary(anchor, interval, number) for number in range(1, len(ends) + 1)] == ends
