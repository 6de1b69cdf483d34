"""Pages of a tenant's events after a position. A page is complete and in order, and its cost is bounded whatever the log's
size and the rarity of the wanted types. Users may store positions.

A position is final once the log has it: positions are dense and given in commits of their own, so the events up to a
snapshot's last position never change. A page reaches as far as it searched, even if it found nothing, and never beyond its
snapshot's end. A reader that continues there misses no event and gets none twice.

Events that retention has dropped are always reported: a page from a position before them says up to where events may be
missing.

An event with damaged stored bytes must not block the events after it. A read that fails because of it is repeated with half
the limits, until that position is alone. Then the event is skipped, named in `unreadable`, and logged.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from asyncpg import Record

from schema.connections.database import Executor
from schema.connections.error_kinds import describe, is_unreadable
from schema.errors import InvalidInput
from schema.event_log import log
from schema.event_log.log import LoggedEvent
from schema.queries import load

_logger = logging.getLogger(__name__)
_SQL = load("positions")
MAX_EVENTS: Final = 500
READ_BYTES: Final = 1024 * 1024
SCAN_LIMIT: Final = 2000
"""The tenant's positions searched per page, each a lookup of its event's type: about 10 ms. A rare type takes more pages."""


@dataclass(frozen=True, slots=True)
class LogEnd:
    pos: int
    dropped_up_to: int
    """The highest position whose event may have been dropped; 0 when none was."""


@dataclass(frozen=True, slots=True)
class EventRange:
    """All requested events at positions in (after, reached]."""

    events: Sequence[LoggedEvent]
    reached: int
    end: LogEnd
    unreadable: int | None = field(default=None, kw_only=True)
    """The position of an event that is skipped because its stored data cannot be read. It equals `reached`."""

    @property
    def at_end(self) -> bool:
        return self.reached >= self.end.pos


@dataclass(frozen=True, slots=True)
class EventsAfter(EventRange):
    dropped_up_to: int | None
    """Events up to this position may be missing from the page, because retention has dropped some. After it none is
    missing. None: the page is complete."""


async def log_end(connection: Executor) -> LogEnd:
    row = await connection.fetchrow(_SQL["log_end"])
    assert row is not None
    return LogEnd(*row)


async def events_after(
    connection: Executor,
    tenant_id: UUID,
    pos: int,
    types: Collection[str] = (),
    limit: int = MAX_EVENTS,
    max_bytes: int = READ_BYTES,
    scan_limit: int = SCAN_LIMIT,
) -> EventsAfter:
    """Reads up to `limit` events of these types, or of all types when none is named. At least one comes, whatever its
    size, unless `scan_limit` positions of the tenant had none.

    Raises InvalidInput for a position that the log has not reached, since it belongs to another log.
    """
    if not 1 <= limit <= MAX_EVENTS:
        raise InvalidInput(f"A limit of {limit} events is not possible: ask for 1 to {MAX_EVENTS}.")
    try:
        rows = await connection.fetch(
            _SQL["read_tenant"], tenant_id, pos, list(types), limit, max_bytes, scan_limit
        )
    except Exception as error:
        if not is_unreadable(error):
            raise
        if limit > 1 or scan_limit > 1:
            fewer = max(1, limit // 2), max_bytes, max(1, scan_limit // 2)
            return await events_after(connection, tenant_id, pos, types, *fewer)
        return await _without_next_of_tenant(connection, tenant_id, pos, error)
    end = LogEnd(rows[0]["last_pos"], rows[0]["dropped_up_to"])
    if not 0 <= pos <= end.pos:
        raise InvalidInput(
            f"This log reaches from position 0 to {end.pos}, and {pos} is not in it: "
            "see that the position is of the same mode and installation."
        )
    events = [
        LoggedEvent(row["pos"], row["id"], tenant_id, row["type"], row["created_at"], row["data"])
        for row in rows
        if row["pos"] is not None
    ]
    asked = scan_limit if types else limit
    return EventsAfter(
        events,
        _reached(rows[0], events, cut=rows[0]["found"] >= limit, more=rows[0]["looked_at"] >= asked),
        end,
        end.dropped_up_to if pos < end.dropped_up_to else None,
    )


async def events_of_tenants(
    connection: Executor,
    pos: int,
    tenants: Collection[UUID],
    scan_limit: int = SCAN_LIMIT,
    max_bytes: int = READ_BYTES,
) -> EventRange:
    """Does the same for several tenants and all types. It is meant for readers close to the log's end: it walks all
    tenants' positions one by one, and reports dropped events only in `end.dropped_up_to`."""
    try:
        rows = await connection.fetch(_SQL["read_tenants"], pos, list(tenants), scan_limit, max_bytes)
    except Exception as error:
        if not is_unreadable(error):
            raise
        if scan_limit > 1:
            return await events_of_tenants(connection, pos, tenants, scan_limit // 2, max_bytes)
        return await _without_next(connection, pos, error)
    end = LogEnd(rows[0]["last_pos"], rows[0]["dropped_up_to"])
    events = [
        LoggedEvent(row["pos"], row["id"], row["tenant_id"], row["type"], row["created_at"], row["data"])
        for row in rows
        if row["pos"] is not None
    ]
    return EventRange(events, _reached(rows[0], events, cut=False, more=True), end)


async def _without_next_of_tenant(
    connection: Executor, tenant_id: UUID, pos: int, error: Exception
) -> EventsAfter:
    """Raises `error` when the log has no next position: then no event caused it."""
    end = await log_end(connection)
    unreadable: int | None = await connection.fetchval(_SQL["next_of_tenant"], tenant_id, pos)
    if unreadable is None:
        raise error
    _report(unreadable, error)
    dropped_up_to = end.dropped_up_to if pos < end.dropped_up_to else None
    return EventsAfter([], unreadable, end, dropped_up_to, unreadable=unreadable)


async def _without_next(connection: Executor, pos: int, error: Exception) -> EventRange:
    end = await log_end(connection)
    entry = await log.entry_after(connection, pos)
    if entry is None:
        raise error
    _report(entry.pos, error)
    return EventRange([], entry.pos, end, unreadable=entry.pos)


def _report(pos: int, error: Exception) -> None:
    _logger.error("skipped the event at position %d, which cannot be read: %s", pos, describe(error))


def _reached(row: Record, events: Sequence[LoggedEvent], *, cut: bool, more: bool) -> int:
    """`cut`: there may be another event right after the last one. `more`: there may be positions after those searched."""
    last_pos: int = row["last_pos"]
    if cut or len(events) < row["found"]:
        return events[-1].pos
    if more and row["last_looked_at"] is not None:
        looked: int = row["last_looked_at"]
        return looked
    return last_pos
