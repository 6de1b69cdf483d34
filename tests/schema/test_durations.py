from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.durations import format_duration, parse_duration, parse_schedule
from schema.errors import InvalidInput

SECOND, MINUTE, HOUR, DAY = (
    timedelta(seconds=1),
    timedelta(minutes=1),
    timedelta(hours=1),
    timedelta(days=1),
)


@pytest.mark.parametrize(("text", "value"), [
    ("500ms", timedelta(milliseconds=500)),
    ("15s", 15 * SECOND),
    ("1m", MINUTE),
    ("2h", 2 * HOUR),
    ("5d", 5 * DAY),
    ("1h30m", 90 * MINUTE),
    ("1d2h3m4s5ms", timedelta(days=1, hours=2, minutes=3, seconds=4, milliseconds=5)),
    ("90m", 90 * MINUTE),
    ("0s", timedelta(0)),
    ("007s", 7 * SECOND),
])  # fmt: skip
def test_every_unit_is_read(text: str, value: timedelta) -> None:
    assert parse_duration(text) == value


@pytest.mark.parametrize("text", [
    "", " ", "15", "s", "1.5h", "-1s", "+1s", "1 h", " 1h", "1h\n", "1H", "30m1h", "1h1h", "1w", "1us", "٣s", "1h30", "inf",
])  # fmt: skip
def test_other_input_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"is not a duration; write .* such as 500ms, 15s, 1h30m or 5d\.$"):
        parse_duration(text)


def test_longer_than_time_itself_is_refused() -> None:
    with pytest.raises(InvalidInput, match="too long to represent"):
        parse_duration("999999999999d")


@pytest.mark.parametrize("text", ["1s", "1m", "60s", "1h"])
def test_bounds_count_in(text: str) -> None:
    assert SECOND <= parse_duration(text, minimum=SECOND, maximum=HOUR) <= HOUR


@pytest.mark.parametrize(("text", "reason"), [
    ("999ms", "'999ms' is too short; the minimum is 1s."),
    ("1h1ms", "'1h1ms' is too long; the maximum is 1h."),
])  # fmt: skip
def test_beyond_the_bounds_the_sentence_names_the_bound(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_duration(text, minimum=SECOND, maximum=HOUR)
    assert str(refused.value) == reason


@given(st.integers(0, timedelta.max // timedelta(milliseconds=1)))
def test_formatting_and_parsing_round_trip(milliseconds: int) -> None:
    value = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(value)) == value


@pytest.mark.parametrize(
    ("value", "text"), [(timedelta(0), "0s"), (90 * MINUTE, "1h30m"), (DAY, "1d"), (60 * SECOND, "1m")]
)
def test_the_text_is_compact(value: timedelta, text: str) -> None:
    assert format_duration(value) == text


@pytest.mark.parametrize(
    "value", [-SECOND, timedelta(microseconds=-1), timedelta(microseconds=1), SECOND / 3]
)
def test_what_has_no_exact_text_is_not_rounded(value: timedelta) -> None:
    with pytest.raises(ValueError, match="has no text"):
        format_duration(value)


def test_a_schedule_is_read_in_its_order() -> None:
    assert parse_schedule("1m,5m, 30m,2h ,1s") == (MINUTE, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, SECOND)


@given(st.lists(st.integers(0, 10**12).map(lambda count: timedelta(milliseconds=count)), min_size=1))
def test_a_schedule_round_trips(delays: list[timedelta]) -> None:
    assert parse_schedule(",".join(map(format_duration, delays))) == tuple(delays)


@pytest.mark.parametrize("text", ["", " ", ",", "1m,", ",1m", "1m,,5m", "1m;5m", "1m 5m"])
def test_a_schedule_with_a_hole_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_schedule(text)


def test_a_schedules_bounds_hold_for_each_delay() -> None:
    with pytest.raises(InvalidInput, match="'8d' is too long; the maximum is 7d"):
        parse_schedule("1m,8d", maximum=7 * DAY)
