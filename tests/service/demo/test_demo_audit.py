"""The database audit finds events without a position, gaps, and rolled-back events."""

from uuid import UUID

import asyncpg

from schema.connections.database import Database
from schema.core import audit_log
from schema.ids import new_id
from schema.modes import Mode
from tests.support.events import record, record_many, sequence_all


async def test_an_event_that_was_not_sequenced_has_no_position(database: Database, tenant: UUID) -> None:
    pool = database.data(Mode.TEST)
    known = await record_many(pool, tenant, 3)
    assert set(await audit_log.without_position(pool, known)) == set(known)
    await sequence_all(pool)
    assert await audit_log.without_position(pool, known) == []
    late = await record(pool, tenant)
    assert await audit_log.without_position(pool, [*known, late]) == [late]


async def test_a_gap_in_the_log_is_found(database: Database, tenant: UUID, owner: asyncpg.Connection) -> None:
    pool = database.data(Mode.TEST)
    await record_many(pool, tenant, 5)
    await sequence_all(pool)
    end = await audit_log.last_position(pool)
    assert end == 5
    assert [await audit_log.positions_missing(pool, after) for after in (0, 2, 5)] == [0, 0, 0]
    await owner.execute(
        "INSERT INTO sequencer (done, last_pos, restore_floor, system_identifier)"
        " SELECT done, last_pos + 2, restore_floor, system_identifier FROM sequencer ORDER BY tick DESC LIMIT 1"
    )
    assert [await audit_log.positions_missing(pool, after) for after in (0, 2, 5)] == [2, 2, 2]


async def test_only_committed_events_are_recorded(database: Database, tenant: UUID) -> None:
    pool = database.data(Mode.TEST)
    committed = await record(pool, tenant)
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        undone = await record(connection, tenant)
        await transaction.rollback()
    assert await audit_log.recorded(pool, [committed, undone, new_id()]) == [committed]
    assert await audit_log.recorded(database.data(Mode.LIVE), [committed]) == []
