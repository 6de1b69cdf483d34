"""Parses times that people write: how long ago (`24h`), or ISO 8601 with a time zone."""

from datetime import UTC, datetime, timedelta
from typing import Final

from schema.durations import parse_duration
from schema.errors import InvalidInput

_LONGEST_AGO: Final = timedelta(days=3660)
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""A time outside is a typing error. Also, the driver treats the calendar's ends as infinity."""


def parse_time(text: str, now: datetime) -> datetime:
    """Raises InvalidInput, also for a time without a zone: it would mean a different time on each machine."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return now - _ago(text)
    if time.tzinfo is None:
        raise InvalidInput(f"{text!r} has no time zone: write 2026-06-28T09:00:00Z.")
    if not _FIRST <= time <= _LAST:
        raise InvalidInput(f"{text!r} is not between 1970 and 2200: write 2026-06-28T09:00:00Z.")
    return time.astimezone(UTC)


def _ago(text: str) -> timedelta:
    try:
        return parse_duration(text, maximum=_LONGEST_AGO)
    except InvalidInput as error:
        raise InvalidInput(
            f"{text!r} is neither a duration such as 24h nor a time such as 2026-06-28T09:00:00Z ({error})"
        ) from None
