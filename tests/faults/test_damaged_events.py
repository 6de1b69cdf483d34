"""An event whose stored bytes cannot be read does not stop consumers, listeners or other deliveries."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from consumers import consumer as loop
from consumers.activity.activity_consumer import Activity
from consumers.consumer import Consumer
from consumers.fanout import FanOut, NoSlots
from consumers.projection_handlers import ProjectionHandler
from consumers.rebuild import Rebuild
from consumers.rollups.rollups_consumer import Rollups
from consumers.tail import Tail
from schema.connections.database import Database
from schema.deliveries import deliveries
from schema.deliveries.deliveries import ClaimedDelivery
from schema.errors import Unavailable
from schema.event_log import events, log
from schema.event_log.positions import events_after, events_of_tenants
from schema.ids import EVENT, format_id
from schema.pages import After
from service.admin.dead_events import RetryOutcome, retry_dead_events
from tests.support.engine import Engine, add_endpoint, engine, running
from tests.support.events import record, sequence_all
from tests.support.servers.connections import Connect
from tests.support.servers.damaged_events import damage, record_damaged, repair, switch_to_sql_ascii
from tests.support.servers.receiver import Receiver, receiving

COUNT, BAD = 9, (1, 5, 9)
GOOD = [pos for pos in range(1, COUNT + 1) if pos not in BAD]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def ours(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    monkeypatch.setattr(loop, "TRIES_PER_BATCH", 1)
    async with engine(database) as ours:
        yield ours


@pytest.fixture
async def ascii_session(connect: Connect, database: Database) -> asyncpg.Connection:
    return await switch_to_sql_ascii(connect, database)


@pytest.fixture
async def bad(ours: Engine, ascii_session: asyncpg.Connection, tenant: UUID) -> dict[int, UUID]:
    """Damaged events at the positions of BAD: first, last and between readable ones."""
    found = {}
    for pos in range(1, COUNT + 1):
        if pos in BAD:
            found[pos] = await record_damaged(ascii_session, tenant)
        else:
            await record(ours.pool, tenant, n=pos)
    await sequence_all(ours.pool)
    return found


async def dead(ours: Engine, consumer: str) -> list[int]:
    return [entry.pos for entry in await log.dead_events(ours.pool, consumer, 0, 100)]


async def test_consumers_dead_letter_it_and_apply_it_after_repair(
    database: Database, ours: Engine, ascii_session: asyncpg.Connection, tenant: UUID, bad: dict[int, UUID]
) -> None:
    await add_endpoint(database, tenant, "https://example.com/")
    for handler in (
        FanOut(NoSlots(), lambda: 0),
        ProjectionHandler(Activity()),
        ProjectionHandler(Rollups()),
    ):
        consumer = Consumer(ours.pool, handler)
        async with asyncio.timeout(20):
            while await consumer.step():
                pass
        assert await dead(ours, handler.name) == list(BAD)
        assert consumer.applied == len(GOOD)
        (status,) = await log.consumer_status(ours.pool, [handler.name])
        assert (status.pos, status.lag, status.dead) == (COUNT, 0, len(BAD))

        retried = [result async for result in retry_dead_events(ours.pool, handler.name)]
        assert [result.result for result in retried] == [RetryOutcome.FAILED] * len(BAD)
        assert "cannot be read" in str(retried[0].error)
        assert "correct its row in its partition" in str(retried[0].error)
    for event in bad.values():
        await repair(ascii_session, event)
    for consumer_name in ("fanout", "activity", "rollups"):
        retried = [result async for result in retry_dead_events(ours.pool, consumer_name)]
        assert [result.result for result in retried] == [RetryOutcome.APPLIED] * len(BAD)
    assert len(await ours.rows()) == COUNT


async def test_a_rebuild_dead_letters_it(ours: Engine, bad: dict[int, UUID]) -> None:
    async with asyncio.timeout(30):
        progress = [each async for each in Rebuild(ours.pool, Activity(), share=1).run(asyncio.Event())]
    assert progress[-1].finished
    assert (progress[-1].dead, await dead(ours, "activity")) == (len(BAD), list(BAD))


@pytest.mark.parametrize("types", [(), ("invoice_created",)])
async def test_a_tenant_s_events_continue_after_it(
    ours: Engine, tenant: UUID, bad: dict[int, UUID], types: tuple[str, ...]
) -> None:
    pos, found, left_out = 0, [], []
    for _ in range(3 * COUNT):
        page = await events_after(ours.pool, tenant, pos, types)
        found += [event.pos for event in page.events]
        left_out += [page.unreadable] if page.unreadable else []
        assert page.reached > pos
        pos = page.reached
        if page.at_end:
            break
    assert (found, left_out, pos) == (GOOD, list(BAD), COUNT)


async def test_log_readers_continue_after_it(ours: Engine, tenant: UUID, bad: dict[int, UUID]) -> None:
    pos, found, left_out = 0, [], []
    while pos < COUNT:
        stretch = await events_of_tenants(ours.pool, pos, [tenant])
        found += [event.pos for event in stretch.events]
        left_out += [stretch.unreadable] if stretch.unreadable else []
        assert stretch.reached > pos
        pos = stretch.reached
    assert (found, left_out) == (GOOD, list(BAD))


async def test_listeners_receive_the_events_around_it(
    ours: Engine, ascii_session: asyncpg.Connection, tenant: UUID, bad: dict[int, UUID]
) -> None:
    tail = Tail(ours.pool)
    heard: list[int] = []
    async with running(tail), asyncio.timeout(20), tail.listen(tenant, after=0) as hearing:
        async for event in hearing:
            heard.append(getattr(event, "pos", -1))
            if len(heard) == len(GOOD):
                await record_damaged(ascii_session, tenant)
                await record(ours.pool, tenant)
                await sequence_all(ours.pool)
            if len(heard) > len(GOOD):
                break
    assert heard == [*GOOD, COUNT + 2]


async def test_a_delivery_of_a_damaged_event_blocks_no_other(
    database: Database,
    ours: Engine,
    ascii_session: asyncpg.Connection,
    tenant: UUID,
    receiver: Receiver,
) -> None:
    """Its attempt fails with the reason. A scheduled retry sends it after the repair."""
    url = receiver.url
    for _ in range(2):
        await add_endpoint(database, tenant, url)
    recorded = [await record(ours.pool, tenant, n=n) for n in range(6)]
    await ours.leave_pending()
    await damage(ascii_session, recorded[2])
    async with running(*ours.everything()):
        await ours.settled.count(12)
    rows = await ours.rows()
    assert sorted({row["pos"] for row in rows if row["status"] == "delivered"}) == [1, 2, 4, 5, 6]
    waiting = [row for row in rows if row["status"] != "delivered"]
    assert [(row["pos"], row["status"], row["attempts"]) for row in waiting] == [(3, "pending", 1)] * 2
    errors = {attempt["error"] for attempt in await ours.attempts() if attempt["outcome"] != "ok"}
    assert errors == {"the event's stored data cannot be read"}
    await repair(ascii_session, recorded[2])
    await ascii_session.execute("UPDATE webhook_deliveries SET due_at = now() WHERE status = 'pending'")
    async with running(*ours.everything()):
        await ours.settled.count(14)
    assert {row["status"] for row in await ours.rows()} == {"delivered"}


async def test_a_damaged_delivery_elsewhere_leaves_healthy_ones_intact(
    database: Database,
    ours: Engine,
    ascii_session: asyncpg.Connection,
    tenant: UUID,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two workers claim the same damaged delivery: the second one claims the next delivery, alone and without data."""
    await add_endpoint(database, tenant, receiver.url)
    bad, good = [await record(ours.pool, tenant, n=n) for n in range(2)]
    await ours.leave_pending()
    await damage(ascii_session, bad)
    claim, other = deliveries.claim, ascii_session.transaction()

    async def claim_second(*arguments: Any, with_data: bool = True) -> list[ClaimedDelivery]:
        if not with_data and not receiver.requests:
            await other.start()
            await ascii_session.execute("SELECT FROM webhook_deliveries WHERE event_id = $1 FOR UPDATE", bad)
        return await claim(*arguments, with_data=with_data)

    monkeypatch.setattr(deliveries, "claim", claim_second)
    async with running(*ours.everything()):
        await ours.settled.count(1)
        await other.rollback()
        await ours.settled.count(2)
    assert receiver.event_ids() == {format_id(EVENT, good): 1}
    assert [(row["event_id"], row["status"], row["attempts"]) for row in await ours.rows()] == [
        (bad, "pending", 1),
        (good, "delivered", 1),
    ]


async def test_showing_it_says_what_to_do(ours: Engine, tenant: UUID, bad: dict[int, UUID]) -> None:
    with pytest.raises(Unavailable, match=r"Event evt_.* correct its row in its partition"):
        await events.show(ours.pool, tenant, bad[5])
    with pytest.raises(Unavailable, match="An event of this page cannot be read"):
        await events.list_events(ours.pool, tenant, None, After(), 100)
