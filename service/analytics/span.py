"""Parses a time range that people write: `2026-06-01`, `2026-06-01T09:00:00Z`, `30d` (ago)."""

import re
from datetime import UTC, date, datetime, timedelta

from schema.errors import InvalidInput
from service.times import parse_time

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def parse_point(text: str, now: datetime) -> datetime:
    """A date means its start in UTC. Raises InvalidInput."""
    return parse_time(f"{text}T00:00:00Z" if _DAY.fullmatch(text) else text, now)


def bounds(column: str, since: datetime | None, until: datetime | None) -> tuple[object, object]:
    """The bounds for a view's `hour` or `day` column: the first is included, the second excluded.

    With days, a time within a day includes that day. Raises InvalidInput for an empty range.
    """
    if since is not None and until is not None and since >= until:
        raise InvalidInput("The range is empty: --from must be before --to.")
    if column == "day":
        return since and since.astimezone(UTC).date(), until and _day_after(until)
    return since, until


def _day_after(until: datetime) -> date:
    whole = until.replace(hour=0, minute=0, second=0, microsecond=0)
    return whole.date() if whole == until else (whole + timedelta(days=1)).date()
