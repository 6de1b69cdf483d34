"""Dead workers are found without clocks, and their deliveries are taken over once.

A worker here is a Presence and some deliveries leased in its name. Tests call `check` themselves, to decide which worker
checks when; only PATIENCE_S is shortened.
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
    """Creates registered workers with connections of their own to the database."""
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
    """`await lease(worker_id, count, mode)`: leases that many new deliveries to the worker."""

    async def lease(worker_id: int, count: int, mode: Mode = Mode.TEST) -> None:
        endpoint = await add_endpoint(database, tenant, "https://example.com/", mode=mode)
        async with engine(database, mode=mode) as ours:
            await record_many(ours.pool, tenant, count)
            await ours.leave_pending()
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


async def check(presence: Presence) -> None:
    """Checks as `run` does, with retries while the connection fails."""
    await through_outages(asyncio.Event(), "a check", presence.check)


async def check_twice(presence: Presence) -> None:
    """Checks twice, PATIENCE_S apart."""
    await check(presence)
    await asyncio.sleep(SOON_S)
    await check(presence)


async def test_leases_of_a_killed_process_are_taken_over_within_ten_seconds(
    database: Database, new_worker: NewWorker, lease: Leasing, db_url: str, key: bytes
) -> None:
    """Those of both modes; the observer keeps its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LIVING_WORKER, db_url, key.hex(), stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY
    )
    assert process.stdout is not None
    victim = int(await process.stdout.readline())
    observer = await new_worker()
    await lease(victim, 3)
    await lease(victim, 2, Mode.LIVE)
    await lease(observer.worker_id, 4)
    await observer.check()
    process.send_signal(signal.SIGKILL)
    await process.wait()

    async with asyncio.timeout(10):
        while observer.taken_over < 5:
            await observer.check()
    assert (await held(database), await held(database, Mode.LIVE)) == (4, 0)
    assert await registered(database) == {observer.worker_id}


@needs_pgbouncer
async def test_a_killed_process_is_found_although_a_pooler_keeps_its_session(
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
        await check_twice(observer)
        assert (observer.taken_over, await held(database)) == (0, 3)
        session = await database.core.fetchval("SELECT pid FROM workers WHERE id = $1", victim)
        process.send_signal(signal.SIGKILL)
        await process.wait()

        async with asyncio.timeout(10):
            while observer.taken_over < 3:
                await check_twice(observer)
        assert await registered(database) == {observer.worker_id}
        assert await database.core.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", session)


async def test_living_workers_keep_their_leases(
    database: Database, new_worker: NewWorker, lease: Leasing, impatient: None
) -> None:
    one, other = await new_worker(), await new_worker()
    await lease(one.worker_id, 2)
    await lease(other.worker_id, 2)
    await check_twice(one)
    await check_twice(other)
    assert (one.taken_over, other.taken_over, await held(database)) == (0, 0, 4)


async def test_a_worker_that_is_back_is_not_declared_dead(
    database: Database, new_worker: NewWorker, lease: Leasing
) -> None:
    """It came back between the last check and the declaration."""
    observer, back = await new_worker(), await new_worker()
    await lease(back.worker_id, 2)
    assert observer._session is not None
    await observer._declare_dead(observer._session, back.worker_id)
    assert (observer.taken_over, await held(database)) == (0, 2)
    assert back.worker_id in await registered(database)


async def test_a_worker_that_comes_back_in_time_keeps_its_leases(
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
    await check(observer)
    await check(far_worker)
    await asyncio.sleep(SOON_S)
    await check(observer)
    await check_twice(observer)
    assert (far_worker.worker_id, observer.taken_over, await held(database)) == (own_id, 0, 3)


async def test_a_worker_that_reconnects_before_the_server_notices_keeps_its_id(
    database: Database,
    far_worker: Presence,
    new_worker: NewWorker,
    proxy: TcpProxy,
    lease: Leasing,
    impatient: None,
) -> None:
    """Its old session ends later."""
    observer, own_id = await new_worker(), far_worker.worker_id
    await lease(own_id, 3)
    proxy.cut_clients()
    await check(far_worker)
    await check_twice(observer)
    proxy.close_server_side()
    await check_twice(observer)
    assert (far_worker.worker_id, observer.taken_over, await held(database)) == (own_id, 0, 3)
    assert await registered(database) == {own_id, observer.worker_id}


async def test_a_restart_of_the_database_causes_no_take_over(
    database: Database,
    new_worker: NewWorker,
    superuser: asyncpg.Connection,
    lease: Leasing,
    impatient: None,
) -> None:
    """All sessions end together, and the first worker back finds the others absent."""
    workers = [await new_worker() for _ in range(3)]
    before = [worker.worker_id for worker in workers]
    for worker_id in before:
        await lease(worker_id, 1)
    await superuser.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE usename = 'duro_core' AND datname = current_database()"
    )
    for worker in workers:
        await check(worker)
    for worker in workers:
        await check_twice(worker)
    assert [worker.worker_id for worker in workers] == before
    assert sum(worker.taken_over for worker in workers) == 0
    assert await held(database) == 3


async def test_a_worker_declared_dead_registers_again(
    database: Database,
    far_worker: Presence,
    new_worker: NewWorker,
    proxy: TcpProxy,
    lease: Leasing,
    impatient: None,
) -> None:
    observer, old_id = await new_worker(), far_worker.worker_id
    await lease(old_id, 3)
    proxy.shut_down()
    await check_twice(observer)
    assert (observer.taken_over, await held(database)) == (3, 0)
    proxy.restore()
    await check(far_worker)
    assert far_worker.worker_id not in {old_id, observer.worker_id}
    assert await registered(database) == {far_worker.worker_id, observer.worker_id}
    await lease(far_worker.worker_id, 1)
    await check_twice(observer)
    assert await held(database) == 1, "it is alive under its new id"


async def test_one_of_many_observers_takes_over(
    database: Database,
    far_worker: Presence,
    new_worker: NewWorker,
    proxy: TcpProxy,
    lease: Leasing,
    impatient: None,
) -> None:
    observers = [await new_worker() for _ in range(4)]
    await lease(far_worker.worker_id, 20)
    proxy.shut_down()
    await asyncio.gather(*(check_twice(observer) for observer in observers))
    assert sorted(observer.taken_over for observer in observers) == [0, 0, 0, 20]
    assert await registered(database) == {observer.worker_id for observer in observers}


async def test_a_worker_that_leaves_releases_its_leases_immediately(
    database: Database, new_worker: NewWorker, lease: Leasing
) -> None:
    """Deliveries left after its drain are due without a take-over."""
    leaving, staying = await new_worker(), await new_worker()
    await lease(leaving.worker_id, 3)
    await lease(leaving.worker_id, 2, Mode.LIVE)
    await lease(staying.worker_id, 1)
    async with running(leaving):
        pass
    assert (await held(database), await held(database, Mode.LIVE)) == (1, 0)
    assert await registered(database) == {staying.worker_id}


async def test_a_worker_that_left_can_register_again(database: Database, new_worker: NewWorker) -> None:
    worker = await new_worker()
    first_id = worker.worker_id
    async with running(worker):
        pass
    await check(worker)
    assert worker.worker_id != first_id
    assert await registered(database) == {worker.worker_id}


async def test_leases_of_unregistered_workers_are_released(
    database: Database, new_worker: NewWorker, lease: Leasing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead worker may commit after the take-over. A recent lease stays: its worker may just have registered."""
    worker = await new_worker()
    await lease(worker.worker_id + 1000, 2)
    await lease(worker.worker_id, 1)
    await worker.sweep()
    assert await held(database) == 3
    release = partial(deliveries.release_orphans, older_than=timedelta(0))
    monkeypatch.setattr(deliveries, "release_orphans", release)
    await worker.sweep()
    assert await held(database) == 1


async def test_a_silent_connection_is_replaced(
    far_worker: Presence, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "ANSWER_WITHIN_S", 0.2)
    own_id, guard = far_worker.worker_id, far_worker._session
    assert guard is not None
    proxy.stop_forwarding()
    with pytest.raises(TimeoutError):
        await far_worker.check()
    assert guard.is_closed()
    proxy.restore()
    monkeypatch.setattr(presence_module, "ANSWER_WITHIN_S", 10)
    await check(far_worker)
    assert far_worker.worker_id == own_id


def test_a_worker_reconnects_before_others_lose_patience() -> None:
    """Otherwise the workers would take over from each other after a long outage of the database."""
    assert presence_module.RECONNECT_WITHIN_S + presence_module.CHECK_EVERY_S < PATIENCE_S
