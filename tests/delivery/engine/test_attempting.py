"""How an attempt held its slot, by which the endpoint's in-flight limit grows or shrinks."""

import pytest

from delivery.engine.attempting import QUICK_MS, response_time
from delivery.engine.capacity import ResponseTime
from delivery.http.attempt_contract import AttemptResult, AttemptTimings, Outcome


@pytest.mark.parametrize(
    ("outcome", "total", "timed_out", "expected"),
    [
        (Outcome.OK, QUICK_MS - 1, False, ResponseTime.QUICK),
        (Outcome.OK, QUICK_MS, False, ResponseTime.SLOW),
        (Outcome.CONNECT, QUICK_MS - 1, False, ResponseTime.QUICK),
        (Outcome.TIMEOUT, QUICK_MS - 1, False, ResponseTime.HUNG),
        (Outcome.OK, QUICK_MS - 1, True, ResponseTime.HUNG),
        (Outcome.HTTP_STATUS, QUICK_MS, True, ResponseTime.HUNG),
    ],
)
def test_an_attempt_is_quick_slow_or_hung(
    outcome: Outcome, total: float, timed_out: bool, expected: ResponseTime
) -> None:
    result = AttemptResult(
        outcome, 200, None, None, b"", None, AttemptTimings(total=total), timed_out=timed_out
    )
    assert response_time(result) is expected
