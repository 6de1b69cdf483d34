"""`as_of` never claims too much: whatever order transactions take xids, record and commit in, no committed event or
attempt before it is missing. While little is missing it is exact."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schema.deliveries import delivery_hours
from schema.event_log import log
from schema.ids import new_id
from schema.read_models.projections import as_of
from tests.support.attempts import record_attempts
from tests.support.servers.connections import Connect

CLIENTS = 3
CONSUMER = "rollups"
ACTIONS = (
    *(
        "begin",
        "begin",
        "draw_xid",
        "record",
        "record",
        "attempt",
        "attempt",
        "commit",
        "commit",
        "roll_back",
    ),
    *("sequence", "apply", "fold"),
)


class Step(NamedTuple):
    client: int
    action: str
    number: int
    """Minutes ago for what is recorded, and a limit for what is taken."""


SCHEDULES = st.lists(
    st.builds(Step, st.integers(0, CLIENTS - 1), st.sampled_from(ACTIONS), st.integers(1, 50)), max_size=40
)


@dataclass
class World:
    """The committed rows by the time that `as_of` refers to, and those of them that are applied."""

    clients: Sequence[asyncpg.Connection]
    reader: asyncpg.Connection
    tenant: UUID
    start: datetime
    events: dict[UUID, datetime] = field(default_factory=dict)
    applied: set[UUID] = field(default_factory=set)
    attempts: list[datetime] = field(default_factory=list)
    """Committed and not folded, in an order that does not matter."""
    open: dict[int, tuple[dict[UUID, datetime], list[datetime]]] = field(default_factory=dict)

    async def take(self, step: Step) -> None:
        connection = self.clients[step.client]
        match step.action:
            case "begin" if step.client not in self.open:
                await connection.execute("BEGIN")
                self.open[step.client] = ({}, [])
            case "draw_xid":
                await connection.execute("SELECT pg_current_xact_id()")
            case "record" | "attempt":
                await self._record(step, connection)
            case "commit" | "roll_back" if step.client in self.open:
                events, attempts = self.open.pop(step.client)
                await connection.execute("COMMIT" if step.action == "commit" else "ROLLBACK")
                if step.action == "commit":
                    self.events |= events
                    self.attempts += attempts
            case "sequence":
                await log.sequence(self.reader, step.number % 4 + 1)
            case "apply":
                await self.apply(step.number % 4 + 1)
            case "fold":
                await self.fold()

    async def _record(self, step: Step, connection: asyncpg.Connection) -> None:
        at = self.start - timedelta(minutes=step.number)
        events, attempts = self.open.get(step.client, (self.events, self.attempts))
        if step.action == "attempt":
            await record_attempts(connection, [(self.tenant, new_id())], 1, at=at, ms=1000)
            attempts.append(at + timedelta(seconds=1))
        else:
            id_ = await connection.fetchval(
                "SELECT record_event($1::uuid, 'invoice_created', '{}'::jsonb, $2)", self.tenant, at
            )
            events[id_] = at

    async def apply(self, limit: int) -> int:
        async with self.reader.transaction():
            cursor = await log.take_cursor(self.reader, CONSUMER)
            assert cursor is not None
            found = (await log.read_after(self.reader, cursor.pos, limit)).events
            if found:
                await log.move_cursor(self.reader, cursor, found[-1].pos)
        self.applied |= {event.id for event in found}
        return len(found)

    async def fold(self) -> None:
        """All of it, because which attempts a limit leaves out cannot be seen from here."""
        assert await delivery_hours.fold(self.reader, 1000) == len(self.attempts)
        self.attempts.clear()

    async def check(self) -> None:
        missing = [at for id_, at in self.events.items() if id_ not in self.applied]
        claimed = await as_of(self.reader, CONSUMER)
        assert claimed == min(missing) if missing else claimed >= self.start
        claimed = await self.reader.fetchval("SELECT attempts_as_of()")
        assert claimed == min(self.attempts) if self.attempts else claimed >= self.start


@asynccontextmanager
async def world(
    clients: Sequence[asyncpg.Connection], reader: asyncpg.Connection, tenant: UUID
) -> AsyncIterator[World]:
    """Examples share a database: each ends with nothing missing and no transaction open."""
    it = World(clients, reader, tenant, await reader.fetchval("SELECT clock_timestamp()"))
    try:
        yield it
    finally:
        for client in clients:
            if client.is_in_transaction():
                await client.execute("ROLLBACK")
        while await log.sequence(reader, 1000):
            pass
        while await it.apply(1000):
            pass
        while await delivery_hours.fold(reader, 1000):
            pass


@pytest.fixture
async def clients(connect: Connect, owner: asyncpg.Connection) -> list[asyncpg.Connection]:
    await owner.execute("SELECT sandbox.ensure_past_partitions(now() - interval '2 hours')")
    return [await connect() for _ in range(CLIENTS)]


@pytest.fixture
async def reader(connect: Connect) -> asyncpg.Connection:
    return await connect()


@given(SCHEDULES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_as_of_never_covers_a_missing_event(
    clients: list[asyncpg.Connection], reader: asyncpg.Connection, tenant: UUID, schedule: list[Step]
) -> None:
    async with world(clients, reader, tenant) as it:
        for step in schedule:
            await it.take(step)
            await it.check()


async def test_an_early_xid_that_records_late_hides_no_earlier_event(
    clients: list[asyncpg.Connection], reader: asyncpg.Connection, tenant: UUID
) -> None:
    """Without a position, with one, and one of each."""
    early, late = 0, 1
    steps = [
        *(Step(early, "begin", 0), Step(early, "draw_xid", 0), Step(late, "record", 30)),
        *(Step(early, "record", 10), Step(early, "commit", 0)),
        *(Step(0, "sequence", 3), Step(late, "record", 40), Step(0, "apply", 0), Step(0, "apply", 0)),
    ]
    async with world(clients, reader, tenant) as it:
        for step in steps:
            await it.take(step)
            await it.check()


@pytest.fixture
async def few(superuser: asyncpg.Connection) -> None:
    """Two events or attempts are as many as a million are."""
    for name in ("as_of(text)", "attempts_as_of()"):
        source = await superuser.fetchval(f"SELECT pg_get_functiondef('sandbox.{name}'::regprocedure)")
        assert source.count("1000000") == 1
        await superuser.execute(source.replace("1000000", "2"))


async def test_as_of_never_passes_the_rows_it_reads(
    few: None,
    clients: list[asyncpg.Connection],
    reader: asyncpg.Connection,
    superuser: asyncpg.Connection,
    tenant: UUID,
) -> None:
    """The first month that lacks one, at its beginning; without positions the first month of all."""
    first_month = await superuser.fetchval("SELECT sandbox.first_month()")
    async with world(clients, reader, tenant) as it:
        await it.take(Step(0, "record", 5))
        await it.take(Step(0, "attempt", 5))
        await it.check()
        await it.take(Step(0, "record", 50))
        await it.take(Step(0, "attempt", 50))
        assert await as_of(reader, CONSUMER) == first_month
        assert await reader.fetchval("SELECT attempts_as_of()") == first_month - timedelta(days=1)
        await log.sequence(reader, 100)
        await it.fold()
        await it.check()
        for minutes in (30, 40):
            await it.take(Step(0, "record", minutes))
            await log.sequence(reader, 100)
        earliest = min(it.events.values()).astimezone(UTC)
        beginning = earliest.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        assert await as_of(reader, CONSUMER) == beginning
        await it.apply(2)
        await it.check()


async def test_after_a_restore_as_of_waits_for_sequencing_and_counting(
    clients: list[asyncpg.Connection], reader: asyncpg.Connection, superuser: asyncpg.Connection, tenant: UUID
) -> None:
    """A restore into another cluster and one from a cluster whose xids are ahead."""
    first_month = await superuser.fetchval("SELECT sandbox.first_month()")
    ahead = "done = '9000000000:9000000000:'"
    for change in ("system_identifier = system_identifier + 1", ahead):
        async with world(clients, reader, tenant) as it:
            await it.take(Step(0, "record", 30))
            await it.take(Step(0, "attempt", 30))
            await superuser.execute(f"UPDATE sandbox.sequencer SET {change}")
            await superuser.execute(f"UPDATE sandbox.attempt_folds SET {ahead}")
            assert await as_of(reader, CONSUMER) == first_month
            assert await reader.fetchval("SELECT attempts_as_of()") == first_month - timedelta(days=1)
            await log.sequence(reader, 100)
            await delivery_hours.fold(reader, 100)
            it.attempts.clear()
            await it.check()
            await it.apply(100)
            await it.check()
