"""Only a fault of its own data dead-letters an event. Every other fault is retried and leaves the batch size as it was."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from uuid import UUID

import asyncpg
import pytest

from consumers import consumer as loop
from consumers.activity.activity_consumer import Activity
from consumers.consumer import SLOW_TRIES, Applied, Consumer
from consumers.projection_handlers import ProjectionHandler
from consumers.sequencing import Sequencer
from schema.connections import database as databases
from schema.connections.database import Connection, Database, Pool
from schema.errors import Unavailable
from schema.event_log import events, log
from schema.event_log.log import LoggedEvent
from schema.failures import PartFailures, enter_part
from schema.modes import Mode
from schema.polling import through_outages
from tests.support.events import sequence_all, sequenced
from tests.support.servers.connections import Connect

TIMEOUT_S = 0.6
ENVIRONMENT = (
    *(
        "53100",
        "53200",
        "53300",
        "57014",
        "57P01",
        "57P03",
        "42501",
        "42P01",
        "40001",
        "40P01",
        "XX000",
        "XX001",
    ),
    *("58030", "25006", "55P03", "54000", "0A000", "P0001", "HV000", "2200H"),
)
DATA = ("22000", "22003", "22021", "22P02", "22P05", "23502", "23505", "23514")

Fault = Callable[[Connection, Sequence[LoggedEvent]], Awaitable[None]]


class Projection:
    name = "projection"

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault = fault

    async def ready(self, *, behind: bool) -> int:  # noqa: ARG002  this handler never waits
        return 1000

    async def apply(self, tx: Connection, events: Sequence[LoggedEvent]) -> Applied:
        for event in events:
            await tx.execute("INSERT INTO projected (pos, tag) VALUES ($1, 'row ' || $1::bigint)", event.pos)
        if self.fault:
            await self.fault(tx, events)
        return Applied(len(events))


@pytest.fixture
async def quick(db_url: str, key: bytes, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """Its sessions have short timeouts."""
    monkeypatch.setattr(databases, "STATEMENT_TIMEOUT", f"{int(TIMEOUT_S * 1000)}ms")
    monkeypatch.setattr(databases, "LOCK_TIMEOUT", "50ms")
    async with Database.open(db_url, key) as database:
        yield database
    await asyncio.sleep(0)


@pytest.fixture
async def data(quick: Database, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> Pool:
    monkeypatch.setattr(loop, "TRIES_PER_BATCH", 1)
    await owner.execute(
        "INSERT INTO sandbox.consumers (name) VALUES ('projection');"
        "CREATE TABLE sandbox.projected (pos bigint, tag text);"
        "GRANT SELECT, INSERT ON sandbox.projected TO duro_sandbox"
    )
    return quick.data(Mode.TEST)


async def raise_in_trigger(owner: asyncpg.Connection, state: str, condition: str = "true") -> None:
    await owner.execute(
        f"""
        CREATE OR REPLACE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'refused by a trigger' USING ERRCODE = '{state}'; END $$;
        DROP TRIGGER IF EXISTS fail ON sandbox.projected;
        CREATE TRIGGER fail BEFORE INSERT ON sandbox.projected
            FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION public.fail();
        """
    )


async def projected(data: Pool) -> list[int]:
    return [row["pos"] for row in await data.fetch("SELECT pos FROM projected ORDER BY pos")]


async def dead(data: Pool) -> list[int]:
    return [entry.pos for entry in await log.dead_events(data, "projection", 0, 1000)]


async def run_to_end(consumer: Consumer) -> None:
    async with asyncio.timeout(30):
        while await consumer.step():
            pass


async def fails(consumer: Consumer, steps: int = 8) -> list[BaseException]:
    errors: list[BaseException] = []
    for _ in range(steps):
        try:
            await consumer.step()
        except Exception as error:  # noqa: BLE001  any error
            errors.append(error)
    return errors


async def test_an_error_that_is_no_data_fault_dead_letters_nothing(
    data: Pool, owner: asyncpg.Connection, tenant: UUID
) -> None:
    """A trigger raises it repeatedly, and also while one event is alone."""
    consumer = Consumer(data, Projection(), batch_size=8)
    for number, state in enumerate(ENVIRONMENT):
        await sequenced(data, tenant, 5)
        await raise_in_trigger(owner, state)
        assert await fails(consumer), state
        await owner.execute("DROP TRIGGER fail ON sandbox.projected")
        await run_to_end(consumer)
        assert await dead(data) == [], state
        assert await projected(data) == list(range(1, 5 * number + 6)), state
    await sequenced(data, tenant, 16)
    assert [await consumer.step() for _ in range(2)] == [8, 8], "batches are as large as before"


async def test_a_data_fault_dead_letters_only_its_event(
    data: Pool, owner: asyncpg.Connection, tenant: UUID
) -> None:
    consumer = Consumer(data, Projection(), batch_size=8)
    for number, state in enumerate(DATA):
        await sequenced(data, tenant, 5)
        await raise_in_trigger(owner, state, f"NEW.pos = {5 * number + 3}")
        await run_to_end(consumer)
        assert await dead(data) == [5 * n + 3 for n in range(number + 1)], state
    assert await projected(data) == [n for n in range(1, 5 * len(DATA) + 1) if n % 5 != 3]


async def test_an_error_text_that_postgres_refuses_still_dead_letters(data: Pool, tenant: UUID) -> None:
    async def fault(_tx: Connection, _events: Sequence[LoggedEvent]) -> None:
        raise ValueError("a \0 and a \ud800")

    await sequenced(data, tenant, 1)
    consumer = Consumer(data, Projection(fault))
    assert await consumer.step() == 1
    (entry,) = await log.dead_events(data, "projection", 0, 10)
    assert entry.error == r"ValueError: a \0 and a \ud800"


def slow_at(pos: int, seconds: float = 60) -> Fault:
    async def fault(tx: Connection, events: Sequence[LoggedEvent]) -> None:
        if pos in {event.pos for event in events}:
            await tx.execute("SELECT pg_sleep($1)", seconds)

    return fault


async def test_an_event_that_always_times_out_is_dead_lettered_alone(data: Pool, tenant: UUID) -> None:
    await sequenced(data, tenant, 4)
    consumer = Consumer(data, Projection(slow_at(3)), batch_size=4)
    errors: list[BaseException] = []
    async with asyncio.timeout(60):
        while not await dead(data):
            errors += await fails(consumer, 1)
    assert len(errors) >= SLOW_TRIES, "the first one alone, and those that count but the last"
    assert all(isinstance(error, asyncpg.QueryCanceledError) for error in errors)
    await run_to_end(consumer)
    assert (await dead(data), await projected(data)) == ([3], [1, 2, 4])


async def test_a_cancel_by_an_operator_never_counts(
    data: Pool, superuser: asyncpg.Connection, tenant: UUID
) -> None:
    """No matter how long the statement has run."""
    await sequenced(data, tenant, 2)
    projection = Projection(slow_at(1))
    consumer = Consumer(data, projection, batch_size=2)
    cancelled = 0

    async def cancel() -> None:
        nonlocal cancelled
        while True:
            cancelled += await superuser.fetchval(
                "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity"
                " WHERE query LIKE '%pg_sleep($1)%' AND state = 'active' AND usename = 'duro_sandbox'"
                " AND clock_timestamp() - query_start > $1::float8 * interval '1 s'",
                0.6 * TIMEOUT_S,
            )
            await asyncio.sleep(0.01)

    cancelling = asyncio.create_task(cancel())
    errors = await fails(consumer, SLOW_TRIES + 3)
    cancelling.cancel()
    assert cancelled >= len(errors) > SLOW_TRIES
    assert await dead(data) == []
    projection.fault = None
    await run_to_end(consumer)
    assert await projected(data) == [1, 2]


async def test_a_statement_that_waits_for_locks_never_counts(
    data: Pool, owner: asyncpg.Connection, tenant: UUID
) -> None:
    """No matter how many short waits there are: lock_timeout limits each of them."""

    async def fault(tx: Connection, _events: Sequence[LoggedEvent]) -> None:
        await tx.execute("SET LOCAL lock_timeout = 0")
        await tx.execute("SELECT count(*) FROM projected")

    await sequenced(data, tenant, 1)
    projection = Projection(fault)
    consumer = Consumer(data, projection)
    projection.apply = lambda tx, events: _look_only(projection, tx, events)  # type: ignore[method-assign] - no insert
    async with owner.transaction():
        await owner.execute("LOCK TABLE sandbox.projected IN ACCESS EXCLUSIVE MODE")
        errors = await fails(consumer, SLOW_TRIES + 2)
    assert len(errors) == SLOW_TRIES + 2
    assert all(isinstance(error, asyncpg.QueryCanceledError) for error in errors)
    assert await dead(data) == []
    assert await consumer.step() == 1


async def _look_only(projection: Projection, tx: Connection, events: Sequence[LoggedEvent]) -> Applied:
    assert projection.fault
    await projection.fault(tx, events)
    return Applied(len(events))


async def test_a_batch_that_ends_at_its_bytes_is_behind(
    data: Pool, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that ends with the log is not, whatever its size."""
    asked: list[bool] = []

    class Watching(Projection):
        async def ready(self, *, behind: bool) -> int:
            asked.append(behind)
            return 1000

    for _ in range(3):
        await events.record(data, tenant, "invoice_created", {"text": "x" * 8192})
    await sequence_all(data)
    monkeypatch.setattr(log.read_after, "__defaults__", (8_000,))
    consumer = Consumer(data, Watching(), batch_size=3)
    seen = []
    for _ in range(3):
        assert await consumer.step() == 1
        seen.append(consumer.behind)
    assert (seen, asked) == ([True, True, False], [False, True, True])
    assert await consumer.step() == 0
    monkeypatch.setattr(log.read_after, "__defaults__", (log.READ_BYTES,))
    await sequenced(data, tenant, 3)
    assert (await consumer.step(), consumer.behind) == (3, False)
    await sequenced(data, tenant, 4)
    assert (await consumer.step(), consumer.behind) == (3, True)


async def test_a_handler_that_took_only_some_is_behind(data: Pool, tenant: UUID) -> None:
    class Careful(Projection):
        async def apply(self, _tx: Connection, _events: Sequence[LoggedEvent]) -> Applied:
            return Applied(1)

    await sequenced(data, tenant, 2)
    consumer = Consumer(data, Careful())
    assert (await consumer.step(), consumer.behind) == (1, True)
    assert (await consumer.step(), consumer.behind) == (1, False)


async def test_another_workers_cursor_does_not_mean_behind(
    connect: Connect, data: Pool, tenant: UUID
) -> None:
    await sequenced(data, tenant, 1)
    holder = await connect()
    consumer = Consumer(data, Projection())
    async with holder.transaction():
        assert await log.take_cursor(holder, "projection")
        assert (await consumer.step(), consumer.behind) == (0, False)
    assert await consumer.step() == 1


async def test_workers_that_fail_in_turn_all_report_it(
    data: Pool, owner: asyncpg.Connection, tenant: UUID
) -> None:
    """A step that finds the cursor locked is no success; one that finds nothing left to apply is."""
    await sequenced(data, tenant, 3)
    stop, parts = asyncio.Event(), [PartFailures("first"), PartFailures("second")]

    async def work(part: PartFailures) -> None:
        enter_part(part)
        await Consumer(data, Projection()).run(stop)

    turns: list[int] = []
    async with owner.transaction():
        await owner.execute("LOCK TABLE sandbox.projected IN ACCESS EXCLUSIVE MODE")
        running = [asyncio.create_task(work(part)) for part in parts]
        while not all(part.total >= 3 for part in parts):
            await asyncio.sleep(0.01)
            turns.append(sum(part.any for part in parts))
    assert turns == sorted(turns), "a worker that has failed keeps reporting it"
    while any(part.any for part in parts):  # noqa: ASYNC110  nothing signals it
        await asyncio.sleep(0.01)
    stop.set()
    await asyncio.gather(*running)
    assert await projected(data) == [1, 2, 3]


async def test_a_waiting_worker_recovers_once_others_make_progress(
    data: Pool, owner: asyncpg.Connection, connect: Connect, tenant: UUID
) -> None:
    part = PartFailures("ours")
    enter_part(part)
    await sequenced(data, tenant, 2)
    await raise_in_trigger(owner, "55P03")
    consumer, other, stop = Consumer(data, Projection()), await connect(), asyncio.Event()

    async def step() -> None:
        await through_outages(stop, "consumer", consumer.step, conclusive=lambda _: consumer._conclusive)

    failing = asyncio.create_task(step())
    while not part.total:  # noqa: ASYNC110  nothing signals it
        await asyncio.sleep(0.01)
    async with other.transaction():
        cursor = await log.take_cursor(other, "projection")
        await failing
        assert cursor is not None
        assert part.any, "no event was applied"
        await log.move_cursor(other, cursor, 1)
    async with other.transaction():
        assert await log.take_cursor(other, "projection")
        await step()
    assert not part.any


async def test_sequencers_that_fail_in_turn_all_report_it(data: Pool, connect: Connect, tenant: UUID) -> None:
    part = PartFailures("ours")
    enter_part(part)
    part.failed("sequence events", TimeoutError())
    other, stop = await connect(), asyncio.Event()
    sequencer = Sequencer(data, stop.set)
    async with other.transaction():
        assert await other.fetchval("SELECT sequence_events(1)") is not None
        running = asyncio.create_task(sequencer.run(stop))
        await asyncio.sleep(0.1)  # in which it would look several times
        assert part.any, "another one is at it"
    await events.record(data, tenant, "invoice_created", {})
    await stop.wait()
    await running
    assert not part.any


async def test_a_projection_that_the_database_lost_dead_letters_nothing(
    data: Pool, owner: asyncpg.Connection, tenant: UUID
) -> None:
    """As after a restore of some of the tables."""
    await sequenced(data, tenant, 2)
    consumer = Consumer(data, ProjectionHandler(Activity()))
    await owner.execute(
        "CREATE TABLE public.kept AS SELECT * FROM sandbox.projections; DELETE FROM sandbox.projections"
    )
    for _ in range(3):
        with pytest.raises(Unavailable, match="row of activity"):
            await consumer.step()
    await owner.execute("INSERT INTO sandbox.projections SELECT * FROM public.kept")
    assert await consumer.step() == 2
    assert await data.fetchval("SELECT count(*) FROM dead_events") == 0
