from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.timestamps import iso_millis


def test_the_form_is_the_contracts() -> None:
    assert iso_millis(datetime(2026, 6, 28, 9, tzinfo=UTC)) == "2026-06-28T09:00:00.000Z"


def test_finer_than_a_millisecond_is_cut_off() -> None:
    assert iso_millis(datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == "2026-12-31T23:59:59.999Z"


def test_another_zone_is_turned_into_utc() -> None:
    lagos = timezone(timedelta(hours=1))
    assert iso_millis(datetime(2026, 6, 28, 0, 30, tzinfo=lagos)) == "2026-06-27T23:30:00.000Z"


def test_a_moment_without_a_zone_is_refused() -> None:
    """It would silently mean this machine's local time."""
    with pytest.raises(ValueError, match="time zone"):
        iso_millis(datetime(2026, 6, 28, 9))  # noqa: DTZ001 (the point of the test)


zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(timezones=zones).filter(lambda moment: 1 < moment.year < 9999))
def test_it_reads_back_to_the_millisecond(moment: datetime) -> None:
    text = iso_millis(moment)
    assert len(text) == len("2026-06-28T09:00:00.000Z")
    assert timedelta(0) <= moment.astimezone(UTC) - datetime.fromisoformat(text) < timedelta(milliseconds=1)
