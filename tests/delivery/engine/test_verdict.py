"""What an attempt means for its delivery: as a table, and as properties of every possible attempt."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.engine.retry_policy import DEFAULT_DELAYS, LONGEST_RETRY_AFTER, RetryPolicy
from delivery.engine.verdict import Judgement, judge
from delivery.http.attempt_contract import AttemptResult, AttemptTimings, Outcome
from schema.deliveries.deliveries import Verdict

NOW = datetime(2026, 6, 28, 9, 0, tzinfo=UTC)
POLICY = RetryPolicy((timedelta(minutes=1), timedelta(hours=1)), jitter=0)
FIRST_RETRY, SECOND_RETRY = NOW + timedelta(minutes=1), NOW + timedelta(hours=1)


def attempt(outcome: Outcome, status: int | None = None, retry_after: str | None = None) -> AttemptResult:
    return AttemptResult(outcome, status, None, retry_after, b"", None, AttemptTimings())


@pytest.mark.parametrize(
    ("result", "attempts_made", "replay", "judgement"),
    [
        (attempt(Outcome.OK, 204), 0, False, Judgement(Verdict.DELIVERED)),
        (attempt(Outcome.OK, 200), 2, True, Judgement(Verdict.DELIVERED)),
        (attempt(Outcome.HTTP_STATUS, 500), 0, False, Judgement(Verdict.RETRY, FIRST_RETRY)),
        (attempt(Outcome.HTTP_STATUS, 301), 1, False, Judgement(Verdict.RETRY, SECOND_RETRY)),
        (attempt(Outcome.TIMEOUT), 1, False, Judgement(Verdict.RETRY, SECOND_RETRY)),
        (attempt(Outcome.DNS), 2, False, Judgement(Verdict.FAILED)),
        (attempt(Outcome.HTTP_STATUS, 500), 0, True, Judgement(Verdict.KEPT)),
        (attempt(Outcome.CONNECT), 2, True, Judgement(Verdict.KEPT)),
        (attempt(Outcome.BLOCKED), 0, False, Judgement(Verdict.FAILED)),
        (attempt(Outcome.BLOCKED), 0, True, Judgement(Verdict.FAILED)),
        (attempt(Outcome.HTTP_STATUS, 410), 0, False, Judgement(Verdict.FAILED, disable_endpoint=True)),
        (attempt(Outcome.HTTP_STATUS, 410), 0, True, Judgement(Verdict.FAILED, disable_endpoint=True)),
        (
            attempt(Outcome.HTTP_STATUS, 429, "7200"),
            0,
            False,
            Judgement(Verdict.RETRY, NOW + timedelta(hours=2)),
        ),
        (
            attempt(Outcome.HTTP_STATUS, 503, "7200"),
            1,
            False,
            Judgement(Verdict.RETRY, NOW + timedelta(hours=2)),
        ),
        (attempt(Outcome.HTTP_STATUS, 503, "1"), 0, False, Judgement(Verdict.RETRY, FIRST_RETRY)),
        (attempt(Outcome.HTTP_STATUS, 429, "soon"), 0, False, Judgement(Verdict.RETRY, FIRST_RETRY)),
        (attempt(Outcome.HTTP_STATUS, 500, "7200"), 0, False, Judgement(Verdict.RETRY, FIRST_RETRY)),
        (attempt(Outcome.HTTP_STATUS, 301, "7200"), 0, False, Judgement(Verdict.RETRY, FIRST_RETRY)),
        (attempt(Outcome.HTTP_STATUS, 429, "7200"), 2, False, Judgement(Verdict.FAILED)),
        (attempt(Outcome.HTTP_STATUS, 429, "7200"), 0, True, Judgement(Verdict.KEPT)),
        (attempt(Outcome.HTTP_STATUS, 500), 1, False, Judgement(Verdict.RETRY, SECOND_RETRY)),
        (attempt(Outcome.HTTP_STATUS, 500), 2, False, Judgement(Verdict.FAILED)),
        (attempt(Outcome.HTTP_STATUS, 503, "60"), 0, False, Judgement(Verdict.RETRY, FIRST_RETRY)),
        (
            attempt(Outcome.HTTP_STATUS, 503, "61"),
            0,
            False,
            Judgement(Verdict.RETRY, NOW + timedelta(seconds=61)),
        ),
        (attempt(Outcome.HTTP_STATUS, 409), 0, False, Judgement(Verdict.RETRY, FIRST_RETRY)),
        (attempt(Outcome.HTTP_STATUS, 411), 0, False, Judgement(Verdict.RETRY, FIRST_RETRY)),
    ],
)
def test_each_result_has_its_verdict(
    result: AttemptResult, attempts_made: int, replay: bool, judgement: Judgement
) -> None:
    assert (
        judge(result, attempts_made=attempts_made, replay=replay, policy=POLICY, now=NOW, random=0.5)
        == judgement
    )


results = st.builds(
    attempt,
    outcome=st.sampled_from(Outcome),
    status=st.none() | st.integers(100, 599),
    retry_after=st.none() | st.text(max_size=20) | st.integers(-10, 10**9).map(str),
)


@given(
    result=results,
    attempts_made=st.integers(0, 20),
    replay=st.booleans(),
    delays=st.lists(st.timedeltas(timedelta(0), timedelta(days=7)), max_size=8).map(tuple),
    random=st.floats(0, 1, exclude_max=True),
)
def test_every_verdict_stays_within_the_schedule(
    result: AttemptResult, attempts_made: int, replay: bool, delays: tuple[timedelta, ...], random: float
) -> None:
    """For any result: one verdict, within the schedule and its bounds."""
    judgement = judge(
        result, attempts_made=attempts_made, replay=replay, policy=RetryPolicy(delays), now=NOW, random=random
    )
    verdict, retry_at = judgement.verdict, judgement.retry_at

    assert (verdict is Verdict.DELIVERED) == (result.outcome is Outcome.OK)
    assert (verdict is Verdict.RETRY) == (retry_at is not None)
    if attempts_made >= len(delays):
        assert verdict is not Verdict.RETRY, "there is no retry after the end of the schedule"
    if result.outcome is Outcome.BLOCKED:
        assert judgement == Judgement(Verdict.FAILED), "blocked is final"
    if replay:
        assert verdict is not Verdict.RETRY, "a replay does not change the schedule"
    if judgement.disable_endpoint:
        assert result.status == 410
        assert verdict is Verdict.FAILED
    if retry_at is not None:
        assert retry_at >= NOW + delays[attempts_made] * 0.9 - timedelta(microseconds=1)
        assert retry_at <= NOW + max(delays[attempts_made] * 1.1, LONGEST_RETRY_AFTER) + timedelta(
            microseconds=1
        )
        if result.status not in {429, 503}:
            assert retry_at <= NOW + delays[attempts_made] * 1.1 + timedelta(microseconds=1)


@given(status=st.integers(300, 599).filter(lambda status: status != 410))
def test_a_failing_delivery_has_one_retry_per_delay(status: int) -> None:
    policy = RetryPolicy(DEFAULT_DELAYS)
    verdicts = [
        judge(
            attempt(Outcome.HTTP_STATUS, status),
            attempts_made=n,
            replay=False,
            policy=policy,
            now=NOW,
            random=0.5,
        ).verdict
        for n in range(len(DEFAULT_DELAYS) + 1)
    ]
    assert verdicts == [Verdict.RETRY] * len(DEFAULT_DELAYS) + [Verdict.FAILED]
