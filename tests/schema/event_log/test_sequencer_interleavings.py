"""Four ways to lose events and one to stall, each shown on the reader that has the fault, and on ours.

Identity values and transaction ids are handed out before commit, so neither order is the order in which rows become
visible. Every test drives one interleaving of transactions through a naive reader and through sequence_events().
"""

from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest

from schema.event_log import log
from tests.support.events import record
from tests.support.servers.connections import Connect
from tests.support.servers.databases import Cluster


async def _nothing() -> None: ...


class IdCursor:
    """Bug 1: `id > cursor`."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._cursor = 0
        self.received: list[UUID] = []

    async def poll(self) -> None:
        for row in await self._connection.fetch(
            "SELECT seq, id FROM events WHERE seq > $1 ORDER BY seq", self._cursor
        ):
            self._take(row)

    def _take(self, row: asyncpg.Record) -> None:
        self._cursor = row["seq"]
        self.received.append(row["id"])


class GatedIdCursor(IdCursor):
    """Bug 2: the same behind an xmin gate, which lets only xids below every running one through."""

    async def poll(self) -> None:
        for row in await self._connection.fetch(
            "SELECT seq, id FROM events"
            " WHERE seq > $1 AND xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY seq",
            self._cursor,
        ):
            self._take(row)


class TwoStatements:
    """Bug 3: rows in one statement, and the watermark to continue from in another."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._watermark = "3"
        self.received: list[UUID] = []

    async def poll(self, meanwhile: Callable[[], Awaitable[None]] = _nothing) -> None:
        rows = await self._connection.fetch(
            "SELECT id FROM events"
            " WHERE xid >= $1::text::xid8 AND xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid, seq",
            self._watermark,
        )
        await meanwhile()
        self._watermark = await self._connection.fetchval(
            "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
        )
        self.received += [row["id"] for row in rows]


class GapSkipper(IdCursor):
    """Bug 4: waits at a gap in the ids, and after some time treats it as a rolled-back row."""

    patience = 10.0

    def __init__(self, connection: asyncpg.Connection) -> None:
        super().__init__(connection)
        self._gap_since: float | None = None

    async def poll_at(self, now: float) -> None:
        for row in await self._connection.fetch(
            "SELECT seq, id FROM events WHERE seq > $1 ORDER BY seq", self._cursor
        ):
            if row["seq"] > self._cursor + 1 and not self._has_waited(now):
                return
            self._gap_since = None
            self._take(row)

    def _has_waited(self, now: float) -> bool:
        self._gap_since = self._gap_since if self._gap_since is not None else now
        return now - self._gap_since >= self.patience


class XminGate:
    """The stall: a cursor of (xid, seq) behind an xmin gate loses no event, but waits for every open writer."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._cursor: tuple[str, int] = ("0", 0)
        self.received: list[UUID] = []

    async def poll(self) -> None:
        for row in await self._connection.fetch(
            "SELECT xid::text AS xid, seq, id FROM events WHERE (xid, seq) > ($1::text::xid8, $2)"
            " AND xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid, seq",
            *self._cursor,
        ):
            self._cursor = (row["xid"], row["seq"])
            self.received.append(row["id"])


class Log:
    """Ours: positions by sequence_events(), read by position."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._cursor = 0
        self.received: list[UUID] = []

    async def poll(self, meanwhile: Callable[[], Awaitable[None]] = _nothing) -> None:
        await log.sequence(self._connection, 1000)
        await meanwhile()
        for event in (await log.read_after(self._connection, self._cursor, 1000)).events:
            self._cursor = event.pos
            self.received.append(event.id)


@pytest.fixture
async def producer(connect: Connect) -> asyncpg.Connection:
    return await connect()


@pytest.fixture
async def other_producer(connect: Connect) -> asyncpg.Connection:
    return await connect()


@pytest.fixture
async def reader(connect: Connect) -> asyncpg.Connection:
    return await connect()


@pytest.fixture
def ours(reader: asyncpg.Connection) -> Log:
    return Log(reader)


async def test_an_id_cursor_loses_a_late_commit_and_the_log_does_not(
    producer: asyncpg.Connection,
    other_producer: asyncpg.Connection,
    reader: asyncpg.Connection,
    ours: Log,
    tenant: UUID,
) -> None:
    naive = IdCursor(reader)
    async with producer.transaction():
        late = await record(producer, tenant)
        early = await record(other_producer, tenant)
        await naive.poll()
        await ours.poll()
    await naive.poll()
    await ours.poll()

    assert naive.received == [early]
    assert ours.received == [early, late]


async def test_an_xmin_gate_does_not_save_an_id_cursor(
    producer: asyncpg.Connection,
    other_producer: asyncpg.Connection,
    reader: asyncpg.Connection,
    ours: Log,
    tenant: UUID,
) -> None:
    """The older transaction gets the greater id, passes the gate, and moves the cursor past the smaller one."""
    naive = GatedIdCursor(reader)
    older, younger = producer.transaction(), other_producer.transaction()
    await older.start()
    await producer.execute("SELECT pg_current_xact_id()")
    await younger.start()
    small_id = await record(other_producer, tenant)
    great_id = await record(producer, tenant)
    await older.commit()
    await naive.poll()
    await ours.poll()
    await younger.commit()
    await naive.poll()
    await ours.poll()

    assert naive.received == [great_id]
    assert ours.received == [great_id, small_id]


async def test_a_separate_watermark_query_loses_a_commit_and_the_log_does_not(
    producer: asyncpg.Connection, reader: asyncpg.Connection, ours: Log, tenant: UUID
) -> None:
    naive = TwoStatements(reader)
    sent: list[UUID] = []

    async def commit_one() -> None:
        sent.append(await record(producer, tenant))

    await naive.poll(meanwhile=commit_one)
    await ours.poll(meanwhile=commit_one)
    await naive.poll()
    await ours.poll()

    assert naive.received == [sent[1]]
    assert ours.received == sent


async def test_skipping_a_gap_by_timeout_loses_a_slow_writer(
    producer: asyncpg.Connection,
    other_producer: asyncpg.Connection,
    reader: asyncpg.Connection,
    ours: Log,
    tenant: UUID,
) -> None:
    naive = GapSkipper(reader)
    async with producer.transaction():
        slow = await record(producer, tenant)
        quick = await record(other_producer, tenant)
        await naive.poll_at(now=0.0)
        await ours.poll()
        assert naive.received == []
        await naive.poll_at(now=GapSkipper.patience)
        await ours.poll()
    await naive.poll_at(now=GapSkipper.patience + 1)
    await ours.poll()

    assert naive.received == [quick]
    assert ours.received == [quick, slow]


async def test_a_writer_in_another_database_stalls_only_the_xmin_gate(
    cluster: Cluster,
    template: str,
    producer: asyncpg.Connection,
    reader: asyncpg.Connection,
    ours: Log,
    tenant: UUID,
) -> None:
    naive = XminGate(reader)
    async with cluster.empty_database() as elsewhere:
        stranger = await asyncpg.connect(cluster.url(elsewhere))
        async with stranger.transaction():
            await stranger.execute("CREATE TABLE slow_report ()")
            event = await record(producer, tenant)
            await naive.poll()
            await ours.poll()
            assert naive.received == []
            assert ours.received == [event]
        await naive.poll()
        await stranger.close()
    assert naive.received == [event]


async def test_a_writer_in_this_database_stalls_only_the_xmin_gate(
    producer: asyncpg.Connection,
    other_producer: asyncpg.Connection,
    reader: asyncpg.Connection,
    ours: Log,
    tenant: UUID,
) -> None:
    naive = XminGate(reader)
    async with producer.transaction():
        held = await record(producer, tenant)
        passing = [await record(other_producer, tenant) for _ in range(3)]
        await naive.poll()
        await ours.poll()
        assert naive.received == []
        assert ours.received == passing
    await naive.poll()
    await ours.poll()
    assert naive.received == [held, *passing]
    assert ours.received == [*passing, held]
