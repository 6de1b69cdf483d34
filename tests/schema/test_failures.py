"""A streak of failures is timed, counted and logged without data or passwords."""

import asyncio
import logging

import asyncpg
import pytest

from schema.errors import InvalidInput
from schema.failures import (
    REFUSED_FOR_S,
    Failures,
    PartFailures,
    carrying_on,
    current_part,
    enter_part,
    failed,
    reason_of,
    succeeded,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def part(clock: Clock) -> PartFailures:
    return Failures(clock).part("settler test")


def raised(error: Exception) -> Exception:
    """With a traceback."""
    try:
        raise error  # noqa: TRY301  the test is about what a raised one looks like
    except Exception as caught:  # noqa: BLE001  to have one
        return caught


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_streak_is_logged_at_start_every_minute_and_end(
    part: PartFailures, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    error = ConnectionRefusedError("refused")
    for _ in range(481):  # sixty seconds
        part.failed("write", error)
        clock.now += 0.125
    part.succeeded("write")
    assert lines(caplog) == [
        "settler test: write failed: refused",
        "settler test: write has been failing for 60 s, 481 times in a row: refused",
        "settler test: write works again after 60.1 s and 481 failures",
    ]
    assert "Traceback" not in caplog.text, "an outage has none"


def test_the_log_interval_is_exact(
    part: PartFailures, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    part.failed("write", OSError("x"))
    clock.now += 59.999
    part.failed("write", OSError("x"))
    assert len(caplog.records) == 1
    clock.now += 0.001
    part.failed("write", OSError("x"))
    assert len(caplog.records) == 2


def test_a_defect_shows_its_traceback_once(
    part: PartFailures, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        part.failed("write", raised(KeyError("amount")))
        clock.now += 60
    assert len(caplog.records) == 5
    assert ["Traceback" in line for line in lines(caplog)] == [True, False, False, False, False]
    assert caplog.records[0].levelno == logging.ERROR


def test_characters_that_logs_cannot_hold_are_escaped(
    part: PartFailures, caplog: pytest.LogCaptureFixture
) -> None:
    part.failed("write", raised(ValueError("a \0 and a \ud800")))
    assert r"ValueError: a \0 and a \ud800" in caplog.text
    assert reason_of(InvalidInput("a \0 and a \ud800")) == r"a \0 and a \ud800"


def test_a_defect_within_an_outage_is_logged_immediately(
    part: PartFailures, caplog: pytest.LogCaptureFixture
) -> None:
    part.failed("write", OSError("away"))
    part.failed("write", ConnectionResetError("away"))
    part.failed("write", raised(KeyError("amount")))
    assert ["Traceback" in line for line in lines(caplog)] == [False, True]


def test_a_failed_item_is_named_without_its_own_streak(part: PartFailures) -> None:
    part.failed("take over", OSError("locked"), "worker 2")
    part.failed("take over", OSError("locked"), "worker 3")
    (reason,) = part.reasons(0)
    assert reason.endswith("Z: worker 3: locked")


def test_alternating_failures_do_not_flood_the_log(
    part: PartFailures, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(470):
        part.failed("write", OSError("now and then"))
        part.succeeded("write")
        clock.now += 0.125
    assert len(caplog.records) == 2
    assert part.total == 470


def test_reasons_appear_after_the_configured_time(part: PartFailures, clock: Clock) -> None:
    part.failed("write", OSError("first"))
    clock.now += 9.999
    part.failed("write", OSError("last"))
    assert part.reasons(10) == []
    assert part.failing_seconds == pytest.approx(9.999)
    clock.now += 0.001
    (reason,) = part.reasons(10)
    assert reason.startswith("settler test: write has been failing since 2")
    assert reason.endswith("Z: last")
    part.succeeded("write")
    assert (part.reasons(10), part.failing_seconds) == ([], 0)


def test_operations_of_a_part_fail_independently(part: PartFailures, clock: Clock) -> None:
    part.failed("write", OSError("a"))
    clock.now += 5
    part.failed("disable", OSError("b"))
    part.succeeded("write")
    assert part.failing_seconds == 0
    clock.now += 2
    assert part.failing_seconds == 2


def test_an_error_that_ends_a_part_counts_for_its_operation(part: PartFailures) -> None:
    error, other = KeyError("x"), KeyError("x")
    part.note_raised("write", error)
    part.ended_by(error)
    part.succeeded("run")
    assert part.reasons(0)[0].startswith("settler test: write ")
    part.succeeded("write")
    part.note_raised("write", error)  # and somebody handled it
    part.ended_by(other)
    assert part.reasons(0)[0].startswith("settler test has been ")


def test_harmless_failures_do_not_change_readiness(part: PartFailures, clock: Clock) -> None:
    part.failed("write", OSError("x"), harmless=True)
    clock.now += 60
    assert part.reasons(0) == []
    assert part.failing_seconds == 60
    part.failed("write", OSError("x"))
    assert len(part.reasons(10)) == 1


async def test_code_reports_to_its_current_part(part: PartFailures) -> None:
    await asyncio.create_task(_report(part))
    assert current_part() is not part


async def _report(part: PartFailures) -> None:
    enter_part(part)
    with carrying_on("sweep"):
        raise OSError("x")
    failed("write", OSError("x"))
    assert len(part.reasons(0)) == 2
    with carrying_on("sweep"):
        pass
    succeeded("write")
    assert part.reasons(0) == []


def test_outside_of_a_part_every_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        failed("write", OSError("x"))
    succeeded("write")
    assert lines(caplog) == ["write failed: x"] * 2


def server_error(kind: type[asyncpg.PostgresError], message: str, detail: str) -> asyncpg.PostgresError:
    fields = {"C": kind.sqlstate, "M": message, "D": detail}
    error: asyncpg.PostgresError = asyncpg.PostgresError.new(fields)
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("no way to\n postgresql://owner:hunter2@db/duro"), "no way to postgresql://…@db/duro"),
        (TimeoutError(), "timed out"),
        (ConnectionResetError(), "ConnectionResetError"),
        (asyncpg.InterfaceError("connection is closed"), "connection is closed"),
        (InvalidInput("A sentence of ours."), "A sentence of ours."),
        (KeyError("hunter2"), "KeyError; the log has its traceback"),
        (
            asyncpg.DataError("invalid input for query argument $1: 'hunter2'"),
            "the database refused the data (DataError, SQLSTATE 22000)",
        ),
        (
            server_error(asyncpg.UndefinedTableError, 'relation "events" does not exist', ""),
            'relation "events" does not exist (SQLSTATE 42P01)',
        ),
        (
            server_error(asyncpg.NotNullViolationError, "null value", "Failing row contains (hunter2)."),
            "the database refused the data (NotNullViolationError, SQLSTATE 23502)",
        ),
        (
            server_error(asyncpg.InvalidTextRepresentationError, 'invalid input: "hunter2"', ""),
            "the database refused the data (InvalidTextRepresentationError, SQLSTATE 22P02)",
        ),
        (
            server_error(asyncpg.InvalidPasswordError, "password authentication failed", ""),
            "password authentication failed (SQLSTATE 28P01): run duro migrate with this DURO_SECRET_KEY",
        ),
        (
            server_error(asyncpg.RaiseError, "not today", "Token hunter2 is wrong."),
            "not today (SQLSTATE P0001)",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_reason_is_one_short_sentence_without_data_or_passwords(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason
    assert len(reason_of(OSError("x" * 10_000))) == 300


def test_a_refused_connection_is_reported_for_exactly_so_long(clock: Clock) -> None:
    failures = Failures(clock)
    part = failures.part("settler test")
    part.failed("write", asyncpg.TooManyConnectionsError("too many clients"))
    part.succeeded("write")
    clock.now += REFUSED_FOR_S - 0.001
    assert len(failures.reasons()) == 1
    clock.now += 0.001
    assert failures.reasons() == []
