"""What a worker knows of its endpoints, and when it is worth a write; with clocks and chance in the test's hand."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.health.breaker import State
from delivery.health.health_book import HealthBook
from schema.deliveries.deliveries import Attempt, ClaimedDelivery, EndpointTarget, Settlement, Verdict
from schema.deliveries.endpoint_health import BreakerChange, HealthNote
from schema.ids import new_id

START = datetime(2026, 6, 28, 9, 0, tzinfo=UTC)
TENANT, A, B = new_id(), new_id(), new_id()


class Clock:
    """Both clocks at once; the wall's can be set apart."""

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
def book(clock: Clock) -> HealthBook:
    return a_book(clock)


def a_book(clock: Clock) -> HealthBook:
    return HealthBook(clock.now, lambda: 0.5, clock.monotonic)


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


def write(book: HealthBook, *results: Settlement) -> list[HealthNote]:
    """One batch that is committed at the first try."""
    for settlement in results:
        book.observe(settlement)
    notes = book.notes(results)
    book.written(notes)
    return notes


def failures(count: int, endpoint_id: UUID = A) -> list[Settlement]:
    return [result(endpoint_id, "http_status") for _ in range(count)]


def change(notes: list[HealthNote]) -> BreakerChange | None:
    (note,) = notes
    return note.breaker


# When a note is worth a write


def test_the_first_success_is_noted_and_then_one_a_minute(book: HealthBook, clock: Clock) -> None:
    assert write(book, result(A, "ok")) == [HealthNote(A, TENANT, succeeded=True, failures=0, error=None)]
    for seconds, noted in ((59, 0), (1, 1), (1, 0), (60, 1)):
        clock.passes(seconds)
        assert len(write(book, result(A, "ok"))) == noted


def test_a_clock_that_is_set_back_stops_no_notes(book: HealthBook, clock: Clock) -> None:
    write(book, result(A, "ok"))
    clock.set_by = -timedelta(days=400)
    assert len(write(book, result(A, "ok"))) == 1
    assert write(book, result(A, "ok")) == []


def test_every_failure_is_noted_with_its_reason(book: HealthBook) -> None:
    for error, told in (("HTTP status 500", "HTTP status 500"), (None, "dns")):
        assert write(book, result(A, "dns", error)) == [
            HealthNote(A, TENANT, succeeded=False, failures=1, error=told)
        ]


def test_the_first_success_after_a_failure_is_noted_at_once(book: HealthBook) -> None:
    write(book, result(A, "ok"))
    write(book, result(A, "connect"))
    assert [note.succeeded for note in write(book, result(A, "ok"))] == [True]
    assert write(book, result(A, "ok")) == []


def test_a_batch_gives_one_note_per_endpoint_with_the_failures_since_its_last_success(
    book: HealthBook,
) -> None:
    notes = write(
        book, result(A, "tls"), result(B, "dns"), result(A, "ok"), result(A, "timeout"), result(A, "dns", "x")
    )
    assert notes == [
        HealthNote(A, TENANT, succeeded=True, failures=2, error="x"),
        HealthNote(B, TENANT, succeeded=False, failures=1, error="dns"),
    ]


def test_what_was_not_sent_says_nothing_about_health(book: HealthBook) -> None:
    assert write(book, result(A, None)) == []


def test_a_note_that_was_not_written_is_made_again(book: HealthBook) -> None:
    """A batch that is rolled back must not make the book believe that it told the database."""
    first = book.notes([result(A, "ok")])
    assert book.notes([result(A, "ok")]) == first
    book.written(first)
    assert book.notes([result(A, "ok")]) == []


def test_what_an_earlier_try_has_counted_counts_once(book: HealthBook) -> None:
    """The COMMIT's answer was lost, and the batch is written again."""
    before, new = failures(2)
    counted = {before.attempt.id} if before.attempt else set()
    assert [note.failures for note in book.notes([before, new], counted)] == [1]
    assert book.notes([before], counted) == []


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=5), max_size=20))
def test_what_is_written_always_tells_whether_the_endpoint_fails_now(batches: list[list[bool]]) -> None:
    """However results fall into batches, and however few are written: the row ends up failing or healthy as it is,
    with the right count of consecutive failures."""
    book, row = a_book(Clock()), 0
    for batch in batches:
        for note in write(book, *(result(A, "ok" if ok else "timeout") for ok in batch)):
            row = note.failures + (0 if note.succeeded else row)
    outcomes = [ok for batch in batches for ok in batch]
    assert row == next((n for n, ok in enumerate(reversed(outcomes)) if ok), len(outcomes))


def test_the_book_remembers_a_bounded_number_of_endpoints_and_lets_go_of_who_was_heard_of_least_lately(
    book: HealthBook,
) -> None:
    write(book, *failures(10))
    write(book, *failures(10, B))
    for number in range(10_005):
        write(book, result(UUID(int=number), "ok"))
        if number == 5_000:
            book.observe(result(B, "http_status", took_s=60))
    assert len(book._known) == 10_000
    assert book.closed(A)
    assert not book.closed(B)


# Breakers


def test_a_breaker_trips_when_the_result_arrives_and_not_when_it_is_written(book: HealthBook) -> None:
    for settlement in failures(9):
        book.observe(settlement)
    assert book.closed(A)
    book.observe(result(A, "protocol"))
    assert not book.closed(A)
    assert book.closed(B)


def test_five_attempts_that_hung_trip_it(book: HealthBook) -> None:
    assert change(write(book, *(result(A, "timeout") for _ in range(4)))) is None
    assert change(write(book, result(A, "timeout"))) == BreakerChange(1, timedelta(seconds=2))


def test_the_database_is_told_of_an_opening_once(book: HealthBook) -> None:
    assert change(write(book, *failures(10))) == BreakerChange(1, timedelta(seconds=2))
    assert change(write(book, *failures(5))) is None


def test_results_count_once_however_often_their_batch_is_tried(book: HealthBook) -> None:
    batch = failures(6)
    for settlement in batch:
        book.observe(settlement)
    for _ in range(5):
        assert change(book.notes(batch)) is None
    assert book.closed(A)


def test_a_change_that_was_not_written_goes_with_the_next_try_for_the_time_that_is_left(
    book: HealthBook, clock: Clock
) -> None:
    batch = failures(10)
    for settlement in batch:
        book.observe(settlement)
    for left in (2.0, 0.5, 0.0, 0.0):
        assert change(book.notes(batch)) == BreakerChange(1, timedelta(seconds=left))
        clock.passes(1.5)
    book.written(book.notes(batch))
    assert change(book.notes(batch)) is None


def test_a_change_goes_even_with_results_that_are_no_news_themselves(book: HealthBook, clock: Clock) -> None:
    """The note of an earlier try was committed, and what changed since then is not in it."""
    batch = failures(10)
    for settlement in batch:
        book.observe(settlement)
    counted = {settlement.attempt.id for settlement in batch if settlement.attempt}
    assert book.notes(batch, counted) == [
        HealthNote(A, TENANT, False, 0, None, BreakerChange(1, timedelta(seconds=2)))
    ]


def test_recovery_is_told_at_once_and_names_the_opening_it_ends(book: HealthBook, clock: Clock) -> None:
    write(book, *failures(10))
    clock.passes(2)
    assert [change(write(book, result(A, "ok"))), write(book, result(A, "ok"))] == [None, []]
    assert not book.closed(A)
    assert change(write(book, result(A, "ok"))) == BreakerChange(1, None)
    assert book.closed(A)
    assert write(book, result(A, "ok")) == []


def test_a_failed_probe_opens_for_longer(book: HealthBook, clock: Clock) -> None:
    write(book, *failures(10))
    clock.passes(2)
    assert change(write(book, result(A, "ok"), result(A, "connect"))) == BreakerChange(
        2, timedelta(seconds=4), follows=1
    )


def test_what_changed_during_the_write_is_told_by_the_next_one(book: HealthBook, clock: Clock) -> None:
    write(book, *failures(10))
    clock.passes(2)
    probe = result(A, "connect")
    book.observe(probe)
    notes = book.notes([probe])
    clock.passes(4)
    again = result(A, "connect")
    book.observe(again)
    book.written(notes)
    assert change(book.notes([again])) == BreakerChange(3, timedelta(seconds=8), follows=2)


def test_a_recovery_during_the_write_of_its_opening_is_told_by_the_next_one(
    book: HealthBook, clock: Clock
) -> None:
    """The database was slow: until it knows, deliveries are claimed as before."""
    batch = failures(10)
    for settlement in batch:
        book.observe(settlement)
    notes = book.notes(batch)
    clock.passes(2)
    probes = [result(A, "ok") for _ in range(3)]
    for settlement in probes:
        book.observe(settlement)
    book.written(notes)
    assert change(book.notes(probes)) == BreakerChange(1, None)


def test_results_under_way_when_it_opened_neither_close_nor_extend_it(book: HealthBook, clock: Clock) -> None:
    write(book, *failures(10))
    clock.passes(10)
    late = [result(A, outcome, took_s=15) for outcome in ("ok", "ok", "ok", "timeout", "timeout", "timeout")]
    assert change(write(book, *late)) is None
    assert book.states() == {State.HALF_OPEN: 1}
    write(book, *(result(A, "ok") for _ in range(3)))
    assert change(write(book, *(result(A, "timeout", took_s=11) for _ in range(5)))) is None
    assert book.closed(A)


# Between workers


def test_an_opening_of_another_worker_is_adopted_and_counted_on(book: HealthBook) -> None:
    assert book.adopt(A, 3, book.monotonic())
    assert not book.closed(A)
    assert not book.adopt(A, 3, book.monotonic()), "it has begun before"
    assert change(write(book, result(A, "timeout"))) == BreakerChange(4, timedelta(seconds=16), follows=3)


def test_its_own_opening_is_half_open_when_the_database_says_so(book: HealthBook) -> None:
    """By the database's clock, which claims go by; ours may be behind."""
    write(book, *failures(10))
    assert book.adopt(A, 1, book.monotonic())
    assert book.states() == {State.HALF_OPEN: 1}


def test_what_the_database_says_is_older_than_what_it_has_not_been_told(book: HealthBook) -> None:
    for settlement in failures(10):
        book.observe(settlement)
    assert not book.adopt(A, 0, book.monotonic())
    assert not book.closed(A)


def test_a_look_from_before_the_opening_was_written_closes_nothing(book: HealthBook, clock: Clock) -> None:
    """Its answer was on the way while the results came in, and the batch was committed."""
    looked_at = book.monotonic()
    clock.passes(0.5)
    batch = failures(10)
    for settlement in batch:
        book.observe(settlement)
    notes = book.notes(batch)
    clock.passes(0.5)
    looked_meanwhile = book.monotonic()
    clock.passes(0.5)
    book.written(notes)
    for stale in (looked_at, looked_meanwhile):
        assert not book.adopt(A, 0, stale)
        assert book.open(A)
    assert book.adopt(A, 0, book.monotonic())
    assert book.closed(A), "a look that was later tells what another worker has done"


def test_a_look_from_before_the_recovery_was_written_opens_nothing(book: HealthBook, clock: Clock) -> None:
    write(book, *failures(10))
    clock.passes(2)
    looked_at = book.monotonic()
    clock.passes(0.5)
    write(book, *(result(A, "ok") for _ in range(3)))
    assert not book.adopt(A, 1, looked_at)
    assert book.closed(A)


def test_a_breaker_that_another_worker_closed_is_closed_here_too_and_the_endpoint_starts_slowly(
    book: HealthBook,
) -> None:
    write(book, *failures(10))
    assert book.adopt(A, 0, book.monotonic())
    assert book.closed(A)
    assert not book.adopt(A, 0, book.monotonic()), "once"
    assert not book.adopt(B, 0, book.monotonic())
    assert len(book._known) == 1, "of healthy endpoints nothing needs to be known"


def test_an_opening_follows_what_the_database_has_been_told_of(book: HealthBook, clock: Clock) -> None:
    """One whose first writes failed for so long that it opened again meanwhile is news to the database all the same."""
    batch = failures(10)
    for settlement in batch:
        book.observe(settlement)
    clock.passes(2)
    batch += failures(1)
    book.observe(batch[-1])
    assert change(book.notes(batch)) == BreakerChange(2, timedelta(seconds=4), follows=0)
    book.written(book.notes(batch))
    clock.passes(4)
    assert change(write(book, *failures(1))) == BreakerChange(3, timedelta(seconds=8), follows=2)


def test_a_success_is_news_while_the_database_has_the_endpoint_failing(book: HealthBook) -> None:
    """Another worker noted the failure; to this one all has been well."""
    write(book, result(A, "ok"))
    recovered = result(A, "ok", failing=True)
    assert [note.succeeded for note in write(book, recovered)] == [True]
    assert write(book, result(A, "ok")) == []
    counted = {recovered.attempt.id} if recovered.attempt else set()
    assert book.notes([recovered], counted) == []


def test_an_endpoint_found_disabled_starts_afresh(book: HealthBook) -> None:
    write(book, *failures(10))
    write(book, result(A, None))
    assert book.closed(A)
    assert change(write(book, *failures(9))) is None


def test_the_states_of_those_that_are_not_healthy_are_counted(book: HealthBook, clock: Clock) -> None:
    write(book, result(new_id(), "ok"), result(new_id(), "dns"), *failures(10))
    assert book.states() == {State.FAILING: 1, State.OPEN: 1}
    clock.passes(2)
    assert book.states() == {State.FAILING: 1, State.HALF_OPEN: 1}
