"""Large batches of fan-out: COPY if all deliveries are new, INSERT if some may exist, and no more than there are free slots."""

from typing import Any
from uuid import UUID

import asyncpg
import pytest

from consumers.fanout import FANOUT, NoSlots
from schema.connections.database import Database, Pool
from schema.deliveries import deliveries
from schema.event_log import log
from schema.modes import Mode
from tests.support.deliveries import new_endpoint, plan
from tests.support.delivery_slots import WORKER, CountedSlots, fan_out, pairs, rows
from tests.support.events import record, sequence_all


@pytest.fixture
def data(database: Database) -> Pool:
    return database.data(Mode.TEST)


# Large batches: COPY, unless deliveries exist already

MANY = deliveries.WORTH_A_COPY


async def many(database: Database, data: Pool, tenant: UUID) -> list[UUID]:
    """Sequences two events for that many endpoints, one of them disabled. Returns the endpoints."""
    targets = [await new_endpoint(database, tenant) for _ in range(MANY // 2)]
    targets.append(await new_endpoint(database, tenant, enabled=False))
    for n in range(2):
        await record(data, tenant, n=n)
    await sequence_all(data)
    return targets


async def set_back(data: Pool, pos: int = 0) -> None:
    async with data.acquire() as tx, tx.transaction():
        cursor = await log.take_cursor(tx, FANOUT)
        assert cursor
        await log.move_cursor(tx, cursor, pos)


async def test_copy_and_insert_create_equal_rows(
    database: Database, data: Pool, owner: asyncpg.Connection, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = await many(database, data, tenant)
    made = []
    for few in (MANY, 10_000):
        monkeypatch.setattr(deliveries, "WORTH_A_COPY", few)
        slots = CountedSlots(per_endpoint=1)
        assert await fan_out(data, slots).step() == 2
        assert len(slots.submitted) == len(targets) - 1
        made.append([comparable(row) for row in await by_pair(data)])
        await owner.execute("DELETE FROM sandbox.webhook_deliveries")
        await set_back(data)
    assert len(made[0]) == 2 * len(targets)
    assert made[0] == made[1]


async def by_pair(data: Pool) -> list[asyncpg.Record]:
    return await data.fetch(
        "SELECT *, leased_until - due_at AS lease_for FROM webhook_deliveries ORDER BY event_id, endpoint_id"
    )


def comparable(row: asyncpg.Record) -> dict[str, object]:
    """Replaces ids and times by whether they are set."""
    generated = {"id", "due_at", "retry_at", "settled_at", "lease", "leased_until", "created_at"}
    return {**{name: value if name not in generated else value is None for name, value in row.items()}}


async def test_copied_deliveries_are_due_at_the_database_s_time(
    database: Database, data: Pool, tenant: UUID
) -> None:
    await many(database, data, tenant)
    await fan_out(data, NoSlots()).step()
    late = await data.fetchval(
        "SELECT count(*) FROM webhook_deliveries"
        " WHERE coalesce(due_at, settled_at) NOT BETWEEN now() - interval '1 minute' AND now()"
    )
    assert late == 0


async def test_a_large_batch_after_a_cursor_reset_has_no_duplicates(
    database: Database, data: Pool, tenant: UUID
) -> None:
    """COPY fails because some exist; the next try skips these and releases their slots."""
    targets = await many(database, data, tenant)
    await fan_out(data, CountedSlots(per_endpoint=9)).step()
    before = await rows(data)
    late = [await record(data, tenant, n=n) for n in range(2)]
    await sequence_all(data)
    await set_back(data)
    slots = CountedSlots(per_endpoint=9)
    consumer = fan_out(data, slots)
    assert await consumer.step() == 4
    assert len(await pairs(data)) == 4 * len(targets)
    assert [row for row in await rows(data) if row["event_id"] not in late] == before
    assert {claim.event_id for claim in slots.submitted} == set(late)
    assert +slots.taken == {(tenant, target): 2 for target in targets[:-1]}
    assert slots.characters == sum(len(claim.data) for claim in slots.submitted)
    assert await log.dead_events(data, FANOUT, 0, 10) == []


async def test_copy_is_used_again_after_existing_deliveries_are_passed(
    database: Database, data: Pool, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = 0
    copy = deliveries.copy_new_deliveries

    async def counted(*args: Any) -> set[UUID]:
        nonlocal copied
        new = await copy(*args)
        copied += 1
        return new

    monkeypatch.setattr(deliveries, "copy_new_deliveries", counted)
    targets = await many(database, data, tenant)
    consumer = fan_out(data, CountedSlots(per_endpoint=9))
    await consumer.step()
    await set_back(data, 1)
    await many(database, data, tenant)
    await consumer.step()
    assert copied == 1, "then one COPY failed"
    for n in range(2):
        await record(data, tenant, n=n)
        await sequence_all(data)
        await record(data, tenant, n=n)
        await sequence_all(data)
        assert await consumer.step() == 2
    assert copied == 2, "one more batch used INSERT, because all of it was new"
    # The first event went to the first endpoints, the repeated and later ones to all.
    assert len(await pairs(data)) == len(targets) + 7 * 2 * len(targets)


async def test_a_dead_lettered_event_is_applied_after_a_backfill(
    database: Database, data: Pool, tenant: UUID
) -> None:
    """For any number of endpoints: it is applied alone, and once."""
    targets = [await new_endpoint(database, tenant) for _ in range(MANY)]
    await record(data, tenant)
    await sequence_all(data)
    event = await log.read_one(data, 1)
    assert event
    async with data.acquire() as tx, tx.transaction():
        await log.dead_letter(tx, FANOUT, event, "not today")
        await deliveries.fan_out(tx, [plan(event, targets[0])], 1, WORKER)
    assert await fan_out(data, NoSlots()).retry_dead_event(event)
    assert len(await pairs(data)) == MANY


# Back-pressure


async def test_a_batch_is_no_larger_than_the_free_slots(database: Database, data: Pool, tenant: UUID) -> None:
    for _ in range(2):
        await new_endpoint(database, tenant)
    for _ in range(9):
        await record(data, tenant)
    await sequence_all(data)
    slots = CountedSlots(per_endpoint=100)
    consumer = fan_out(data, slots)
    moved = []
    for slots.unused in (1, 3, 6, 100):
        moved.append(await consumer.step())
    assert moved == [1, 2, 3, 3], "whole events, each for two endpoints"


async def test_without_free_slots_batches_are_full(database: Database, data: Pool, tenant: UUID) -> None:
    await new_endpoint(database, tenant)
    for _ in range(9):
        await record(data, tenant)
    await sequence_all(data)
    slots = CountedSlots(per_endpoint=0, unused=0)
    assert await fan_out(data, slots).step() == 9
    assert slots.submitted == []
    assert slots.others_wait == [True]
