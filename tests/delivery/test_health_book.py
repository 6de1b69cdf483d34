"""When an endpoint's health is worth a write, with the clock in the test's hand."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from delivery.health_book import HealthBook
from schema.deliveries import Attempt, ClaimedDelivery, HealthNote, Settlement, Verdict
from schema.ids import new_id

START = datetime(2026, 6, 28, 9, 0, tzinfo=UTC)
TENANT, A, B = new_id(), new_id(), new_id()


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def result(endpoint_id: UUID, outcome: str | None, error: str | None = None) -> Settlement:
    claim = ClaimedDelivery(
        new_id(), TENANT, endpoint_id, new_id(), "invoice_created", START, 0, False, "{}", 1, None
    )
    if outcome is None:
        return Settlement(claim, Verdict.SKIPPED)
    attempt = Attempt(new_id(), START, outcome, None, error, b"", None, None, None, None, None, 1.0)
    return Settlement(claim, Verdict.DELIVERED, attempt=attempt)


def write(book: HealthBook, *results: Settlement) -> list[HealthNote]:
    notes = book.notes(results)
    book.written(notes)
    return notes


def test_the_first_success_is_noted_and_then_one_a_minute() -> None:
    clock = Clock()
    book = HealthBook(clock)
    assert write(book, result(A, "ok")) == [
        HealthNote(A, TENANT, succeeded=True, failures=0, at=START, error=None)
    ]
    clock.now = START + timedelta(seconds=59)
    assert write(book, result(A, "ok")) == []
    clock.now = START + timedelta(seconds=60)
    assert len(write(book, result(A, "ok"))) == 1
    clock.now = START + timedelta(seconds=61)
    assert write(book, result(A, "ok")) == []


def test_every_failure_is_noted_with_its_reason() -> None:
    book = HealthBook(Clock())
    for error, told in (("answered 500", "answered 500"), (None, "timeout")):
        assert write(book, result(A, "timeout", error)) == [
            HealthNote(A, TENANT, succeeded=False, failures=1, at=START, error=told)
        ]


def test_the_first_success_after_a_failure_is_noted_at_once() -> None:
    book = HealthBook(Clock())
    write(book, result(A, "ok"))
    write(book, result(A, "connect"))
    assert [note.succeeded for note in write(book, result(A, "ok"))] == [True]
    assert write(book, result(A, "ok")) == []


def test_a_batch_gives_one_note_per_endpoint_with_the_failures_since_its_last_success() -> None:
    book = HealthBook(Clock())
    notes = write(
        book, result(A, "tls"), result(B, "dns"), result(A, "ok"), result(A, "timeout"), result(A, "dns", "x")
    )
    assert notes == [
        HealthNote(A, TENANT, succeeded=True, failures=2, at=START, error="x"),
        HealthNote(B, TENANT, succeeded=False, failures=1, at=START, error="dns"),
    ]


def test_what_was_not_sent_says_nothing_about_health() -> None:
    assert HealthBook(Clock()).notes([result(A, None)]) == []


def test_a_note_that_was_not_written_is_made_again() -> None:
    """A batch that is rolled back must not make the book believe that it told the database."""
    book = HealthBook(Clock())
    first = book.notes([result(A, "ok")])
    assert book.notes([result(A, "ok")]) == first
    book.written(first)
    assert book.notes([result(A, "ok")]) == []


def test_the_book_remembers_a_bounded_number_of_endpoints() -> None:
    book = HealthBook(Clock())
    write(book, *(result(UUID(int=number), "ok") for number in range(10_050)))
    assert len(book._healthy_since_note) == 10_000


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=5), max_size=20))
def test_what_is_written_always_tells_whether_the_endpoint_fails_now(batches: list[list[bool]]) -> None:
    """However results fall into batches, and however few are written: the row ends up failing or healthy as it is,
    with the right count of consecutive failures."""
    book, row = HealthBook(Clock()), 0
    for batch in batches:
        for note in write(book, *(result(A, "ok" if ok else "timeout") for ok in batch)):
            row = note.failures + (0 if note.succeeded else row)
    outcomes = [ok for batch in batches for ok in batch]
    assert row == next((n for n, ok in enumerate(reversed(outcomes)) if ok), len(outcomes))
