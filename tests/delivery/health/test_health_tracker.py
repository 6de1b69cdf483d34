"""A worker's view of its endpoints' health, and which changes it writes. Tests set the clocks and random numbers."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.health.breaker import State
from delivery.health.health_tracker import HealthTracker
from schema.deliveries.deliveries import Attempt, ClaimedDelivery, EndpointTarget, Settlement, Verdict
from schema.deliveries.endpoint_health import BreakerChange, HealthNote
from schema.ids import new_id

START = datetime(2026, 6, 28, 9, 0, tzinfo=UTC)
TENANT, A, B = new_id(), new_id(), new_id()


class Clock:
    """Both clocks; the wall clock can be set."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.set_by = timedelta(0)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds - 1000) + self.set_by

    def monotonic(self) -> float:
        return self.seconds

    def passes(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tracker(clock: Clock) -> HealthTracker:
    return a_tracker(clock)


def a_tracker(clock: Clock) -> HealthTracker:
    return HealthTracker(clock.now, lambda: 0.5, clock.monotonic)


def result(
    endpoint_id: UUID,
    outcome: str | None,
    error: str | None = None,
    took_s: float = 0.0,
    *,
    failing: bool = False,
) -> Settlement:
    endpoint = EndpointTarget(
        endpoint_id, TENANT, "https://example.com/", (), None, True, (), failing=failing
    )
    claim = ClaimedDelivery(
        new_id(), TENANT, endpoint_id, new_id(), "invoice_created", START, 0, False, "{}", 1, endpoint
    )
    if outcome is None:
        return Settlement(claim, Verdict.SKIPPED)
    took_ms = took_s * 1000
    attempt = Attempt(new_id(), START, outcome, None, error, b"", None, None, None, None, None, took_ms)
    return Settlement(claim, Verdict.DELIVERED, attempt=attempt)


def write(tracker: HealthTracker, *results: Settlement) -> list[HealthNote]:
    """Observes and writes one batch, committed at the first try."""
    for settlement in results:
        tracker.observe(settlement)
    notes = tracker.notes(results)
    tracker.written(notes)
    return notes


def failures(count: int, endpoint_id: UUID = A) -> list[Settlement]:
    return [result(endpoint_id, "http_status") for _ in range(count)]


def change(notes: list[HealthNote]) -> BreakerChange | None:
    (note,) = notes
    return note.breaker


# Which notes are written


def test_a_success_is_written_once_a_minute(tracker: HealthTracker, clock: Clock) -> None:
    assert write(tracker, result(A, "ok")) == [HealthNote(A, TENANT, succeeded=True, failures=0, error=None)]
    for seconds, noted in ((59, 0), (1, 1), (1, 0), (60, 1)):
        clock.passes(seconds)
        assert len(write(tracker, result(A, "ok"))) == noted


def test_a_clock_that_is_set_back_does_not_stop_notes(tracker: HealthTracker, clock: Clock) -> None:
    write(tracker, result(A, "ok"))
    clock.set_by = -timedelta(days=400)
    assert len(write(tracker, result(A, "ok"))) == 1
    assert write(tracker, result(A, "ok")) == []


def test_every_failure_is_written_with_its_error(tracker: HealthTracker) -> None:
    for error, written in (("HTTP status 500", "HTTP status 500"), (None, "dns")):
        assert write(tracker, result(A, "dns", error)) == [
            HealthNote(A, TENANT, succeeded=False, failures=1, error=written)
        ]


def test_the_first_success_after_a_failure_is_written_immediately(tracker: HealthTracker) -> None:
    write(tracker, result(A, "ok"))
    write(tracker, result(A, "connect"))
    assert [note.succeeded for note in write(tracker, result(A, "ok"))] == [True]
    assert write(tracker, result(A, "ok")) == []


def test_a_batch_has_one_note_per_endpoint(
    tracker: HealthTracker,
) -> None:
    notes = write(
        tracker,
        result(A, "tls"),
        result(B, "dns"),
        result(A, "ok"),
        result(A, "timeout"),
        result(A, "dns", "x"),
    )
    assert notes == [
        HealthNote(A, TENANT, succeeded=True, failures=2, error="x"),
        HealthNote(B, TENANT, succeeded=False, failures=1, error="dns"),
    ]


def test_a_skipped_delivery_has_no_note(tracker: HealthTracker) -> None:
    assert write(tracker, result(A, None)) == []


def test_a_note_that_was_not_written_is_built_again(tracker: HealthTracker) -> None:
    """A batch that is rolled back does not count as written."""
    first = tracker.notes([result(A, "ok")])
    assert tracker.notes([result(A, "ok")]) == first
    tracker.written(first)
    assert tracker.notes([result(A, "ok")]) == []


def test_an_attempt_of_an_earlier_try_counts_once(tracker: HealthTracker) -> None:
    """The response to COMMIT was lost, and the batch is written again."""
    before, new = failures(2)
    counted = {before.attempt.id} if before.attempt else set()
    assert [note.failures for note in tracker.notes([before, new], counted)] == [1]
    assert tracker.notes([before], counted) == []


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=5), max_size=20))
def test_the_row_always_has_the_current_failures(batches: list[list[bool]]) -> None:
    """For any batches, and although few notes are written, the row has the right count of consecutive failures."""
    tracker, row = a_tracker(Clock()), 0
    for batch in batches:
        for note in write(tracker, *(result(A, "ok" if ok else "timeout") for ok in batch)):
            row = note.failures + (0 if note.succeeded else row)
    outcomes = [ok for batch in batches for ok in batch]
    assert row == next((n for n, ok in enumerate(reversed(outcomes)) if ok), len(outcomes))


def test_the_endpoint_updated_longest_ago_is_dropped_first(
    tracker: HealthTracker,
) -> None:
    write(tracker, *failures(10))
    write(tracker, *failures(10, B))
    for number in range(10_005):
        write(tracker, result(UUID(int=number), "ok"))
        if number == 5_000:
            tracker.observe(result(B, "http_status", took_s=60))
    assert len(tracker._known) == 10_000
    assert tracker.closed(A)
    assert not tracker.closed(B)


# Breakers


def test_a_breaker_trips_before_the_result_is_written(tracker: HealthTracker) -> None:
    for settlement in failures(9):
        tracker.observe(settlement)
    assert tracker.closed(A)
    tracker.observe(result(A, "protocol"))
    assert not tracker.closed(A)
    assert tracker.closed(B)


def test_five_hung_attempts_trip_the_breaker(tracker: HealthTracker) -> None:
    assert change(write(tracker, *(result(A, "timeout") for _ in range(4)))) is None
    assert change(write(tracker, result(A, "timeout"))) == BreakerChange(1, timedelta(seconds=2))


def test_an_opening_is_written_once(tracker: HealthTracker) -> None:
    assert change(write(tracker, *failures(10))) == BreakerChange(1, timedelta(seconds=2))
    assert change(write(tracker, *failures(5))) is None


def test_results_count_once_if_their_batch_is_retried(tracker: HealthTracker) -> None:
    batch = failures(6)
    for settlement in batch:
        tracker.observe(settlement)
    for _ in range(5):
        assert change(tracker.notes(batch)) is None
    assert tracker.closed(A)


def test_an_unwritten_opening_is_retried_with_the_remaining_time(
    tracker: HealthTracker, clock: Clock
) -> None:
    batch = failures(10)
    for settlement in batch:
        tracker.observe(settlement)
    for left in (2.0, 0.5, 0.0, 0.0):
        assert change(tracker.notes(batch)) == BreakerChange(1, timedelta(seconds=left))
        clock.passes(1.5)
    tracker.written(tracker.notes(batch))
    assert change(tracker.notes(batch)) is None


def test_a_breaker_change_is_written_even_without_new_results(tracker: HealthTracker, clock: Clock) -> None:
    """The note of an earlier try was committed, and the breaker changed after it."""
    batch = failures(10)
    for settlement in batch:
        tracker.observe(settlement)
    counted = {settlement.attempt.id for settlement in batch if settlement.attempt}
    assert tracker.notes(batch, counted) == [
        HealthNote(A, TENANT, False, 0, None, BreakerChange(1, timedelta(seconds=2)))
    ]


def test_a_recovery_is_written_immediately_with_its_opening(tracker: HealthTracker, clock: Clock) -> None:
    write(tracker, *failures(10))
    clock.passes(2)
    assert [change(write(tracker, result(A, "ok"))), write(tracker, result(A, "ok"))] == [None, []]
    assert not tracker.closed(A)
    assert change(write(tracker, result(A, "ok"))) == BreakerChange(1, None)
    assert tracker.closed(A)
    assert write(tracker, result(A, "ok")) == []


def test_a_failed_probe_opens_for_longer(tracker: HealthTracker, clock: Clock) -> None:
    write(tracker, *failures(10))
    clock.passes(2)
    assert change(write(tracker, result(A, "ok"), result(A, "connect"))) == BreakerChange(
        2, timedelta(seconds=4), follows=1
    )


def test_a_change_during_a_write_is_in_the_next_one(tracker: HealthTracker, clock: Clock) -> None:
    write(tracker, *failures(10))
    clock.passes(2)
    probe = result(A, "connect")
    tracker.observe(probe)
    notes = tracker.notes([probe])
    clock.passes(4)
    again = result(A, "connect")
    tracker.observe(again)
    tracker.written(notes)
    assert change(tracker.notes([again])) == BreakerChange(3, timedelta(seconds=8), follows=2)


def test_a_recovery_during_the_write_of_its_opening_follows(tracker: HealthTracker, clock: Clock) -> None:
    """The database is slow: until the write, deliveries are claimed as before."""
    batch = failures(10)
    for settlement in batch:
        tracker.observe(settlement)
    notes = tracker.notes(batch)
    clock.passes(2)
    probes = [result(A, "ok") for _ in range(3)]
    for settlement in probes:
        tracker.observe(settlement)
    tracker.written(notes)
    assert change(tracker.notes(probes)) == BreakerChange(1, None)


def test_late_results_neither_close_nor_extend_an_opening(tracker: HealthTracker, clock: Clock) -> None:
    write(tracker, *failures(10))
    clock.passes(10)
    late = [result(A, outcome, took_s=15) for outcome in ("ok", "ok", "ok", "timeout", "timeout", "timeout")]
    assert change(write(tracker, *late)) is None
    assert tracker.states() == {State.HALF_OPEN: 1}
    write(tracker, *(result(A, "ok") for _ in range(3)))
    assert change(write(tracker, *(result(A, "timeout", took_s=11) for _ in range(5)))) is None
    assert tracker.closed(A)


# Between workers


def test_an_opening_of_another_worker_is_adopted(tracker: HealthTracker) -> None:
    assert tracker.adopt(A, 3, tracker.monotonic())
    assert not tracker.closed(A)
    assert not tracker.adopt(A, 3, tracker.monotonic()), "it is half-open already"
    assert change(write(tracker, result(A, "timeout"))) == BreakerChange(4, timedelta(seconds=16), follows=3)


def test_an_own_opening_is_half_open_by_the_database_s_clock(tracker: HealthTracker) -> None:
    """Claims use the database's clock; the worker's may be behind."""
    write(tracker, *failures(10))
    assert tracker.adopt(A, 1, tracker.monotonic())
    assert tracker.states() == {State.HALF_OPEN: 1}


def test_an_unwritten_opening_takes_precedence_over_the_database(tracker: HealthTracker) -> None:
    for settlement in failures(10):
        tracker.observe(settlement)
    assert not tracker.adopt(A, 0, tracker.monotonic())
    assert not tracker.closed(A)


def test_a_read_before_an_opening_was_written_closes_nothing(tracker: HealthTracker, clock: Clock) -> None:
    """The results arrived and were committed while the read was under way."""
    read_at = tracker.monotonic()
    clock.passes(0.5)
    batch = failures(10)
    for settlement in batch:
        tracker.observe(settlement)
    notes = tracker.notes(batch)
    clock.passes(0.5)
    read_later = tracker.monotonic()
    clock.passes(0.5)
    tracker.written(notes)
    for stale in (read_at, read_later):
        assert not tracker.adopt(A, 0, stale)
        assert tracker.open(A)
    assert tracker.adopt(A, 0, tracker.monotonic())
    assert tracker.closed(A), "a later read shows the change of another worker"


def test_a_read_before_a_recovery_was_written_opens_nothing(tracker: HealthTracker, clock: Clock) -> None:
    write(tracker, *failures(10))
    clock.passes(2)
    read_at = tracker.monotonic()
    clock.passes(0.5)
    write(tracker, *(result(A, "ok") for _ in range(3)))
    assert not tracker.adopt(A, 1, read_at)
    assert tracker.closed(A)


def test_a_breaker_closed_by_another_worker_is_closed_here(
    tracker: HealthTracker,
) -> None:
    write(tracker, *failures(10))
    assert tracker.adopt(A, 0, tracker.monotonic())
    assert tracker.closed(A)
    assert not tracker.adopt(A, 0, tracker.monotonic()), "once"
    assert not tracker.adopt(B, 0, tracker.monotonic())
    assert len(tracker._known) == 1, "healthy endpoints need no entry"


def test_an_opening_follows_the_one_in_the_database(tracker: HealthTracker, clock: Clock) -> None:
    """The breaker opened a second time before its first opening was written."""
    batch = failures(10)
    for settlement in batch:
        tracker.observe(settlement)
    clock.passes(2)
    batch += failures(1)
    tracker.observe(batch[-1])
    assert change(tracker.notes(batch)) == BreakerChange(2, timedelta(seconds=4), follows=0)
    tracker.written(tracker.notes(batch))
    clock.passes(4)
    assert change(write(tracker, *failures(1))) == BreakerChange(3, timedelta(seconds=8), follows=2)


def test_a_success_is_written_while_the_database_has_it_failing(tracker: HealthTracker) -> None:
    """Another worker wrote the failure; this one saw only successes."""
    write(tracker, result(A, "ok"))
    recovered = result(A, "ok", failing=True)
    assert [note.succeeded for note in write(tracker, recovered)] == [True]
    assert write(tracker, result(A, "ok")) == []
    counted = {recovered.attempt.id} if recovered.attempt else set()
    assert tracker.notes([recovered], counted) == []


def test_the_health_of_a_disabled_endpoint_is_reset(tracker: HealthTracker) -> None:
    write(tracker, *failures(10))
    write(tracker, result(A, None))
    assert tracker.closed(A)
    assert change(write(tracker, *failures(9))) is None


def test_endpoints_that_are_not_healthy_are_counted_by_state(tracker: HealthTracker, clock: Clock) -> None:
    write(tracker, result(new_id(), "ok"), result(new_id(), "dns"), *failures(10))
    assert tracker.states() == {State.FAILING: 1, State.OPEN: 1}
    clock.passes(2)
    assert tracker.states() == {State.FAILING: 1, State.HALF_OPEN: 1}
