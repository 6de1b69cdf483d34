"""Where a subscription's periods end. Counted from the anchor, never from the last end: a subscription of the 31st of
January ends on the 28th of February and then on the 31st of March. All moments are UTC.
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
    """The start of the number-th period from the anchor, and the end of the one before; 0 is the anchor itself."""
    if interval in _STEPS:
        return anchor + number * _STEPS[interval]
    return _months_after(anchor, number * _MONTHS[interval])


def _months_after(moment: datetime, months: int) -> datetime:
    """On the same day of the month, or on the last one where the month is shorter."""
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    day = min(moment.day, monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)
