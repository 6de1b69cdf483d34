"""The consumer of the activity feed: one entry per event, whatever the event's data."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import orjson
import pytest

from consumers import consumer
from consumers.activity import activity_consumer
from consumers.activity.activity_consumer import Activity
from consumers.consumer import Consumer
from consumers.fanout import FANOUT, FanOut, NoSlots
from consumers.projection_handlers import ProjectionHandler
from schema.connections.database import Database, Pool
from schema.event_catalog import catalog
from schema.event_log import events, log
from schema.event_log.log import LoggedEvent
from schema.event_log.partitions import ensure_past_partitions
from schema.modes import Mode
from schema.read_models.activity_feed import ACTIVITY
from schema.read_models.projections import finish_rebuild
from tests.support.database_waits import until
from tests.support.engine import add_endpoint, running
from tests.support.events import in_log, record_many, sequence_all, sequenced


@pytest.fixture
def data(database: Database) -> Pool:
    return database.data(Mode.TEST)


@pytest.fixture
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead-letters a failing event without further tries."""
    monkeypatch.setattr(consumer, "TRIES_PER_BATCH", 1)


def of(data: Pool) -> Consumer:
    return Consumer(data, ProjectionHandler(Activity()))


async def step_to_the_end(*consumers: Consumer) -> None:
    for each in consumers:
        while await each.step():
            pass


async def applied_events(data: Pool, generation: int = 1) -> list[UUID]:
    rows = await data.fetch("SELECT id FROM activity WHERE generation = $1 ORDER BY pos", generation)
    return [row["id"] for row in rows]


async def test_every_event_gets_an_entry_with_its_data(data: Pool, tenant: UUID) -> None:
    for name, found in catalog().items():
        await events.record(data, tenant, name, found.example)
    await sequence_all(data)
    await step_to_the_end(of(data))
    assert await applied_events(data) == await in_log(data)
    rows = await data.fetch(
        "SELECT a.*, e.data::text AS data, l.pos AS logged"
        "  FROM activity a JOIN events e USING (id, tenant_id, type, created_at) JOIN event_log l ON l.event_id = a.id"
    )
    assert {row["type"] for row in rows} == set(catalog())
    for row in rows:
        assert row["pos"] == row["logged"]
        assert row["amount"] == orjson.loads(row["data"]).get("amount")
        assert row["summary"]


async def test_a_cursor_set_back_writes_no_second_entry(data: Pool, tenant: UUID) -> None:
    """An existing entry is kept."""
    await sequenced(data, tenant, 5)
    await step_to_the_end(of(data))
    before = await data.fetch("SELECT * FROM activity ORDER BY pos")
    async with data.acquire() as tx, tx.transaction():
        cursor = await log.take_cursor(tx, ACTIVITY)
        assert cursor
        await log.move_cursor(tx, cursor, 2)
    await sequenced(data, tenant, 1)
    await step_to_the_end(of(data))
    assert (await data.fetch("SELECT * FROM activity ORDER BY pos"))[:5] == before
    assert await applied_events(data) == await in_log(data)


async def test_several_workers_write_one_entry_per_event(
    database: Database, data: Pool, tenant: UUID
) -> None:
    await record_many(data, tenant, 300)
    await sequence_all(data)
    crew = [Consumer(data, ProjectionHandler(Activity()), batch_size=7) for _ in range(4)]

    async def work(each: Consumer) -> None:
        while await log.backlog(data, ACTIVITY):
            await each.step()

    await asyncio.gather(*map(work, crew))
    assert sum(each.applied for each in crew) == 300
    assert await applied_events(data) == await in_log(data)


async def test_an_old_event_gets_its_entry_in_its_month(database: Database, data: Pool, tenant: UUID) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=800)
    await ensure_past_partitions(data, long_ago)
    await data.execute("SELECT record_event($1::uuid, 'invoice_created', '{}', $2)", tenant, long_ago)
    await sequence_all(data)
    await step_to_the_end(of(data))
    assert await data.fetchval("SELECT tableoid::regclass::text FROM activity") == (
        f"activity_g1_{long_ago:%Y_%m}"
    )


async def test_any_json_object_is_applied(data: Pool, tenant: UUID) -> None:
    """Data that Postgres stores and parsers reject: nothing is dead-lettered."""
    for text in (
        "{}",
        '{"amount": 1e308, "currency": "NGN"}',
        '{"amount": -9223372036854775809, "subscriptionId": "sub_\\u202e"}',
        '{"a": ' + "[" * 3000 + "]" * 3000 + "}",
        '{"reason": "' + "\\u001b[2J" * 20_000 + '"}',
        '{"customerId": {"id": 1}, "invoiceId": 7, "nextAttemptAt": "0001-01-01T00:00:00+14:00"}',
    ):
        for type_ in ("subscription_unpaid", "subscription_payment_failed"):
            await events.record(data, tenant, type_, text)
    await sequence_all(data)
    feed = of(data)
    await step_to_the_end(feed)
    assert (feed.applied, feed.dead_lettered) == (12, 0)


@pytest.mark.usefixtures("one_try")
async def test_a_defect_dead_letters_the_event_and_a_retry_applies_it(
    database: Database, data: Pool, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_endpoint(database, tenant, "https://shop.example/hooks")
    logged = await sequenced(data, tenant, 20)
    sound = activity_consumer.summary_of

    def broken(type_: str, read: dict[str, object], at: datetime) -> str:
        if read["n"] == 7:
            raise ZeroDivisionError("a defect of ours")
        return sound(type_, read, at)

    feed, fanout = of(data), Consumer(data, FanOut(NoSlots(), lambda: 0))
    with monkeypatch.context() as mended_later:
        mended_later.setattr(activity_consumer, "summary_of", broken)
        await step_to_the_end(feed, fanout)
    (dead,) = await log.dead_events(data, ACTIVITY, 0, 10)
    assert dead.error == "ZeroDivisionError: a defect of ours"
    assert (feed.applied, feed.dead_lettered) == (19, 1)
    assert len(await applied_events(data)) == 19
    assert await log.dead_events(data, FANOUT, 0, 10) == []
    assert await data.fetchval("SELECT count(*) FROM webhook_deliveries") == 20
    assert await feed.retry_dead_event(next(event for event in logged if event.pos == dead.pos))
    assert await applied_events(data) == await in_log(data)
    assert await log.dead_events(data, ACTIVITY, 0, 10) == []


async def test_fan_out_continues_while_the_feed_cannot_be_written(
    database: Database, data: Pool, tenant: UUID, owner: asyncpg.Connection
) -> None:
    """Another session holds a lock on the table."""
    await add_endpoint(database, tenant, "https://shop.example/hooks")
    feed, fanout = of(data), Consumer(data, FanOut(NoSlots(), lambda: 0))
    await owner.execute("BEGIN; LOCK TABLE sandbox.activity IN ACCESS EXCLUSIVE MODE")
    logged = await sequenced(data, tenant, 50)
    async with running(feed):
        await until(owner, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        await step_to_the_end(fanout)
        assert await log.backlog(data, FANOUT) == 0
        assert await log.backlog(data, ACTIVITY) == len(logged)
        await owner.execute("COMMIT")
    await step_to_the_end(feed)
    assert await applied_events(data) == await in_log(data)


async def test_a_worker_gathers_events_unless_there_is_a_backlog(
    monkeypatch: pytest.MonkeyPatch, data: Pool, tenant: UUID
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def counted(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
        await sleep(0)

    await sequenced(data, tenant, 25)
    monkeypatch.setattr(asyncio, "sleep", counted)
    feed = Consumer(data, ProjectionHandler(Activity(), batch_size=10, gather_s=0.05))
    await step_to_the_end(feed)
    assert feed.applied == 25
    assert pauses == [0.05], "before the first batch, of which it could not know; the others were backlog"


class Rebuilt(Activity):
    """Records the events and the generation that it is given."""

    def __init__(self) -> None:
        self.given: list[tuple[int, int]] = []

    async def project(self, tx: asyncpg.Connection, generation: int, batch: Sequence[LoggedEvent]) -> None:
        self.given += [(generation, event.pos) for event in batch]
        await super().project(tx, generation, batch)


async def test_a_rebuilt_generation_has_the_same_entries_and_then_serves(data: Pool, tenant: UUID) -> None:
    from consumers.projection_handlers import RebuildHandler
    from schema.read_models.projections import begin_rebuild

    for name, found in catalog().items():
        await events.record(data, tenant, name, found.example)
    await sequence_all(data)
    await step_to_the_end(of(data))
    assert (await begin_rebuild(data, ACTIVITY)).generation == 2
    await step_to_the_end(Consumer(data, RebuildHandler(Activity())))
    columns = "id, created_at, pos, type, summary, subject_id, subscription_id, customer_id, amount, currency, links"
    first, second = [
        await data.fetch(f"SELECT {columns} FROM activity WHERE generation = $1 ORDER BY pos", generation)
        for generation in (1, 2)
    ]
    assert first == second
    assert await finish_rebuild(data, ACTIVITY)
    await record_many(data, tenant, 1)
    await sequence_all(data)
    rebuilt = Rebuilt()
    await step_to_the_end(Consumer(data, ProjectionHandler(rebuilt)))
    assert rebuilt.given == [(2, len(catalog()) + 1)]
    assert await data.fetchval("SELECT count(*) FROM activity_feed") == len(catalog()) + 1
