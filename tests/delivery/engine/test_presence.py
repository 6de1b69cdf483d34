"""Who is alive is known without clocks, and what the dead held is taken over once.

A worker here is a Presence and some deliveries leased in its name. `look` is called by hand, so that each test decides who
looks when; only the patience is shortened.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from delivery.engine import presence as presence_module
from delivery.engine.presence import PATIENCE_S, Presence
from schema.connections.database import Database
from schema.deliveries import deliveries
from schema.modes import Mode
from schema.polling import through_outages
from tests.support.engine import add_endpoint, engine, running
from tests.support.events import record_many
from tests.support.servers.databases import Cluster
from tests.support.servers.pgbouncer import needs_pgbouncer, pgbouncer
from tests.support.servers.tcp_proxy import TcpProxy, proxying

REPOSITORY = Path(__file__).resolve().parents[3]
SOON_S = 0.05

LIVING_WORKER = """
import asyncio, sys
from delivery.engine.presence import Presence
from schema.connections.database import Database

async def main():
    async with Database.open(sys.argv[1], bytes.fromhex(sys.argv[2])) as database:
        presence = Presence(database, "a process")
        await presence.register()
        print(presence.worker_id, flush=True)
        await presence.run(asyncio.Event())

asyncio.run(main())
"""

NewWorker = Callable[[], Awaitable[Presence]]
Leasing = Callable[..., Awaitable[None]]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_module, "PATIENCE_S", SOON_S)


@pytest.fixture
async def new_worker(db_url: str, key: bytes) -> AsyncIterator[NewWorker]:
    """Registered workers, each with connections of its own, straight to the database."""
    async with AsyncExitStack() as stack:

        async def make() -> Presence:
            database = await stack.enter_async_context(Database.open(db_url, key, max_per_role=2))
            presence = Presence(database, "a worker")
            await presence.register()
            stack.callback(presence.close)
            return presence

        yield make


@pytest.fixture
async def proxy(db_url: str) -> AsyncIterator[TcpProxy]:
    async with proxying(db_url) as proxy:
        yield proxy


@pytest.fixture
async def far_worker(proxy: TcpProxy, db_url: str, key: bytes) -> AsyncIterator[Presence]:
    """A registered worker that reaches the database through the proxy."""
    async with Database.open(proxy.url(db_url), key, max_per_role=2) as database:
        presence = Presence(database, "a far worker")
        await presence.register()
        yield presence
        presence.close()


@pytest.fixture
async def lease(database: Database, tenant: UUID) -> Leasing:
    """`await lease(worker_id, count, mode)`: that worker holds so many new deliveries."""

    async def lease(worker_id: int, count: int, mode: Mode = Mode.TEST) -> None:
        endpoint = await add_endpoint(database, tenant, "https://example.com/", mode=mode)
        async with engine(database, mode=mode) as ours:
            await record_many(ours.pool, tenant, count)
            await ours.leave_waiting()
        async with database.data(mode).acquire() as tx, tx.transaction():
            held = await deliveries.claim(
                tx, deliveries.Lane.FIRST, [(endpoint, count)], deliveries.new_lease(), worker_id
            )
        assert len(held) == count

    return lease


async def held(database: Database, mode: Mode = Mode.TEST) -> int:
    count: int = await database.data(mode).fetchval(
        "SELECT count(*) FROM webhook_deliveries WHERE lease IS NOT NULL"
    )
    return count


async def registered(database: Database) -> set[int]:
    return {row["id"] for row in await database.core.fetch("SELECT id FROM workers")}


async def look(presence: Presence) -> None:
    """As `run` does, through whatever is the matter with the connection."""
    await through_outages(asyncio.Event(), "a look", presence.look)


async def look_with_patience(presence: Presence) -> None:
    """Twice, with the patience between."""
    await look(presence)
    await asyncio.sleep(SOON_S)
    await look(presence)


async def test_a_killed_process_is_noticed_and_its_leases_are_taken_over_within_ten_seconds(
    database: Database, new_worker: NewWorker, lease: Leasing, db_url: str, key: bytes
) -> None:
    """Both modes', and the observer's own stay as they are."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LIVING_WORKER, db_url, key.hex(), stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY
    )
    assert process.stdout is not None
    victim = int(await process.stdout.readline())
    observer = await new_worker()
    await lease(victim, 3)
    await lease(victim, 2, Mode.LIVE)
    await lease(observer.worker_id, 4)
    await observer.look()
    process.send_signal(signal.SIGKILL)
    await process.wait()

    async with asyncio.timeout(10):
        while observer.taken_over < 5:
            await observer.look()
    assert (await held(database), await held(database, Mode.LIVE)) == (4, 0)
    assert await registered(database) == {observer.worker_id}


@needs_pgbouncer
async def test_a_killed_process_is_noticed_although_a_pooler_keeps_its_session(
    cluster: Cluster, database: Database, new_worker: NewWorker, lease: Leasing, db_url: str, impatient: None
) -> None:
    async with pgbouncer(cluster, "session") as pooler:
        command = (sys.executable, "-c", LIVING_WORKER, pooler.url(db_url), cluster.key.hex())
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY
        )
        assert process.stdout is not None
        victim = int(await process.stdout.readline())
        observer = await new_worker()
        await lease(victim, 3)
        await look_with_patience(observer)
        assert (observer.taken_over, await held(database)) == (0, 3)
        session = await database.core.fetchval("SELECT pid FROM workers WHERE id = $1", victim)
        process.send_signal(signal.SIGKILL)
        await process.wait()

        async with asyncio.timeout(10):
            while observer.taken_over < 3:
                await look_with_patience(observer)
        assert await registered(database) == {observer.worker_id}
        assert await database.core.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", session)


async def test_the_living_are_left_alone(
    database: Database, new_worker: NewWorker, lease: Leasing, impatient: None
) -> None:
    one, other = await new_worker(), await new_worker()
    await lease(one.worker_id, 2)
    await lease(other.worker_id, 2)
    await look_with_patience(one)
    await look_with_patience(other)
    assert (one.taken_over, other.taken_over, await held(database)) == (0, 0, 4)


async def test_a_worker_that_is_back_when_it_is_to_be_declared_dead_is_left_alone(
    database: Database, new_worker: NewWorker, lease: Leasing
) -> None:
    """Between the last look and the declaration it may have come."""
    observer, back = await new_worker(), await new_worker()
    await lease(back.worker_id, 2)
    assert observer._guard is not None
    await observer._declare_dead(observer._guard, back.worker_id)
    assert (observer.taken_over, await held(database)) == (0, 2)
    assert back.worker_id in await registered(database)


async def test_a_worker_that_comes_back_in_time_keeps_its_id_and_its_leases(
    database: Database,
    far_worker: Presence,
    new_worker: NewWorker,
    proxy: TcpProxy,
    lease: Leasing,
    impatient: None,
) -> None:
    observer, own_id = await new_worker(), far_worker.worker_id
    await lease(own_id, 3)
    proxy.cut()
    await look(observer)
    await look(far_worker)
    await asyncio.sleep(SOON_S)
    await look(observer)
    await look_with_patience(observer)
    assert (far_worker.worker_id, observer.taken_over, await held(database)) == (own_id, 0, 3)


async def test_a_worker_that_is_back_before_the_server_noticed_keeps_its_id(
    database: Database,
    far_worker: Presence,
    new_worker: NewWorker,
    proxy: TcpProxy,
    lease: Leasing,
    impatient: None,
) -> None:
    """Its old session is still there, and ends only later."""
    observer, own_id = await new_worker(), far_worker.worker_id
    await lease(own_id, 3)
    proxy.cut_clients_alone()
    await look(far_worker)
    await look_with_patience(observer)
    proxy.tell_server()
    await look_with_patience(observer)
    assert (far_worker.worker_id, observer.taken_over, await held(database)) == (own_id, 0, 3)
    assert await registered(database) == {own_id, observer.worker_id}


async def test_when_all_sessions_end_at_once_nothing_is_taken_over(
    database: Database,
    new_worker: NewWorker,
    superuser: asyncpg.Connection,
    lease: Leasing,
    impatient: None,
) -> None:
    """A restart of the database frees every lock; whoever comes back first finds the others absent."""
    workers = [await new_worker() for _ in range(3)]
    before = [worker.worker_id for worker in workers]
    for worker_id in before:
        await lease(worker_id, 1)
    await superuser.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE usename = 'duro_core' AND datname = current_database()"
    )
    for worker in workers:
        await look(worker)
    for worker in workers:
        await look_with_patience(worker)
    assert [worker.worker_id for worker in workers] == before
    assert sum(worker.taken_over for worker in workers) == 0
    assert await held(database) == 3


async def test_a_worker_that_was_taken_for_dead_registers_anew(
    database: Database,
    far_worker: Presence,
    new_worker: NewWorker,
    proxy: TcpProxy,
    lease: Leasing,
    impatient: None,
) -> None:
    observer, old_id = await new_worker(), far_worker.worker_id
    await lease(old_id, 3)
    proxy.go_down()
    await look_with_patience(observer)
    assert (observer.taken_over, await held(database)) == (3, 0)
    proxy.come_back()
    await look(far_worker)
    assert far_worker.worker_id not in {old_id, observer.worker_id}
    assert await registered(database) == {far_worker.worker_id, observer.worker_id}
    await lease(far_worker.worker_id, 1)
    await look_with_patience(observer)
    assert await held(database) == 1, "under its new id it is alive"


async def test_of_many_observers_one_takes_over(
    database: Database,
    far_worker: Presence,
    new_worker: NewWorker,
    proxy: TcpProxy,
    lease: Leasing,
    impatient: None,
) -> None:
    observers = [await new_worker() for _ in range(4)]
    await lease(far_worker.worker_id, 20)
    proxy.go_down()
    await asyncio.gather(*(look_with_patience(observer) for observer in observers))
    assert sorted(observer.taken_over for observer in observers) == [0, 0, 0, 20]
    assert await registered(database) == {observer.worker_id for observer in observers}


async def test_a_worker_that_leaves_gives_back_at_once(
    database: Database, new_worker: NewWorker, lease: Leasing
) -> None:
    """What its drain left over is due before anybody has missed it."""
    leaving, staying = await new_worker(), await new_worker()
    await lease(leaving.worker_id, 3)
    await lease(leaving.worker_id, 2, Mode.LIVE)
    await lease(staying.worker_id, 1)
    async with running(leaving):
        pass
    assert (await held(database), await held(database, Mode.LIVE)) == (1, 0)
    assert await registered(database) == {staying.worker_id}


async def test_a_worker_that_left_can_come_again(database: Database, new_worker: NewWorker) -> None:
    worker = await new_worker()
    first_id = worker.worker_id
    async with running(worker):
        pass
    await look(worker)
    assert worker.worker_id != first_id
    assert await registered(database) == {worker.worker_id}


async def test_a_lease_in_a_name_that_nobody_bears_ends(
    database: Database, new_worker: NewWorker, lease: Leasing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dead one's last commit may land after the take-over. A fresh one is left alone: it may be a newcomer's."""
    worker = await new_worker()
    await lease(worker.worker_id + 1000, 2)
    await lease(worker.worker_id, 1)
    await worker.sweep()
    assert await held(database) == 3
    release = partial(deliveries.release_orphans, older_than=timedelta(0))
    monkeypatch.setattr(deliveries, "release_orphans", release)
    await worker.sweep()
    assert await held(database) == 1


async def test_a_silent_connection_is_dropped_so_that_a_new_one_can_be_made(
    far_worker: Presence, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "ANSWER_WITHIN_S", 0.2)
    own_id, guard = far_worker.worker_id, far_worker._guard
    assert guard is not None
    proxy.fall_silent()
    with pytest.raises(TimeoutError):
        await far_worker.look()
    assert guard.is_closed()
    proxy.come_back()
    monkeypatch.setattr(presence_module, "ANSWER_WITHIN_S", 10)
    await look(far_worker)
    assert far_worker.worker_id == own_id


def test_a_worker_tries_to_come_back_more_often_than_others_lose_patience() -> None:
    """Else a longer outage of the database would end with the workers taking over from each other."""
    assert presence_module.BACK_WITHIN_S + presence_module.LOOK_EVERY_S < PATIENCE_S
