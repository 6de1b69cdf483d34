"""Reads the log: positions, cursors, and the events between them.

State that every batch changes (sequencer, cursors) is appended as ticks and never updated. While a transaction holds the
horizon back, the versions of an updated row cannot be pruned and each lookup walks all of them; the newest tick is
the last entry of its index. Locks follow the same rule: the sequencer locks an empty table, and a cursor's row, itself
never updated, is locked only when there are events to apply. So idle polls write nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from schema.connections.database import Connection, Executor, Pool, fetchval_with_timeout
from schema.queries import load

_SQL = load("log")
READ_BYTES: Final = 4 * 1024 * 1024  # 500 events of 256 KiB would take 128 MiB of memory
_LONGEST_ERROR: Final = 2000
_SEQUENCE_SECONDS: Final = 6 * 3600.0


@dataclass(slots=True)  # one per event: not frozen, see deliveries.py
class LoggedEvent:
    pos: int
    id: UUID
    tenant_id: UUID
    type: str
    created_at: datetime
    data: str
    """`jsonb` text as Postgres prints it."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """The log's own row of an event, without the event's type and data."""

    pos: int
    id: UUID
    tenant_id: UUID
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Batch:
    events: list[LoggedEvent]
    more: bool
    """The log has more events after these. A batch ends at its limit of events or bytes, whichever is reached first."""


@dataclass(frozen=True, slots=True)
class Cursor:
    consumer: str
    tick: int | None
    pos: int


async def sequence(connection: Executor, limit: int) -> int | None:
    """How many events got a position. None: another session is sequencing."""
    count: int | None = await connection.fetchval(_SQL["sequence"], limit)
    return count


async def sequence_large_batch(pool: Pool, limit: int) -> int | None:
    """Does the same with a time limit of hours: a batch never splits a transaction, and a restored log is one batch."""
    count: int | None = await fetchval_with_timeout(pool, _SEQUENCE_SECONDS, _SQL["sequence"], limit)
    return count


async def take_cursor(tx: Connection, consumer: str) -> Cursor | None:
    """Locks the cursor until the transaction ends. None: another worker has it."""
    row = await tx.fetchrow(_SQL["take_cursor"], consumer)
    return Cursor(consumer, row["tick"], row["pos"]) if row else None


async def lock_consumer(tx: Connection, consumer: str) -> None:
    """Until the transaction ends, no worker applies a batch of this consumer, and no rebuild replaces its generation."""
    await tx.execute(_SQL["lock_consumer"], consumer)


async def move_cursor(tx: Connection, cursor: Cursor, pos: int) -> None:
    await tx.execute(_SQL["move_cursor"], cursor.consumer, cursor.tick, pos)


async def backlog(connection: Executor, consumer: str) -> int:
    """Sequenced events that this consumer has not applied. Locks nothing.

    Raises LookupError for a consumer without a row in `consumers`, which no worker could lock.
    """
    count: int | None = await connection.fetchval(_SQL["backlog"], consumer)
    if count is None:
        raise LookupError(f"no migration has created the consumer {consumer!r}")
    return count


async def position(connection: Executor, consumer: str) -> int:
    """Up to where the consumer has applied the log."""
    pos: int = await connection.fetchval(_SQL["position"], consumer)
    return pos


async def read_after(connection: Executor, pos: int, limit: int, max_bytes: int = READ_BYTES) -> Batch:
    """The next events in order: at most `limit` events and `max_bytes` of data, but at least one event."""
    rows = await connection.fetch(_SQL["read_after"], pos, limit, max_bytes)
    return Batch(
        [LoggedEvent(*row[:-1]) for row in rows],
        more=bool(rows) and rows[-1]["pos"] < rows[-1]["last_pos"],
    )


async def entry_after(connection: Executor, pos: int) -> LogEntry | None:
    """The next event's row in the log. It works even if the event's own data is damaged."""
    row = await connection.fetchrow(_SQL["entry_after"], pos)
    return LogEntry(*row) if row else None


async def read_one(connection: Executor, pos: int) -> LoggedEvent | None:
    row = await connection.fetchrow(_SQL["read_one"], pos)
    return LoggedEvent(*row) if row else None


async def dead_letter(tx: Connection, consumer: str, event: LoggedEvent | LogEntry, error: str) -> None:
    await tx.execute(
        _SQL["dead_letter"],
        consumer,
        event.pos,
        event.tenant_id,
        event.id,
        event.created_at,
        error[:_LONGEST_ERROR],
    )


@dataclass(frozen=True, slots=True)
class DeadEvent:
    pos: int
    event_id: UUID
    tenant_id: UUID
    created_at: datetime
    error: str
    dead_at: datetime


async def dead_events(connection: Executor, consumer: str, after: int, limit: int) -> list[DeadEvent]:
    return [DeadEvent(*row) for row in await connection.fetch(_SQL["dead_events"], consumer, after, limit)]


async def remove_dead_event(tx: Connection, consumer: str, pos: int) -> bool:
    """Whether it was dead-lettered."""
    status = await tx.execute(_SQL["remove_dead_event"], consumer, pos)
    return bool(status == "DELETE 1")


@dataclass(frozen=True, slots=True)
class ConsumerStatus:
    consumer: str
    pos: int
    last_pos: int
    moved_at: datetime | None
    dead: int
    unsequenced: int
    """Committed events without a position. If it keeps growing, no worker runs."""
    lag_seconds: float | None
    """Age of the oldest event not yet applied. None: all are applied."""

    @property
    def lag(self) -> int:
        """Committed events not yet applied."""
        return self.last_pos - self.pos + self.unsequenced


async def consumer_status(connection: Executor, consumers: Sequence[str]) -> list[ConsumerStatus]:
    return [ConsumerStatus(*row) for row in await connection.fetch(_SQL["consumer_status"], consumers)]
