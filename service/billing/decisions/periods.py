"""Computes where a subscription's periods end, in UTC, always counted from the anchor. Counting from the previous end would
drift: a subscription of 31 January renews on 28 February and then on 31 March.
"""

from calendar import monthrange
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from schema.billing.rows import Interval

_STEPS: Final[Mapping[Interval, timedelta]] = {
    Interval.HOUR: timedelta(hours=1),
    Interval.DAY: timedelta(days=1),
    Interval.WEEK: timedelta(weeks=1),
}
_MONTHS: Final[Mapping[Interval, int]] = {
    Interval.MONTH: 1,
    Interval.QUARTER: 3,
    Interval.BIANNUAL: 6,
    Interval.YEAR: 12,
}


def boundary(anchor: datetime, interval: Interval, number: int) -> datetime:
    """Returns the start of period `number` after the anchor, which is the end of the one before; 0 is the anchor."""
    if interval in _STEPS:
        return anchor + number * _STEPS[interval]
    return _months_after(anchor, number * _MONTHS[interval])


def _months_after(moment: datetime, months: int) -> datetime:
    """Keeps the day of the month, or takes the last day of a shorter month."""
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    day = min(moment.day, monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)
