"""The catch-up loop: effect and cursor commit together, only a poison event is dead-lettered, transient errors are retried."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import asyncpg
import pytest

from consumers import consumer as loop
from consumers.consumer import Applied, Consumer
from schema.connections.database import Connection, Database, Executor, Pool
from schema.event_log import log
from schema.event_log.log import LoggedEvent
from schema.modes import Mode
from schema.polling import PollTimer
from tests.support.arrivals import Arrivals
from tests.support.events import sequenced
from tests.support.servers.connections import Connect

Fault = Callable[[Connection, Sequence[LoggedEvent]], Awaitable[None]]


class Outcome:
    def __init__(self, outcomes: list[str]) -> None:
        self._outcomes = outcomes

    def committed(self) -> None:
        self._outcomes.append("committed")

    def rolled_back(self) -> None:
        self._outcomes.append("rolled back")


class Projection:
    """Writes one row for each event, and then fails in the way that the test asks for."""

    def __init__(self, name: str = "projection") -> None:
        self.name = name
        self.fault: Fault | None = None
        self.applied = asyncio.Event()
        self.outcomes: list[str] = []
        self.most = 1000
        self.wants = 1000

    async def ready(self, *, behind: bool) -> int:  # noqa: ARG002
        return self.wants

    async def apply(self, tx: Connection, events: Sequence[LoggedEvent]) -> Applied:
        events = events[: self.most]
        await tx.executemany(
            "INSERT INTO projected (consumer, pos) VALUES ($1, $2)",
            [(self.name, event.pos) for event in events],
        )
        if self.fault:
            await self.fault(tx, events)
        self.applied.set()
        return Applied(len(events), Outcome(self.outcomes))


@pytest.fixture
async def data(database: Database, owner: asyncpg.Connection) -> Pool:
    """Its table accepts an event twice, so that a test sees it."""
    await owner.execute(
        "INSERT INTO sandbox.consumers (name) VALUES ('projection'), ('broken'), ('sound');"
        "CREATE TABLE sandbox.projected (number serial, consumer text, pos bigint);"
        "GRANT SELECT, INSERT ON sandbox.projected TO duro_sandbox;"
        "GRANT USAGE ON SEQUENCE sandbox.projected_number_seq TO duro_sandbox"
    )
    return database.data(Mode.TEST)


@pytest.fixture
def projection() -> Projection:
    return Projection()


@pytest.fixture
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead-letters poison after one try, for tests that are not about the pauses between tries."""
    monkeypatch.setattr(loop, "TRIES_PER_BATCH", 1)


async def projected(data: Pool, consumer: str = "projection") -> list[int]:
    rows = await data.fetch("SELECT pos FROM projected WHERE consumer = $1 ORDER BY number", consumer)
    return [row["pos"] for row in rows]


async def dead(data: Pool, consumer: str = "projection") -> dict[int, str]:
    return {entry.pos: entry.error for entry in await log.dead_events(data, consumer, 0, 1000)}


async def step_to_the_end(consumer: Consumer) -> None:
    while await consumer.step():
        pass


def poison(*positions: int) -> Fault:
    async def fault(_tx: Connection, events: Sequence[LoggedEvent]) -> None:
        for event in events:
            if event.pos in positions:
                raise LookupError(f"no plan for {event.pos}")

    return fault


def once(fault: Fault) -> Fault:
    armed = [fault]

    async def first_time(tx: Connection, events: Sequence[LoggedEvent]) -> None:
        if armed:
            await armed.pop()(tx, events)

    return first_time


async def kill_own_backend(tx: Connection, _events: Sequence[LoggedEvent]) -> None:
    await tx.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    await tx.execute("SELECT 1")


async def test_events_are_applied_in_order_batch_by_batch(
    data: Pool, projection: Projection, tenant: UUID
) -> None:
    await sequenced(data, tenant, 7)
    consumer = Consumer(data, projection, batch_size=3)
    assert [await consumer.step() for _ in range(4)] == [3, 3, 1, 0]
    assert await projected(data) == [1, 2, 3, 4, 5, 6, 7]
    assert consumer.applied == 7
    assert projection.outcomes == ["committed"] * 3


async def test_events_that_a_handler_leaves_come_again(
    data: Pool, projection: Projection, tenant: UUID
) -> None:
    await sequenced(data, tenant, 5)
    projection.most = 2
    consumer = Consumer(data, projection)
    assert [await consumer.step() for _ in range(4)] == [2, 2, 1, 0]
    assert await projected(data) == [1, 2, 3, 4, 5]


async def test_a_handler_gets_at_most_as_many_events_as_it_asks_for(
    data: Pool, projection: Projection, tenant: UUID
) -> None:
    await sequenced(data, tenant, 9)
    consumer = Consumer(data, projection, batch_size=4)
    moved = []
    for projection.wants in (1, 3, 100, 100):
        moved.append(await consumer.step())
    assert moved == [1, 3, 4, 1]
    assert await projected(data) == list(range(1, 10))


async def test_a_handler_that_is_not_ready_holds_no_cursor(data: Pool, tenant: UUID) -> None:
    """`ready` is awaited before the cursor is locked."""
    await sequenced(data, tenant, 2)
    busy, free = Projection(), Projection()
    asked, answer = asyncio.Event(), asyncio.Event()

    async def ready(*, behind: bool) -> int:
        asked.set()
        await answer.wait()
        return 10

    busy.ready = ready  # type: ignore[method-assign] - this one waits
    stepping = asyncio.create_task(Consumer(data, busy).step())
    await asked.wait()
    assert await Consumer(data, free).step() == 2
    answer.set()
    assert await stepping == 0
    assert await projected(data) == [1, 2]


async def test_a_hint_saves_a_query_and_a_wrong_hint_is_harmless(
    data: Pool, projection: Projection, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, backlog = 0, log.backlog

    async def counted(connection: Executor, consumer: str) -> int:
        nonlocal looks
        looks += 1
        return await backlog(connection, consumer)

    steps: Arrivals[int] = Arrivals()

    class Watched(Consumer):
        async def step(self) -> int:
            moved = await super().step()
            steps.add(moved)
            return moved

    monkeypatch.setattr(log, "backlog", counted)
    consumer = Watched(data, projection)
    consumer.poll_timer = PollTimer(first=3600, most=3600)
    stop = asyncio.Event()
    running = asyncio.create_task(consumer.run(stop))
    await steps.count(1)
    consumer.poll_timer.hint()
    await steps.count(2)
    await sequenced(data, tenant, 1)
    assert looks == 1, "before the first hint"
    consumer.poll_timer.hint()
    await steps.count(4)
    assert (list(steps), looks) == ([0, 0, 1, 0], 2), "and after the work was done"
    stop.set()
    consumer.poll_timer.hint()
    await running
    assert await projected(data) == [1]


async def test_a_batch_that_fails_midway_is_applied_once(
    data: Pool, projection: Projection, tenant: UUID
) -> None:
    """Its rows are rolled back with the cursor's move, and the next try writes them."""
    await sequenced(data, tenant, 3)
    projection.fault = once(poison(2))
    consumer = Consumer(data, projection)
    assert await consumer.step() == 3
    assert await projected(data) == [1, 2, 3]
    assert await dead(data) == {}


async def test_a_failed_commit_is_reported_as_rolled_back(
    data: Pool, projection: Projection, owner: asyncpg.Connection, tenant: UUID, one_try: None
) -> None:
    await sequenced(data, tenant, 1)
    await owner.execute(
        """
        CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'no commit today' USING ERRCODE = '22023'; END $$;
        CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON sandbox.projected
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.fail();
        """
    )
    consumer = Consumer(data, projection)
    assert await consumer.step() == 1
    assert projection.outcomes == ["rolled back"]
    assert await projected(data) == []
    assert await dead(data) == {1: "InvalidParameterValueError: no commit today"}


@pytest.mark.parametrize("bad", [(1,), (5,), (8,), (2, 3), (1, 8), (1, 2, 3, 4, 5, 6, 7, 8)])
async def test_only_the_poison_event_is_dead_lettered_with_its_error(
    data: Pool, projection: Projection, tenant: UUID, one_try: None, bad: tuple[int, ...]
) -> None:
    await sequenced(data, tenant, 8)
    projection.fault = poison(*bad)
    consumer = Consumer(data, projection, batch_size=8)
    await step_to_the_end(consumer)
    assert await projected(data) == [pos for pos in range(1, 9) if pos not in bad]
    assert await dead(data) == {pos: f"LookupError: no plan for {pos}" for pos in bad}
    assert (consumer.applied, consumer.dead_lettered) == (8 - len(bad), len(bad))


async def test_poison_is_tried_several_times_before_it_is_dead_lettered(
    data: Pool, projection: Projection, tenant: UUID
) -> None:
    await sequenced(data, tenant, 1)
    tries = 0

    async def fault(_tx: Connection, _events: Sequence[LoggedEvent]) -> None:
        nonlocal tries
        tries += 1
        raise LookupError

    projection.fault = fault
    await Consumer(data, projection).step()
    assert tries == loop.TRIES_PER_BATCH > 1


async def test_after_poison_batches_grow_again(
    data: Pool, projection: Projection, tenant: UUID, one_try: None
) -> None:
    await sequenced(data, tenant, 20)
    projection.fault = poison(1)
    consumer = Consumer(data, projection, batch_size=8)
    moved = []
    while step := await consumer.step():
        moved.append(step)
    assert moved[:4] == [8, 4, 2, 1]  # halved until the single event was dead-lettered
    assert moved[4:] == [1, 2, 4, 8, 4]


async def test_a_dead_lettered_event_can_be_applied_later_once(
    data: Pool, projection: Projection, tenant: UUID, one_try: None
) -> None:
    await sequenced(data, tenant, 2)
    projection.fault = poison(1)
    consumer = Consumer(data, projection)
    await step_to_the_end(consumer)
    event = await log.read_one(data, 1)
    assert event
    with pytest.raises(LookupError):
        await consumer.retry_dead_event(event)
    assert list(await dead(data)) == [1]

    projection.fault = None
    assert await consumer.retry_dead_event(event)
    assert not await consumer.retry_dead_event(event)
    assert await dead(data) == {}
    assert await projected(data) == [2, 1]


async def test_a_retry_whose_commit_fails_is_reported_as_rolled_back(
    data: Pool, projection: Projection, owner: asyncpg.Connection, tenant: UUID, one_try: None
) -> None:
    await test_a_failed_commit_is_reported_as_rolled_back(data, projection, owner, tenant, one_try)
    event = await log.read_one(data, 1)
    assert event
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await Consumer(data, projection).retry_dead_event(event)
    assert projection.outcomes == ["rolled back", "rolled back"]
    assert list(await dead(data)) == [1]


async def test_a_killed_backend_dead_letters_nothing(
    data: Pool, projection: Projection, tenant: UUID
) -> None:
    await sequenced(data, tenant, 3)
    projection.fault = once(kill_own_backend)
    consumer = Consumer(data, projection)
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.InterfaceError)):
        await consumer.step()
    assert await consumer.step() == 3
    assert await projected(data) == [1, 2, 3]
    assert await dead(data) == {}


async def test_the_loop_survives_killed_backends(data: Pool, projection: Projection, tenant: UUID) -> None:
    await sequenced(data, tenant, 3)
    projection.fault = once(kill_own_backend)
    consumer = Consumer(data, projection, batch_size=10)
    stop = asyncio.Event()
    running = asyncio.create_task(consumer.run(stop))
    async with asyncio.timeout(20):
        await projection.applied.wait()
        projection.applied.clear()
        await sequenced(data, tenant, 2)
        await projection.applied.wait()
    stop.set()
    await running
    assert await projected(data) == [1, 2, 3, 4, 5]
    assert await dead(data) == {}


async def test_two_workers_apply_each_event_once_and_in_order(
    database: Database, data: Pool, tenant: UUID
) -> None:
    await sequenced(data, tenant, 300)
    stop = asyncio.Event()

    async def stop_at_the_end(_tx: Connection, events: Sequence[LoggedEvent]) -> None:
        if events[-1].pos == 300:
            stop.set()

    workers = [Projection() for _ in range(3)]
    for worker in workers:
        worker.fault = stop_at_the_end
    async with asyncio.timeout(20):
        await asyncio.gather(*(Consumer(data, worker, batch_size=5).run(stop) for worker in workers))
    assert await projected(data) == list(range(1, 301))
    assert sum(worker.outcomes.count("committed") for worker in workers) == 60


async def test_a_worker_waits_while_another_has_the_cursor(
    connect: Connect, data: Pool, projection: Projection, tenant: UUID
) -> None:
    await sequenced(data, tenant, 1)
    other = await connect()
    async with other.transaction():
        assert await log.take_cursor(other, projection.name)
        assert await Consumer(data, projection).step() == 0
    assert await Consumer(data, projection).step() == 1


async def test_a_failing_consumer_does_not_delay_another(data: Pool, tenant: UUID, one_try: None) -> None:
    await sequenced(data, tenant, 4)
    broken, sound = Projection("broken"), Projection("sound")
    broken.fault = poison(1, 2, 3, 4)
    await Consumer(data, broken).step()
    assert await Consumer(data, sound).step() == 4
    assert await projected(data, "sound") == [1, 2, 3, 4]


async def test_cursors_do_not_pile_up(data: Pool, projection: Projection, tenant: UUID) -> None:
    await sequenced(data, tenant, 40)
    await step_to_the_end(Consumer(data, projection, batch_size=1))
    assert await data.fetchval("SELECT array_agg(pos) FROM cursors") == [40]


async def test_an_idle_step_writes_nothing(data: Pool, projection: Projection, tenant: UUID) -> None:
    await sequenced(data, tenant, 1)
    consumer = Consumer(data, projection)
    await step_to_the_end(consumer)
    before = await data.fetchval("SELECT array_agg(xmin::text) FROM cursors")
    outcomes = list(projection.outcomes)
    assert [await consumer.step() for _ in range(3)] == [0, 0, 0]
    assert await data.fetchval("SELECT array_agg(xmin::text) FROM cursors") == before
    assert projection.outcomes == outcomes
