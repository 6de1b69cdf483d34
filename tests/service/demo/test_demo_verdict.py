"""The demo's verdict finds each way in which the main job can fail, and gives an example."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from schema.ids import new_id
from schema.modes import Mode
from service.demo.demo_verdict import MAX_EXAMPLES, Audit, Evidence, Verdict, judge, percentile
from service.demo.observations import Committed
from service.demo.receipts import OK, REJECTED, Receipt

APP, LEDGER = "/run/app", "/run/ledger"
SOUND = Audit(
    without_position=(), recorded_though_rolled_back=(), positions_missing=0, deliveries={"delivered": 3}
)


def committed(*recipients: str, at: float = 100.0, timed: bool = True) -> Committed:
    return Committed(new_id(), Mode.LIVE, "invoice_created", "data", frozenset(recipients), at, timed)


def receipt(event_id: str, path: str = APP, at: float = 100.005, **other: Any) -> Receipt:
    return replace(Receipt(path, at, OK, event_id, "invoice_created", 1, "body", "data"), **other)


def good_evidence(*more: Receipt, without: Sequence[tuple[str, str]] = (), **other: Any) -> Evidence:
    """Two committed events and one rolled back.

    The first goes to two endpoints, to one at its second attempt.
    """
    events = {"evt_1": committed(APP, LEDGER), "evt_2": committed(APP)}
    receipts = [
        receipt("evt_1", answer="server_error"),
        receipt("evt_1", at=101.0, attempt=2),
        receipt("evt_1", LEDGER, at=100.007),
        receipt("evt_2", at=100.001),
    ]
    kept = [r for r in receipts if (r.event_id, r.path) not in without]
    return replace(Evidence(events, {"evt_9"}, [*kept, *more], SOUND, 0), **other)


def only_problem(verdict: Verdict) -> str:
    (problem,) = verdict.problems
    return f"{problem.what} {' '.join(problem.examples)}"


def test_a_correct_run_passes_and_is_counted() -> None:
    verdict = judge(good_evidence())
    figures = verdict.figures
    assert verdict.passed
    assert (figures.committed, figures.rolled_back, figures.expected) == (2, 1, 3)
    assert (figures.delivered, figures.verified, figures.retried) == (3, 3, 1)
    assert (figures.duplicates, figures.lost, figures.wrong, figures.unverified) == (0, 0, 0, 0)


def test_latency_counts_the_first_attempt_even_if_it_failed() -> None:
    figures = judge(good_evidence()).figures
    assert figures.p50_ms == pytest.approx(5)
    assert figures.p99_ms == pytest.approx(7)


def test_untimed_events_do_not_count_for_latency() -> None:
    events = {"evt_1": committed(APP, at=0.0, timed=False), "evt_2": committed(APP)}
    receipts = [receipt("evt_1"), receipt("evt_2", at=100.002)]
    audit = replace(SOUND, deliveries={"delivered": 2})
    figures = judge(Evidence(events, (), receipts, audit, 0)).figures
    assert figures.p99_ms == pytest.approx(2)


def test_a_receipt_before_commit_returned_has_zero_latency() -> None:
    evidence = Evidence({"evt_1": committed(APP)}, (), [receipt("evt_1", at=99.9)], SOUND, 0)
    assert judge(evidence).figures.p50_ms == 0


def test_a_duplicate_is_counted_but_passes() -> None:
    verdict = judge(good_evidence(receipt("evt_2", attempt=2)))
    assert verdict.passed
    assert verdict.figures.duplicates == 1


def test_a_missing_delivery_is_lost() -> None:
    verdict = judge(good_evidence(without=[("evt_1", LEDGER)]))
    assert verdict.figures.lost == 1
    assert "1 delivery did not arrive" in only_problem(verdict)
    assert f"evt_1 at {LEDGER}" in only_problem(verdict)


def test_a_delivery_without_a_successful_attempt_is_lost() -> None:
    failing = receipt("evt_2", answer="server_error")
    verdict = judge(good_evidence(failing, without=[("evt_2", APP)]))
    assert (verdict.figures.lost, verdict.figures.delivered) == (1, 2)
    assert not verdict.passed


@pytest.mark.parametrize(
    ("arrival", "reason"),
    [
        (receipt("evt_9"), "rolled back"),
        (receipt("evt_9", answer="server_error"), "rolled back"),
        (receipt("evt_7"), "it was never committed"),
        (receipt("evt_2", LEDGER), "is not subscribed to it"),
        (receipt("evt_2", data_digest="other"), "differs from what was committed"),
        (receipt("evt_2", event_type="subscription_created"), "differs from what was committed"),
        (receipt("evt_2", body_digest="other"), "differ between attempts"),
    ],
)
def test_an_unexpected_arrival_is_wrong(arrival: Receipt, reason: str) -> None:
    verdict = judge(good_evidence(arrival))
    assert verdict.figures.wrong == 1
    assert reason in only_problem(verdict)
    assert f"{arrival.event_id} at {arrival.path}" in only_problem(verdict)


def test_a_delivery_with_other_content_is_not_verified() -> None:
    figures = judge(good_evidence(receipt("evt_2", data_digest="other"))).figures
    assert (figures.delivered, figures.verified) == (3, 2)


def test_one_unverified_request_fails_the_demo() -> None:
    verdict = judge(good_evidence(Receipt(APP, 100.0, REJECTED, reason="no v1 matches")))
    assert verdict.figures.unverified == 1
    assert "1 request did not verify" in only_problem(verdict)
    assert "no v1 matches" in only_problem(verdict)


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        ({"without_position": ["evt_1"]}, "no position in the log. evt_1"),
        ({"recorded_though_rolled_back": ["evt_9"]}, "Rolled-back events are in the events table. evt_9"),
        ({"positions_missing": 2}, "has gaps: 2 positions"),
        ({"deliveries": {"delivered": 2, "pending": 1}}, "It has 2 delivered, 1 pending"),
        ({"deliveries": {"delivered": 4}}, "3 deliveries, all delivered. It has 4 delivered"),
        ({"deliveries": {}}, "It has none"),
    ],
)
def test_the_database_must_agree(difference: dict[str, Any], expected: str) -> None:
    assert expected in only_problem(judge(good_evidence(audit=replace(SOUND, **difference))))


@pytest.mark.parametrize(
    ("status", "expected"),
    [(None, "did not end within 25 s after SIGTERM"), (1, "status 1"), (-9, "status -9")],
)
def test_the_worker_must_exit_with_status_zero(status: int | None, expected: str) -> None:
    assert expected in only_problem(judge(good_evidence(worker_status=status)))


def test_the_abort_reason_comes_first() -> None:
    verdict = judge(good_evidence(without=[("evt_1", LEDGER)], abort_reason="Nothing arrived for 60 s."))
    assert verdict.problems[0].what == "Nothing arrived for 60 s."
    assert not verdict.passed


def test_the_number_of_examples_is_limited() -> None:
    events = {f"evt_{n}": committed(APP) for n in range(50)}
    verdict = judge(Evidence(events, (), [], replace(SOUND, deliveries={"delivered": 50}), 0))
    assert verdict.figures.lost == 50
    assert len(verdict.problems[0].examples) == MAX_EXAMPLES


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentile([], 0.5) is None
    assert percentile([7.0], 0.99) == 7
    assert percentile([float(n) for n in range(1, 101)], 0.50) == 50
    assert percentile([float(n) for n in range(1, 101)], 0.99) == 99
