"""What an attempt means for its delivery: a pure function of the result, the attempts made, the clock and a random number."""

from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Final

from delivery.engine.retry_policy import RetryPolicy, parse_retry_after
from delivery.http.attempt_contract import AttemptResult, Outcome
from schema.deliveries.deliveries import Verdict

GONE: Final = HTTPStatus.GONE
_WITH_RETRY_AFTER: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    retry_at: datetime | None = None
    disable_endpoint: bool = False


_DELIVERED: Final = Judgement(Verdict.DELIVERED)


def judge(
    result: AttemptResult,
    *,
    attempts_made: int,
    replay: bool,
    policy: RetryPolicy,
    now: datetime,
    random: float,
) -> Judgement:
    """`attempts_made` counts the scheduled attempts before this one; `random` is in [0, 1)."""
    if result.outcome is Outcome.OK:
        return _DELIVERED
    if result.outcome is Outcome.BLOCKED:
        return Judgement(Verdict.FAILED)
    if result.status == GONE:
        return Judgement(Verdict.FAILED, disable_endpoint=True)
    if replay:
        return Judgement(Verdict.KEPT)
    wait = None
    if result.retry_after is not None and result.status in _WITH_RETRY_AFTER:
        wait = parse_retry_after(result.retry_after, now)
    retry_at = policy.next_attempt_at(attempts_made + 1, now, random, wait)
    if retry_at is None:
        return Judgement(Verdict.FAILED)
    return Judgement(Verdict.RETRY, retry_at)
