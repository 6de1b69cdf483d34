"""The retry schedule and Retry-After: exact delays, bounds, and text that a receiver may send."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from delivery.engine.retry_policy import DEFAULT_DELAYS, RetryPolicy, parse_retry_after

NOW = datetime(2026, 6, 28, 9, tzinfo=UTC)
DAY = timedelta(hours=24)

delays = st.timedeltas(timedelta(milliseconds=1), timedelta(days=30))
policies = st.builds(
    RetryPolicy,
    delays=st.lists(delays, min_size=1, max_size=8).map(tuple),
    jitter=st.floats(0, 1, exclude_max=True),
)
randoms = st.floats(0, 1, exclude_max=True)
waits = st.none() | st.timedeltas(timedelta(0), timedelta(days=365))
MIDDLE = 0.5


def test_the_default_schedule_is_as_documented() -> None:
    policy = RetryPolicy()
    moments = [policy.next_attempt_at(made, NOW, MIDDLE) for made in range(1, 8)]
    assert moments == [
        NOW + timedelta(minutes=1),
        NOW + timedelta(minutes=5),
        NOW + timedelta(minutes=30),
        NOW + timedelta(hours=2),
        NOW + timedelta(hours=6),
        NOW + timedelta(hours=24),
        None,
    ]


def test_the_default_jitter_is_ten_percent_either_way() -> None:
    assert RetryPolicy().next_attempt_at(1, NOW, 0.0) == NOW + timedelta(seconds=54)
    latest = RetryPolicy().next_attempt_at(1, NOW, 1 - 2**-53)
    assert latest is not None
    assert NOW + timedelta(seconds=65.9) < latest <= NOW + timedelta(seconds=66)


@given(policies, randoms, waits, st.data())
def test_an_attempt_stays_within_its_bounds(
    policy: RetryPolicy, random: float, retry_after: timedelta | None, data: st.DataObject
) -> None:
    """Never before the lower bound of the schedule, and delayed by Retry-After for a day at most."""
    made = data.draw(st.integers(1, len(policy.delays)))
    plain = policy.delays[made - 1]
    moment = policy.next_attempt_at(made, NOW, random, retry_after)
    assert moment is not None
    asked = min(retry_after or timedelta(0), DAY)
    assert max(plain * (1 - policy.jitter), asked) <= moment - NOW <= max(plain * (1 + policy.jitter), asked)


@given(policies, randoms, randoms, waits, st.data())
def test_a_larger_random_number_is_never_earlier(
    policy: RetryPolicy, one: float, other: float, retry_after: timedelta | None, data: st.DataObject
) -> None:
    made = data.draw(st.integers(1, len(policy.delays)))
    earlier = policy.next_attempt_at(made, NOW, min(one, other), retry_after)
    later = policy.next_attempt_at(made, NOW, max(one, other), retry_after)
    assert earlier is not None
    assert later is not None
    assert earlier <= later


@given(policies, randoms, waits, st.integers(1, 20))
def test_the_schedule_ends_after_the_last_delay(
    policy: RetryPolicy, random: float, retry_after: timedelta | None, made: int
) -> None:
    """Retry-After adds no attempt."""
    moment = policy.next_attempt_at(made, NOW, random, retry_after)
    assert (moment is None) == (made > len(policy.delays))


@given(randoms, st.timedeltas(timedelta(0), timedelta(days=365)), st.integers(1, len(DEFAULT_DELAYS)))
def test_retry_after_only_lengthens_a_delay(random: float, retry_after: timedelta, made: int) -> None:
    policy = RetryPolicy()
    plain = policy.next_attempt_at(made, NOW, random)
    asked = policy.next_attempt_at(made, NOW, random, retry_after)
    assert plain is not None
    assert asked == max(plain, NOW + min(retry_after, DAY))


def test_no_delays_mean_no_retries() -> None:
    assert RetryPolicy(delays=()).next_attempt_at(1, NOW, MIDDLE) is None


@pytest.mark.parametrize("jitter", [-0.1, 1.0, float("nan")])
def test_jitter_must_be_a_fraction_below_one(jitter: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        RetryPolicy(jitter=jitter)


def test_a_delivery_without_an_attempt_has_no_retry() -> None:
    with pytest.raises(ValueError, match="first attempt"):
        RetryPolicy().next_attempt_at(0, NOW, MIDDLE)


class TestRetryAfter:
    @pytest.mark.parametrize(("text", "seconds"), [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("000000000000120", 120),
        ("Sun, 28 Jun 2026 09:02:00 GMT", 120),
        ("Sunday, 28-Jun-26 09:02:00 GMT", 120),
        ("Sun Jun 28 09:02:00 2026", 120),
        ("Sun, 28 Jun 2026 10:02:00 +0100", 120),
        ("Sun, 28 Jun 2026 09:02:00 -0000", 120),
        ("Sun, 28 Jun 2026 09:02:00 GMT" + "(" + "c" * 33 + ")", 120),
        ("86399", 86_399),
        ("86400", 86_400),
        ("Sun, 28 Jun 2026 09:00:00 GMT", 0),
    ])  # fmt: skip
    def test_seconds_and_three_forms_of_an_http_date_are_parsed(self, text: str, seconds: int) -> None:
        assert parse_retry_after(text, NOW) == timedelta(seconds=seconds)

    @pytest.mark.parametrize("text", [
        "",
        "soon",
        "-1",
        "+1",
        "1.5",
        "1e3",
        "٣",
        "²",
        "120, 120",
        "Sun, 28 Jun 2026 08:59:59 GMT",
        "Sun, 31 Feb 2027 09:00:00 GMT",
        "Sun, 28 Jun 99999999999999999999 09:02:00 GMT",
        "Sun, 28 Jun 2026 09:02:00 +9999",
        "Sun, 28 Jun 2026 09:02:00 GMT" + "(" + "c" * 34 + ")",
        "Sun, 28 Jun 2026 09:02:00 GMT" + " " * 10_000 + "x",
    ])  # fmt: skip
    def test_invalid_text_and_the_past_are_ignored(self, text: str) -> None:
        assert parse_retry_after(text, NOW) is None

    @pytest.mark.parametrize(
        "text",
        ["86401", "9999999999", "10000000000", "999999999", "9" * 8000, "Sun, 28 Jun 2099 09:02:00 GMT"],
    )
    def test_longer_waits_are_cut_to_a_day(self, text: str) -> None:
        assert parse_retry_after(text, NOW) == DAY

    @given(st.integers(0, 86_400))
    def test_a_date_equals_its_seconds(self, seconds: int) -> None:
        date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
        assert (
            parse_retry_after(date, NOW) == parse_retry_after(str(seconds), NOW) == timedelta(seconds=seconds)
        )

    @given(
        st.text(max_size=80)
        | st.lists(
            st.sampled_from(
                ["Sun,", "Jun", "28", "2026", "09:02:00", "9999999999999999", "GMT", "-9999", ",", ":"]
            ),
            max_size=7,
        ).map(" ".join)
    )
    @example("Sun, , , , ,")
    def test_no_text_raises_or_waits_longer_than_a_day(self, text: str) -> None:
        wait = parse_retry_after(text, NOW)
        assert wait is None or timedelta(0) <= wait <= DAY
