from datetime import UTC, datetime, timedelta

import pytest

from schema.errors import InvalidInput
from service.times import parse_time

NOW = datetime(2026, 6, 28, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("24h", NOW - timedelta(hours=24)),
        ("1d12h", NOW - timedelta(hours=36)),
        ("0s", NOW),
        ("2026-06-28T09:00:00Z", NOW - timedelta(hours=3)),
        ("2026-06-28T10:00:00.000+01:00", NOW - timedelta(hours=3)),
        ("2026-06-28 09:00Z", NOW - timedelta(hours=3)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("2200-01-01T01:00:00+01:00", datetime(2200, 1, 1, tzinfo=UTC)),
    ],
)
def test_durations_and_iso_times_are_parsed(text: str, time: datetime) -> None:
    assert parse_time(text, NOW) == time


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "24", "-1h", "2026-06-28", "2026-06-28T09:00:00", "0001-01-01T00:00:00+23:59", "4000d"],
)
def test_invalid_times_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput, match="2026-06-28T09:00:00Z"):
        parse_time(text, NOW)


@pytest.mark.parametrize(
    "text",
    [
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59.999999-23:59",
        "1970-01-01T00:00:00+00:01",
        "2200-01-01T00:00:01Z",
    ],
)
def test_times_outside_1970_to_2200_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"between 1970 and 2200.*2026-06-28T09:00:00Z"):
        parse_time(text, NOW)
