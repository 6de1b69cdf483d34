"""A month goes with producers at work, and whatever ends a run, the next one finishes what it began and loses nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from consumers.consumer import Consumer
from consumers.fanout import FanOut, NoSlots
from schema.connections.database import Database, Pool
from schema.connections.error_kinds import is_transient
from schema.deliveries import deliveries, delivery_history
from schema.errors import Conflict
from schema.event_log import log, partitions
from schema.event_log.positions import events_after
from schema.modes import Mode
from schema.pages import After
from schema.retention.retention_rules import Ages, Candidate, Month
from schema.retention.retention_run import RetentionRun, exclusive_run, unseal_leftovers
from service.worker.housekeeping import Housekeeping
from tests.support.arrivals import Arrivals
from tests.support.database_waits import until, wait_until_blocked
from tests.support.engine import add_endpoint, engine, running
from tests.support.events import record, sequence_all
from tests.support.retention_history import (
    AGES,
    OLD,
    attached,
    finished,
    past,
    retire,
    standing,
    summary,
)
from tests.support.servers.connections import LIVE, SANDBOX, Connect
from tests.support.servers.databases import OWNER

EVENTS = (str(OLD), "events")
CHANGES = ("execute", "fetchval", "fetchrow", "fetch")


class Dies(Exception):
    """As a process that is killed."""


class Mortal:
    """The owner's connection up to its nth statement."""

    def __init__(self, connection: asyncpg.Connection, statements: int) -> None:
        self._connection = connection
        self._left = statements

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        if name not in CHANGES:
            return found

        async def mortal(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                self._connection.terminate()
                raise Dies
            return await found(*arguments, **options)

        return mortal


@pytest.mark.drill
async def test_a_run_killed_at_any_statement_is_finished_by_the_next(
    connect: Connect, data: Pool, owner: asyncpg.Connection, tenant: UUID
) -> None:
    """A month again and again, killed before another statement each time; in between the log is always sound."""
    recent = await record(data, tenant)
    age = await owner.fetchval("SELECT now()") - OLD.end
    ages = Ages(age, age, age)
    statement, died = 0, True
    while died:
        await past(data, tenant, OLD)
        await finished(data)
        end = await data.fetchval("SELECT last_pos FROM sequencer ORDER BY tick DESC LIMIT 1")
        try:
            await retire(Mortal(await connect(OWNER), statement), ages)
        except (Dies, asyncpg.InterfaceError):  # the latter where a transaction was to be rolled back
            statement += 1
        else:
            died = False
        if not await owner.fetchval("SELECT EXISTS (SELECT FROM retired_months WHERE finished_at IS NULL)"):
            assert (await standing(owner, OLD)).others == set(), "what is not noted is whole"
        unknown = await data.fetchval(
            "SELECT count(*) FROM events e WHERE NOT EXISTS (SELECT FROM event_log l WHERE l.event_id = e.id)"
        )
        assert unknown == 0, "an event that a restore would give another position"
        page = await events_after(data, tenant, 0)
        assert len(page.events) == 4 or page.dropped_up_to == end, "missing, and nobody was told"
        await retire(owner, ages)
        assert not await attached(owner, OLD)
        assert await data.fetchval("SELECT array_agg(id) FROM events") == [recent]
        assert not await owner.fetchval("SELECT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'retiring')")
    assert statement > 40, "it was killed at each of a run's statements"


async def test_a_second_concurrent_run_is_refused(connect: Connect, owner: asyncpg.Connection) -> None:
    async with exclusive_run(owner):
        with pytest.raises(Conflict, match="Another duro retention run is running"):
            async with exclusive_run(await connect(OWNER)):
                pass
    async with exclusive_run(await connect(OWNER)):
        pass


async def test_the_run_lock_is_exclusive_and_holds_no_snapshot(
    connect: Connect, data: Pool, owner: asyncpg.Connection, superuser: asyncpg.Connection
) -> None:
    analyst = await connect(LIVE)
    await analyst.execute("SELECT pg_advisory_lock($1)", 0x726574656E74)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await analyst.execute("BEGIN; LOCK TABLE live.retention_lock IN ACCESS SHARE MODE")
    async with exclusive_run(owner):
        held = await superuser.fetchrow(
            "SELECT state, backend_xid, backend_xmin FROM pg_stat_activity WHERE pid = $1",
            owner.get_server_pid(),
        )
    assert tuple(held) == ("idle in transaction", None, None)


# Others at work


@asynccontextmanager
async def at_work(work: Callable[[], Any]) -> AsyncIterator[None]:
    """Again and again, meanwhile."""
    over = asyncio.Event()

    async def go_on() -> None:
        while not over.is_set():
            await work()

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        over.set()
        await task


async def test_producers_lose_nothing_and_do_not_wait(
    connect: Connect, data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    producers = [await connect() for _ in range(3)]
    for producer in producers:
        await producer.execute("SET lock_timeout = '1s'")
    recorded: Arrivals[UUID] = Arrivals()
    read: list[UUID] = []

    async def produce() -> None:
        for producer in producers:
            async with producer.transaction():
                recorded.add(await record(producer, tenant))
        await sequence_all(producers[0])
        after = 3 + len(read)
        read.extend(event.id for event in (await events_after(data, tenant, after)).events)

    async def look_around() -> None:
        await log.consumer_status(data, ["fanout"])
        await log.read_after(data, 0, 100)
        await deliveries.endpoints_waiting(data, deliveries.Lane.FIRST, UUID(int=0), 10)
        await delivery_history.list_deliveries(data, tenant, None, None, After(), 10)

    async with at_work(produce), at_work(look_around):
        await recorded.count(10)
        assert summary(await retire(owner))[EVENTS] == []
        await recorded.count(len(recorded) + 10)
    await sequence_all(data)
    everything = [event.id for event in (await log.read_after(data, 0, 1_000_000)).events]
    assert sorted(everything) == sorted(recorded)
    assert read == everything[: len(read)]


async def test_an_open_transaction_blocks_the_run_not_the_producers(
    connect: Connect, data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    left_open, producer = await connect(), await connect()
    await producer.execute("SET lock_timeout = '1s'")
    async with left_open.transaction():
        first = await record(left_open, tenant)
        run = asyncio.create_task(retire(owner))
        await wait_until_blocked(await connect(OWNER), owner)
        second = await record(producer, tenant)
        await sequence_all(producer)
        page = await events_after(producer, tenant, 3)
        assert [event.id for event in page.events] == [second]
        assert not run.done()
    assert summary(await run)[EVENTS] == []
    await sequence_all(producer)
    assert [event.id for event in (await log.read_after(data, 0, 100)).events] == [second, first]


async def test_a_blocked_run_names_the_blocker_and_can_resume(
    connect: Connect, data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    left_open = await connect()
    async with left_open.transaction():
        await record(left_open, tenant)
        with pytest.raises(Conflict, match=rf"have blocked .* process {left_open.get_server_pid()}\)"):
            await retire(owner, patience_s=0)
        assert await owner.fetchval("SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == 1
        await record(data, tenant)
        assert await partitions.ensure_partitions(data) > 0
    await retire(owner)
    assert not await attached(owner, OLD)


# What slips in


def with_a_surprise(owner: asyncpg.Connection, at: str, action: Callable[[], Any]) -> RetentionRun:
    """A run in which `action` happens once, right before its step `at`."""
    run = RetentionRun(owner, Mode.TEST, AGES, patience_s=10)
    step = getattr(run, at)

    async def first(*arguments: Any) -> Any:
        setattr(run, at, step)
        await action()
        return await step(*arguments)

    setattr(run, at, first)
    return run


async def test_a_back_dated_event_before_the_seal_keeps_the_month(
    connect: Connect, data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    run = with_a_surprise(owner, "_seal", lambda: past(data, tenant, OLD, 1))
    outcomes = [outcome async for outcome in run.run()]
    assert summary(outcomes)[EVENTS] == ["1 event without a position: run a worker"]
    await past(data, tenant, OLD, 1)  # it is open again
    await finished(data)
    assert len((await events_after(data, tenant, 0)).events) == 5
    assert summary(await retire(owner))[EVENTS] == []


async def test_the_seal_waits_for_an_open_back_dated_event(
    connect: Connect, data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    importer = await connect()
    transaction = importer.transaction()
    await transaction.start()
    await importer.fetchval(
        "SELECT record_event($1::uuid, 'invoice_created', '{}', $2::timestamptz)", tenant, OLD.start
    )
    run = asyncio.create_task(retire(owner))
    await wait_until_blocked(await connect(OWNER), owner)
    await transaction.commit()
    assert summary(await run)[EVENTS] == ["1 event without a position: run a worker"]
    await finished(data)
    assert len((await events_after(data, tenant, 0)).events) == 4


@pytest.mark.parametrize(("at", "for_the_moment"), [("_note", True), ("_finish", False)])
async def test_a_sealed_month_refuses_new_rows_and_says_why(
    data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID], at: str, for_the_moment: bool
) -> None:
    async def try_both() -> None:
        for attempt in (
            past(data, tenant, OLD, 1),
            data.execute(
                "UPDATE webhook_deliveries SET status = 'pending', due_at = now(), retry_at = now()"
            ),
        ):
            with pytest.raises(
                asyncpg.ObjectNotInPrerequisiteStateError, match=f"{OLD.suffix} is being retired"
            ) as refused:
                await attempt
            assert is_transient(refused.value) == for_the_moment

    run = with_a_surprise(owner, at, try_both)
    assert summary([outcome async for outcome in run.run()])[EVENTS] == []


async def test_the_next_run_unseals_a_month_of_a_killed_run(
    connect: Connect, data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    doomed = await connect(OWNER)

    async def die() -> None:
        doomed.terminate()
        raise Dies

    run = with_a_surprise(doomed, "_note", die)
    with pytest.raises(Dies):
        _ = [outcome async for outcome in run.run()]
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await past(data, tenant, OLD, 1)
    await retire(owner, Ages(activity=timedelta(days=30_000)))
    await past(data, tenant, OLD, 1)


async def test_a_run_stopped_in_its_last_check_unseals_the_month(
    connect: Connect, data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    """Ctrl-C while it waits for the book, which a rebuild has."""
    book = await connect(OWNER)
    async with book.transaction():
        await book.execute("LOCK TABLE retired_months IN SHARE MODE")
        run = asyncio.create_task(retire(owner))
        await wait_until_blocked(await connect(OWNER), owner)
        assert await sealed(book) == 2
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert await sealed(owner) == 0
    await past(data, tenant, OLD, 1)


async def sealed(owner: asyncpg.Connection) -> int:
    found: int = await owner.fetchval("SELECT count(*) FROM sealed_leftovers()")
    return found


async def killed_at_its_note(connect: Connect, before_the_seal: Callable[[], Any]) -> None:
    """`before_the_seal` of the deliveries, after the last look that could have seen it."""
    doomed = await connect(OWNER)

    async def die() -> None:
        doomed.terminate()
        raise Dies

    run = with_a_surprise(doomed, "_note", die)
    seal = run._seal

    async def seal_late(candidate: Candidate, parent: str, wait: str) -> None:
        if parent == "webhook_deliveries":
            await before_the_seal()
        await seal(candidate, parent, wait)

    run._seal = seal_late  # type: ignore[method-assign]  # as with_a_surprise does
    with pytest.raises(Dies):
        _ = [outcome async for outcome in run.run()]


async def nothing() -> None:
    pass


async def test_a_worker_unseals_a_month_of_a_killed_run(
    connect: Connect, database: Database, data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    await killed_at_its_note(connect, nothing)
    housekeeping = Housekeeping(database)
    async with exclusive_run(await connect(OWNER)):  # which could be about to note it
        await housekeeping.unseal(Mode.TEST)
        assert await sealed(owner) == 2
    stop = asyncio.Event()
    keeping = asyncio.create_task(housekeeping.run(stop))
    await until(owner, "SELECT NOT EXISTS (SELECT FROM sealed_leftovers())")
    stop.set()
    await keeping
    await past(data, tenant, OLD, 1)


async def test_unsealing_does_not_block_writers(
    connect: Connect, data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    await killed_at_its_note(connect, nothing)
    writer = await connect()
    async with writer.transaction():
        await writer.execute("UPDATE webhook_deliveries SET schedule_attempts = 0")
        assert await unseal_leftovers(data) == 0
    assert await unseal_leftovers(data) == 2


async def test_a_month_on_its_way_out_stays_sealed(
    data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    async def try_it() -> None:
        assert await unseal_leftovers(data) == 0

    run = with_a_surprise(owner, "_finish", try_it)
    assert summary([o async for o in run.run()])[EVENTS] == []


async def test_a_run_whose_month_was_unsealed_drops_nothing(
    connect: Connect, data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    """As when the session that holds its lock was ended."""

    async def open_it() -> None:
        assert await unseal_leftovers(data) == 2

    run = with_a_surprise(owner, "_note", open_it)
    with pytest.raises(Conflict, match=f"test {OLD} was unsealed during the check"):
        _ = [outcome async for outcome in run.run()]
    assert summary(await retire(owner))[EVENTS] == []


async def test_workers_continue_while_a_month_is_sealed(
    connect: Connect, database: Database, data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    """A replay comes just before the seal, and the run is killed: each tenant's retries go out, are taken over and settled."""
    first = await add_endpoint(database, tenant, "https://127.0.0.1:1/")
    await data.execute(
        "UPDATE webhook_deliveries SET endpoint_id = $1 WHERE id = (SELECT id FROM webhook_deliveries LIMIT 1)",
        first,
    )

    async def replay() -> None:
        await data.execute(
            "UPDATE webhook_deliveries SET status = 'pending', due_at = now(), retry_at = now(), settled_at = NULL,"
            "                              lane = 1 WHERE endpoint_id = $1",
            first,
        )

    await killed_at_its_note(connect, replay)
    await add_endpoint(database, tenant, "https://127.0.0.1:2/")
    assert await sealed(owner) == 2
    async with engine(database) as ours:
        await record(data, tenant)
        await ours.leave_pending()
        async with data.acquire() as dead, dead.transaction():
            claimed = await deliveries.claim(dead, deliveries.Lane.RETRY, [(first, 9)], lease=7, worker=9)
            assert len(claimed) == 1, "of the sealed month"
        assert await deliveries.take_over(data, [9]) == 1
        async with running(ours.settler, ours.dispatcher):
            await ours.settled.count(3)  # it and today's for both
        assert [row["attempts"] for row in await ours.rows() if row["attempts"] == 2] == [2]


async def test_a_back_dated_event_is_never_dead_lettered_by_fan_out(
    connect: Connect, database: Database, data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    """Workers sequence it and fan it out while the run looks."""
    await add_endpoint(database, tenant, "https://example.com/")
    fanout = Consumer(data, FanOut(NoSlots(), lambda: 0))

    async def work() -> None:
        await sequence_all(data)
        while await fanout.step():
            pass

    run = with_a_surprise(owner, "_seal", lambda: past(data, tenant, OLD, 1))
    seal, left = run._seal, []

    async def work_after(*arguments: Any) -> None:
        await seal(*arguments)
        await work()
        left.append(await data.fetchval("SELECT count(*) FROM webhook_deliveries WHERE status = 'pending'"))

    run._seal = work_after  # type: ignore[method-assign]  # as with_a_surprise does
    kept = summary([o async for o in run.run()])[EVENTS]
    assert fanout.dead_lettered == 0
    assert left == [1], "it is on its way, and nothing else was sealed"
    assert kept


async def test_a_sealed_month_dead_letters_nothing(
    database: Database, data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    """As one that is set back, after a run that was killed."""
    await add_endpoint(database, tenant, "https://example.com/")
    await data.execute("INSERT INTO cursors (consumer, pos) VALUES ('fanout', 0)")
    await owner.execute(f"SELECT seal_partition('webhook_deliveries_{OLD.suffix}')")
    fanout = Consumer(data, FanOut(NoSlots(), lambda: 0))
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError) as refused:
        await fanout.step()
    assert is_transient(refused.value)
    assert await unseal_leftovers(data) == 1
    while await fanout.step():
        pass
    assert fanout.dead_lettered == 0
    assert await data.fetchval("SELECT count(*) FROM webhook_deliveries WHERE status = 'pending'") == 3


async def test_a_replay_before_the_seal_keeps_the_month(
    data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    async def replay() -> None:
        await data.execute(
            "UPDATE webhook_deliveries SET status = 'pending', due_at = now(), retry_at = now()"
        )

    run = with_a_surprise(owner, "_seal", replay)
    assert summary([o async for o in run.run()])[EVENTS] == ["3 deliveries pending"]
    await data.execute("UPDATE webhook_deliveries SET due_at = now()")  # it is open again


async def test_a_rebuild_begun_before_the_record_keeps_the_month(
    data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    run = with_a_surprise(owner, "_note", lambda: data.execute("SELECT begin_rebuild('activity')"))
    assert summary([o async for o in run.run()])[EVENTS] == ["consumer activity_rebuild is 3 events behind"]


async def test_no_rebuild_begins_while_a_month_goes(
    data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    async def try_it() -> None:
        with pytest.raises(
            asyncpg.ObjectNotInPrerequisiteStateError, match=f"{OLD} is being retired: rebuild"
        ):
            await data.execute("SELECT begin_rebuild('activity')")

    run = with_a_surprise(owner, "_finish", try_it)
    assert summary([o async for o in run.run()])[EVENTS] == []
    await data.execute("SELECT begin_rebuild('activity')")


async def test_a_replay_before_emptying_keeps_the_deliveries(
    data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    async def replay() -> None:
        await data.execute(
            "UPDATE webhook_deliveries SET status = 'pending', due_at = now(), retry_at = now()"
        )

    run = with_a_surprise(owner, "_empty", replay)
    run._ages = Ages(deliveries=timedelta(days=90), attempts=timedelta(days=90))
    (outcome, *_) = [o async for o in run.run()]
    assert list(outcome.kept) == ["a delivery has just become pending"]
    assert await data.fetchval("SELECT count(*) FROM webhook_deliveries") == 3


class Listening:
    """The owner's connection, and what happens before a statement."""

    def __init__(self, connection: asyncpg.Connection, before: Callable[[str], Any]) -> None:
        self._connection = connection
        self._before = before

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        if name not in CHANGES:
            return found

        async def told(query: str, *arguments: Any) -> Any:
            await self._before(query)
            return await found(query, *arguments)

        return told


async def test_emptying_locks_in_the_settlers_order(
    connect: Connect, data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    """Deliveries and then attempts: while it waits for the former it holds none of the latter."""
    ages = Ages(deliveries=timedelta(days=300), attempts=timedelta(days=300))
    settler, watcher = await connect(), await connect(OWNER)
    async with settler.transaction():
        await settler.execute("UPDATE webhook_deliveries SET schedule_attempts = 0")
        run = asyncio.create_task(retire(owner, ages))
        held = None
        async with asyncio.timeout(10):
            while not held:
                held = await watcher.fetchval(
                    "SELECT array_agg(granted || ' ' || relation::regclass::text) FROM pg_locks"
                    " WHERE pid = $1 AND mode = 'AccessExclusiveLock' AND locktype = 'relation'",
                    owner.get_server_pid(),
                )
    assert held == [f"false webhook_deliveries_{OLD.suffix}"]
    assert (str(OLD), "deliveries") in summary(await run)


async def test_slow_emptying_is_given_up_and_reported(
    data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    """Others wait meanwhile."""

    async def before(query: str) -> None:
        if "truncate_partition" in query:
            await owner.execute("SET LOCAL statement_timeout = '1ms'")
            await owner.execute("SELECT pg_sleep(1)")

    ages = Ages(deliveries=timedelta(days=300), attempts=timedelta(days=300))
    run = RetentionRun(Listening(owner, before), Mode.TEST, ages)
    (outcome, *_) = [outcome async for outcome in run.run()]
    assert list(outcome.kept) == ["it took too long and would block others: run this again at a quieter time"]
    assert await data.fetchval("SELECT count(*) FROM webhook_deliveries") == 3


async def test_an_attempt_before_emptying_keeps_the_attempts(
    data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    async def attempt() -> None:
        await data.execute(
            "INSERT INTO webhook_attempts (id, tenant_id, delivery_id, endpoint_id, created_at, replay, started_at,"
            "                              outcome, total_ms, settled)"
            " SELECT gen_random_uuid(), tenant_id, id, endpoint_id, created_at, true, now(), 'ok', 1, false"
            "   FROM webhook_deliveries LIMIT 1"
        )

    run = with_a_surprise(owner, "_empty", attempt)
    run._ages = Ages(attempts=timedelta(days=90))
    (outcome, *_) = [o async for o in run.run()]
    assert list(outcome.kept) == ["an attempt has just been made"]


async def test_what_goes_past_the_seal_is_never_dropped(
    data: Pool, owner: asyncpg.Connection, superuser: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    """As an owner may who turns triggers off: the month stays, detached, until somebody has looked at it."""
    name = f"events_{OLD.suffix}"

    async def sneak_in() -> None:
        await owner.execute(f"ALTER TABLE {name} DISABLE TRIGGER ALL")
        await past(data, tenant, OLD, 1)

    run = with_a_surprise(owner, "_finish", sneak_in)
    for _ in range(2):
        with pytest.raises(Conflict, match=f"{name} has 4 rows but had 3 when it was sealed"):
            _ = [outcome async for outcome in run.run()]
        run = RetentionRun(owner, Mode.TEST, AGES)
    assert await owner.fetchval(f"SELECT count(*) FROM {name}") == 4
    assert f"event_log_{OLD.suffix}" in (await standing(owner, OLD)).attached


async def killed_before(owner: asyncpg.Connection, table: str) -> None:
    """Noted, and all tables before this one are gone."""
    run = RetentionRun(owner, Mode.TEST, AGES)

    def tell(_month: Month, what: str) -> None:
        if what == f"dropping {table}_{OLD.suffix}":
            raise Dies

    run._report = tell  # type: ignore[method-assign]  # the last thing that it does before
    with pytest.raises(Dies):
        _ = [outcome async for outcome in run.run()]


async def test_a_half_deleted_month_is_recreated_only_after_it_is_gone(
    data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    await killed_before(owner, "event_log")
    await partitions.ensure_past_partitions(data, OLD.start)
    assert f"events_{OLD.suffix}" not in (await standing(owner, OLD)).attached
    await retire(owner, Ages(activity=timedelta(days=30_000)))
    assert not await attached(owner, OLD)
    await past(data, tenant, OLD)
    assert await attached(owner, OLD)


@pytest.mark.parametrize("rows", [0, 1])
async def test_a_table_recreated_under_a_deleted_name_is_kept(
    connect: Connect, data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID], rows: int
) -> None:
    """An operator's: it is left alone, and stops nothing."""
    await killed_before(owner, "event_log")
    name = f"events_{OLD.suffix}"
    await owner.execute(f"CREATE TABLE {name} (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    await owner.execute(
        f"ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ('{OLD.start}') TO ('{OLD.end}')"
    )
    if rows:
        await past(data, tenant, OLD, rows)
    await retire(await connect(OWNER), Ages(activity=timedelta(days=30_000)))
    assert (await standing(owner, OLD)).attached >= {name}
    assert f"event_log_{OLD.suffix}" not in (await standing(owner, OLD)).attached
    assert await owner.fetchval(f"SELECT count(*) FROM {name}") == rows
    await past(data, tenant, OLD, 1)
    await finished(data)
    assert len((await events_after(data, tenant, 3)).events) == rows + 1


async def test_a_restored_database_finishes_a_month_by_table_names(
    connect: Connect, data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    """No table has the oid that it had."""
    await killed_before(owner, "event_log")
    await owner.execute(
        "UPDATE retired_months SET oids = '{1,2,3,4}'"
    )  # which writes it anew, as a restore does
    await retire(await connect(OWNER), Ages(activity=timedelta(days=30_000)))
    assert not await attached(owner, OLD)


@pytest.mark.parametrize("ages", [AGES, Ages(attempts=timedelta(days=90))])
async def test_what_an_operator_detached_is_left_alone(
    data: Pool, owner: asyncpg.Connection, old: list[UUID], ages: Ages
) -> None:
    name = f"webhook_attempts_{OLD.suffix}"
    await owner.execute(f"ALTER TABLE webhook_attempts DETACH PARTITION {name}")
    await retire(owner, ages)
    assert await owner.fetchval(f"SELECT count(*) FROM {name}") == 3
    assert (f"events_{OLD.suffix}" in (await standing(owner, OLD)).attached) == (ages is not AGES)


@pytest.mark.parametrize("table", ["events", "event_log"])
async def test_a_half_attached_month_is_kept(
    data: Pool, owner: asyncpg.Connection, old: list[UUID], table: str
) -> None:
    await owner.execute(f"ALTER TABLE {table} DETACH PARTITION {table}_{OLD.suffix}")
    (reason,) = summary(await retire(owner))[EVENTS]
    assert f"{table}_{OLD.suffix} is not: attach this one, or detach both" in reason
    assert await owner.fetchval(f"SELECT count(*) FROM {table}_{OLD.suffix}") == 3


async def test_restarted_consumers_pass_the_deleted_months(
    data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    from consumers.consumer import Applied, Consumer

    recent = await record(data, tenant)
    await finished(data)
    await retire(owner)
    await owner.execute("INSERT INTO sandbox.consumers VALUES ('fresh')")

    class Poisoned:
        name = "fresh"

        async def ready(self, *, behind: bool) -> int:  # noqa: ARG002
            return 10

        async def apply(self, _tx: Any, _events: Any) -> Applied:
            raise LookupError("poison")

    consumer = Consumer(data, Poisoned())
    async with asyncio.timeout(30):
        while not consumer.dead_lettered:
            await consumer.step()
    assert [dead.event_id for dead in await log.dead_events(data, "fresh", 0, 10)] == [recent]


async def test_no_role_but_the_owner_can_retire_anything(
    connect: Connect, data: Pool, old: list[UUID]
) -> None:
    for role in (SANDBOX, LIVE):
        connection = await connect(role)
        for function in ("seal_partition", "unseal_partition", "truncate_partition"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"SELECT {function}('events')")
