"""A consumer's cursor: one holder at a time, moved only with the effect, and fast after many batches."""

from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database
from schema.event_log import events, log
from schema.modes import Mode
from schema.queries import load
from tests.support.events import record_many, sequence_all, sequenced
from tests.support.plans import explain
from tests.support.servers.connections import SANDBOX, Connect

BATCHES = 3000


async def position(connection: asyncpg.Connection, consumer: str = "fanout") -> int | None:
    async with connection.transaction():
        cursor = await log.take_cursor(connection, consumer)
        return cursor.pos if cursor else None


async def move(connection: asyncpg.Connection, pos: int, consumer: str = "fanout") -> None:
    async with connection.transaction():
        cursor = await log.take_cursor(connection, consumer)
        assert cursor
        await log.move_cursor(connection, cursor, pos)


async def test_a_cursor_starts_before_the_first_event_and_keeps_its_moves(connect: Connect) -> None:
    connection = await connect()
    assert await position(connection) == 0
    for pos in (5, 12, 3):  # back as well: a rebuild starts at the beginning
        await move(connection, pos)
        assert await position(connection) == pos
    assert await connection.fetchval("SELECT count(*) FROM cursors") == 1


async def test_one_session_locks_the_cursor_and_the_others_do_not_wait(connect: Connect) -> None:
    holder, other = await connect(), await connect()
    async with holder.transaction():
        assert await log.take_cursor(holder, "fanout")
        assert await position(other) is None
        assert await position(other, "activity") == 0
    assert await position(other) == 0


async def test_the_next_holder_sees_the_last_move(connect: Connect) -> None:
    """The lock is a statement of its own, so the read's snapshot is younger than the last holder's commit."""
    holder, other = await connect(), await connect()
    async with other.transaction():
        async with holder.transaction():
            cursor = await log.take_cursor(holder, "fanout")
            assert cursor
            await log.move_cursor(holder, cursor, 7)
            assert await log.take_cursor(other, "fanout") is None
        cursor = await log.take_cursor(other, "fanout")
        assert cursor
        assert cursor.pos == 7


async def test_a_cursor_is_free_when_its_holders_session_ends(connect: Connect) -> None:
    holder, other = await connect(), await connect()
    await holder.execute("BEGIN")
    assert await log.take_cursor(holder, "fanout")
    await holder.close()
    assert await position(other) == 0


async def test_a_consumer_without_a_migration_has_no_cursor(connect: Connect) -> None:
    connection = await connect()
    assert await position(connection, "nobody") is None
    with pytest.raises(LookupError, match="nobody"):
        await log.backlog(connection, "nobody")


async def test_a_rolled_back_move_did_not_happen(connect: Connect) -> None:
    connection = await connect()
    await move(connection, 5)
    transaction = connection.transaction()
    await transaction.start()
    cursor = await log.take_cursor(connection, "fanout")
    assert cursor
    await log.move_cursor(connection, cursor, 9)
    await transaction.rollback()
    assert await position(connection) == 5


async def test_each_mode_has_its_own_cursors(connect: Connect) -> None:
    sandbox, live = await connect(Mode.TEST.role), await connect(Mode.LIVE.role)
    async with sandbox.transaction():
        await log.take_cursor(sandbox, "fanout")
        await move(live, 4)
    assert (await position(sandbox), await position(live)) == (0, 4)


async def test_backlog_counts_sequenced_events_that_are_not_applied(connect: Connect, tenant: UUID) -> None:
    connection = await connect()
    await record_many(connection, tenant, 3)
    assert await log.backlog(connection, "fanout") == 0
    await sequence_all(connection)
    assert await log.backlog(connection, "fanout") == 3
    await move(connection, 2)
    assert await log.backlog(connection, "fanout") == 1


@pytest.mark.parametrize(("max_bytes", "found"), [(1, 1), (20, 1), (21, 2), (41, 3), (1000, 5)])
async def test_a_read_is_bounded_by_bytes_but_returns_one_event(
    connect: Connect, tenant: UUID, max_bytes: int, found: int
) -> None:
    connection = await connect()
    for _ in range(5):
        await events.record(connection, tenant, "invoice_created", {"text": "x" * 8})  # 20 bytes each
    await sequence_all(connection)
    read = (await log.read_after(connection, 0, 100, max_bytes)).events
    assert [event.pos for event in read] == list(range(1, found + 1))
    assert {len(event.data) for event in read} == {20}


async def test_status_shows_lag_and_dead_lettered_events(connect: Connect, tenant: UUID) -> None:
    connection = await connect()
    logged = await sequenced(connection, tenant, 3)
    await move(connection, 2)
    await log.dead_letter(connection, "fanout", logged[0], "broken")
    activity, fanout = await log.consumer_status(connection, ["fanout", "activity"])

    assert (activity.consumer, activity.pos, activity.last_pos, activity.dead) == ("activity", 0, 3, 0)
    assert activity.moved_at is None
    assert (fanout.consumer, fanout.pos, fanout.last_pos, fanout.dead) == ("fanout", 2, 3, 1)
    assert fanout.lag_seconds is not None
    assert activity.lag_seconds is not None
    assert activity.lag_seconds > fanout.lag_seconds > 0
    await move(connection, 3)
    (done,) = await log.consumer_status(connection, ["fanout"])
    assert done.lag_seconds is None


async def test_dead_lettering_twice_keeps_one_entry(connect: Connect, tenant: UUID) -> None:
    connection = await connect()
    (event,) = await sequenced(connection, tenant, 1)
    for error in ("first", "second"):
        await log.dead_letter(connection, "fanout", event, error)
    (dead,) = await log.dead_events(connection, "fanout", 0, 10)
    assert (dead.pos, dead.event_id, dead.error) == (event.pos, event.id, "first")
    assert await log.remove_dead_event(connection, "fanout", event.pos)
    assert not await log.remove_dead_event(connection, "fanout", event.pos)


MANY_MOVES = """
DO $$ BEGIN
    FOR i IN 1..{count} LOOP
        WITH left_behind AS (DELETE FROM cursors WHERE consumer = 'fanout' AND tick = (SELECT max(tick) FROM cursors))
        INSERT INTO cursors (consumer, pos) VALUES ('fanout', i);
        COMMIT;
    END LOOP;
END $$
"""
MANY_BATCHES = """
DO $$ BEGIN
    FOR i IN 1..{count} LOOP
        PERFORM record_event('{tenant}'::uuid, 'webhook_test', '{{}}');
        COMMIT;
        PERFORM sequence_events();
        COMMIT;
    END LOOP;
END $$
"""


@pytest.mark.parametrize("churn", [MANY_MOVES, MANY_BATCHES], ids=["cursors", "sequencer"])
async def test_the_newest_tick_is_one_lookup_while_the_horizon_is_held(
    database: Database, connect: Connect, tenant: UUID, churn: str
) -> None:
    """Thousands of dead ticks cannot be pruned, and finding the live one reads no more pages."""
    statements = load("log")["take_cursor"], load("log")["backlog"]
    busy = await connect(SANDBOX)
    await busy.execute(churn.format(count=10, tenant=tenant))
    async with database.data(Mode.TEST).acquire() as reader, database.core.acquire() as old:
        before = [await explain(reader, statement, "fanout") for statement in statements]
        async with old.transaction(isolation="repeatable_read"):
            await old.execute("SELECT pg_current_xact_id()")
            await busy.execute(churn.format(count=BATCHES, tenant=tenant))
            after = [await explain(reader, statement, "fanout") for statement in statements]
    for few, many in zip(before, after, strict=True):
        assert many.buffers <= few.buffers + 4  # the index has grown a level or two
        assert many.rows_read <= few.rows_read
