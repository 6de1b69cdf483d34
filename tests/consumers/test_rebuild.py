"""A projection is built beside the serving generation and replaces it. Each generation has every event once."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

import asyncpg
import pytest

from consumers import consumer as loop
from consumers import rebuild as rebuilding
from consumers.consumer import Consumer
from consumers.projection_handlers import NotBeingBuilt, ProjectionHandler, RebuildHandler
from consumers.rebuild import Progress, Rebuild
from consumers.sequencing import Sequencer
from schema.connections.database import Connection, Database, Pool
from schema.event_log import log
from schema.event_log.log import LoggedEvent
from schema.modes import Mode
from schema.read_models import projections
from schema.read_models.projections import Generations
from tests.support.database_waits import until
from tests.support.engine import running
from tests.support.events import record_many, sequenced
from tests.support.servers.connections import Connect


class Notes:
    """Writes a row for each event; a second row for one event is an error."""

    name = "notes"

    def __init__(self) -> None:
        self.poison: set[int] = set()
        self.batches = 0

    async def project(self, tx: Connection, generation: int, events: Sequence[LoggedEvent]) -> None:
        self.batches += 1
        if bad := self.poison.intersection(event.pos for event in events):
            raise LookupError(f"no plan for {min(bad)}")
        await tx.executemany(
            "INSERT INTO notes (generation, pos, created_at) VALUES ($1, $2, $3)",
            [(generation, event.pos, event.created_at) for event in events],
        )


@pytest.fixture
async def data(database: Database, owner: asyncpg.Connection) -> Pool:
    await owner.execute(
        "CREATE TABLE notes (generation integer, pos bigint, created_at timestamptz,"
        " PRIMARY KEY (generation, pos, created_at)) PARTITION BY LIST (generation);"
        "SELECT add_projection('notes', 'notes');"
        "GRANT SELECT, INSERT ON notes TO duro_sandbox"
    )
    return database.data(Mode.TEST)


@pytest.fixture(autouse=True)
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "TRIES_PER_BATCH", 1)


def small_batches(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(
        rebuilding,
        "RebuildHandler",
        lambda projection: RebuildHandler(projection, batch_size=size),
        raising=True,
    )


async def serve(data: Pool, notes: Notes | None = None) -> None:
    """Brings the serving generation up to date."""
    consumer = Consumer(data, ProjectionHandler(notes or Notes()))
    while await consumer.step():
        pass


async def noted(data: Pool) -> dict[int, list[int]]:
    rows = await data.fetch("SELECT generation, pos FROM notes ORDER BY generation, pos")
    found: dict[int, list[int]] = {}
    for row in rows:
        found.setdefault(row["generation"], []).append(row["pos"])
    return found


async def arrived(data: Pool, total: int) -> None:
    """Waits until the running consumer has applied so many events. Its two loops send no signal."""
    while (await projections.consumer_progress(data, "notes")).pos < total:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def tables(owner: asyncpg.Connection) -> list[str]:
    """The existing generations."""
    return [
        row["name"]
        for row in await owner.fetch(
            "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
            " WHERE inhparent = 'notes'::regclass ORDER BY 1"
        )
    ]


async def finished(rebuild: Rebuild) -> Progress:
    *_, last = [progress async for progress in rebuild.run(asyncio.Event())]
    assert last.finished
    return last


async def test_the_built_generation_replaces_the_serving_one(
    data: Pool, tenant: UUID, owner: asyncpg.Connection
) -> None:
    await sequenced(data, tenant, 7)
    await serve(data)
    rebuild = Rebuild(data, Notes())
    steps = [progress async for progress in rebuild.run(asyncio.Event())]
    assert [(p.total, p.left, p.applied, p.finished) for p in steps] == [
        (7, 7, 0, False),
        (7, 0, 7, False),
        (7, 0, 7, True),
    ]
    assert await projections.generations(data, "notes") == Generations(serving=2, building=None)
    assert await noted(data) == {1: [*range(1, 8)], 2: [*range(1, 8)]}, (
        "the old generation stays until dropped"
    )
    await projections.drop_generations(data, "notes")
    assert await tables(owner) == ["notes_g2"]
    await sequenced(data, tenant, 2)
    await serve(data)
    assert await noted(data) == {2: [*range(1, 10)]}, "its consumer continues where the builder stopped"


async def test_the_serving_generation_keeps_up_during_a_rebuild(
    data: Pool, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch, 3)
    await sequenced(data, tenant, 60)
    serving = Consumer(data, ProjectionHandler(Notes(), batch_size=2))
    async with running(serving, Sequencer(data, serving.poll_timer.hint)):
        for _ in range(3):
            rebuild = Rebuild(data, Notes(), share=1)
            async for progress in rebuild.run(asyncio.Event()):
                if not progress.finished:
                    await record_many(data, tenant, 1)  # slower than the rebuild, or it would never catch up
            await projections.drop_generations(data, "notes")
        total = await data.fetchval("SELECT count(*) FROM events")
        await arrived(data, total)
    assert await noted(data) == {4: [*range(1, total + 1)]}


@pytest.mark.parametrize("batches", range(4))
async def test_a_rebuild_interrupted_after_any_batch_resumes_there(
    data: Pool, tenant: UUID, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    small_batches(monkeypatch, 3)
    await sequenced(data, tenant, 10)
    stop = asyncio.Event()
    async for progress in Rebuild(data, Notes()).run(stop):
        if progress.applied >= 3 * batches:
            stop.set()
    assert (await projections.generations(data, "notes")).building == 2
    notes = Notes()
    last = await finished(Rebuild(data, notes))
    assert last.resumed
    assert last.applied == 10 - 3 * batches
    assert (await noted(data))[2] == [*range(1, 11)]


async def test_a_batch_whose_session_dies_is_applied_again(
    data: Pool, tenant: UUID, superuser: asyncpg.Connection
) -> None:
    await sequenced(data, tenant, 5)

    class Dying(Notes):
        async def project(self, tx: Connection, generation: int, events: Sequence[LoggedEvent]) -> None:
            await super().project(tx, generation, events)
            if self.batches == 1:
                pid = await tx.fetchval("SELECT pg_backend_pid()")
                await superuser.execute("SELECT pg_terminate_backend($1)", pid)

    await finished(Rebuild(data, Dying()))
    assert (await noted(data))[2] == [1, 2, 3, 4, 5]


async def test_two_processes_share_one_rebuild(
    data: Pool, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch, 1)
    await sequenced(data, tenant, 30)
    both = await asyncio.gather(*(finished(Rebuild(data, Notes(), share=1)) for _ in range(2)))
    assert sum(last.applied for last in both) == 30
    assert (await noted(data))[2] == [*range(1, 31)]


async def test_a_rebuild_dead_letters_events_for_the_projection(data: Pool, tenant: UUID) -> None:
    events = await sequenced(data, tenant, 4)
    broken = Notes()
    broken.poison = {2}
    await serve(data, broken)
    broken.poison = {3}
    last = await finished(Rebuild(data, broken))
    assert last.dead == 1
    assert [event.pos for event in await log.dead_events(data, "notes", 0, 10)] == [3], (
        "the old generation's are gone"
    )
    assert await log.dead_events(data, "notes_rebuild", 0, 10) == []
    assert await Consumer(data, ProjectionHandler(Notes())).retry_dead_event(events[2])
    assert sorted((await noted(data))[2]) == [1, 2, 3, 4]


async def test_abandoning_keeps_the_serving_generation_and_stops_builders(
    data: Pool, tenant: UUID, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch, 1)
    await sequenced(data, tenant, 5)
    await serve(data)

    async def build() -> None:
        async for progress in Rebuild(data, Notes()).run(asyncio.Event()):
            if progress.applied == 2:
                assert await projections.abandon_rebuild(data, "notes")

    with pytest.raises(NotBeingBuilt):
        await build()
    assert not await projections.abandon_rebuild(data, "notes")
    await projections.drop_generations(data, "notes")
    assert await tables(owner) == ["notes_g1"]
    assert await noted(data) == {1: [1, 2, 3, 4, 5]}
    assert await log.dead_events(data, "notes_rebuild", 0, 10) == []
    await finished(Rebuild(data, Notes()))
    assert (await noted(data))[3] == [1, 2, 3, 4, 5], "no number is reused"


async def test_a_reader_delays_only_the_drop(
    data: Pool, tenant: UUID, owner: asyncpg.Connection, connect: Connect
) -> None:
    await sequenced(data, tenant, 3)
    reader = await connect()
    transaction = reader.transaction()
    await transaction.start()
    await reader.fetch("SELECT * FROM notes")
    await finished(Rebuild(data, Notes()))
    with pytest.raises(asyncpg.LockNotAvailableError):
        await projections.drop_generations(data, "notes")
    await finished(Rebuild(data, Notes()))
    assert await projections.abandon_rebuild(data, "notes") is False
    await projections.begin_rebuild(data, "notes")
    assert await projections.abandon_rebuild(data, "notes"), "abandoning does not wait either"
    await transaction.rollback()
    assert await tables(owner) == ["notes_g1", "notes_g2", "notes_g3", "notes_g4"]
    assert await projections.drop_generations(data, "notes") == 3
    assert await tables(owner) == ["notes_g3"]


async def test_concurrent_drops_do_not_fail(
    data: Pool, tenant: UUID, owner: asyncpg.Connection, connect: Connect
) -> None:
    await sequenced(data, tenant, 3)
    await finished(Rebuild(data, Notes()))
    first, second = await connect(), await connect()
    dropping = first.transaction()
    await dropping.start()
    assert await first.fetchval("SELECT drop_generations('notes')") == 1
    other = asyncio.create_task(second.fetchval("SELECT drop_generations('notes')"))
    with suppress(asyncpg.LockNotAvailableError):
        await asyncio.sleep(0)
        await dropping.commit()
        assert await other == 0
    assert await tables(owner) == ["notes_g2"]


async def test_a_dead_event_retry_and_the_replacement_take_turns(
    data: Pool, tenant: UUID, owner: asyncpg.Connection
) -> None:
    """Whichever is first, the serving generation then has the event once."""
    (event,) = await sequenced(data, tenant, 1)
    broken = Notes()
    broken.poison = {1}
    await serve(data, broken)
    await projections.begin_rebuild(data, "notes")
    builder = Consumer(data, RebuildHandler(Notes()))
    while await builder.step():
        pass
    reached, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Notes):
        async def project(self, tx: Connection, generation: int, events: Sequence[LoggedEvent]) -> None:
            reached.set()
            await go_on.wait()
            await super().project(tx, generation, events)

    retrying = asyncio.create_task(Consumer(data, ProjectionHandler(Slow())).retry_dead_event(event))
    await reached.wait()
    exchanging = asyncio.create_task(projections.finish_rebuild(data, "notes"))
    await until(owner, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')")
    go_on.set()
    assert await asyncio.gather(retrying, exchanging) == [True, True]
    assert await noted(data) == {1: [1], 2: [1]}
    assert await log.dead_events(data, "notes", 0, 10) == []


async def test_a_new_generation_has_every_month_of_the_log(
    data: Pool, tenant: UUID, owner: asyncpg.Connection
) -> None:
    await owner.execute("SELECT ensure_past_partitions(now() - interval '3 months')")
    await owner.execute(
        "SELECT record_event($1, 'invoice_created', '{}', now() - interval '75 days')", tenant
    )
    await sequenced(data, tenant, 1)
    await finished(Rebuild(data, Notes()))
    assert (await noted(data))[2] == [1, 2]
    ahead = await owner.fetchval("SELECT partitions_ahead()")
    await owner.execute("SELECT ensure_partitions()")
    assert ahead <= await owner.fetchval("SELECT partitions_ahead()") == 12


async def test_as_of_is_the_first_unapplied_events_time_or_now(data: Pool, tenant: UUID) -> None:
    async def now() -> object:
        return await data.fetchval("SELECT clock_timestamp()")

    before = await now()
    assert before <= await projections.as_of(data, "notes") <= await now()
    (first, _) = await record_many(data, tenant, 2)
    created = await data.fetchval("SELECT created_at FROM events WHERE id = $1", first)
    assert await projections.as_of(data, "notes") == created, "it is not sequenced yet"
    await log.sequence(data, 100)
    assert await projections.as_of(data, "notes") == created
    await serve(data)
    before = await now()
    assert before <= await projections.as_of(data, "notes") <= await now()
