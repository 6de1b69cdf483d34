"""A take-over or sweep that is blocked or fails stops neither the worker's checks nor the other take-overs.

Dead workers here are rows of `workers` without a session; the obstacle is a lock or an error of the server.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from functools import partial
from uuid import UUID

import asyncpg
import pytest

from delivery.engine import presence as presence_module
from delivery.engine.presence import Presence
from schema.connections.database import Database
from schema.deliveries import deliveries
from schema.modes import Mode
from tests.support.deliveries import Queue, new_endpoint
from tests.support.servers.connections import OWNER, Connect
from tests.support.servers.duro_process import eventually

DIE = "INSERT INTO core.workers (name, pid, session_start) VALUES ('a dead worker', 1, '-infinity') RETURNING id"
LOCK_TABLE = "LOCK TABLE sandbox.webhook_deliveries IN ACCESS EXCLUSIVE MODE"
LOCK_WAITS = (
    "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'sandbox.webhook_deliveries'::regclass"
)

Leasing = Callable[[int, int], Awaitable[list[UUID]]]


@pytest.fixture
async def presence(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Presence]:
    """A registered worker with PATIENCE_S = 0."""
    monkeypatch.setattr(presence_module, "PATIENCE_S", 0.0)
    presence = Presence(database, "a worker")
    await presence.register()
    yield presence
    presence.close()
    await asyncio.sleep(0)  # the event loop closes terminated connections


@pytest.fixture
async def lease(database: Database, tenant: UUID) -> Leasing:
    """`await lease(worker_id, count)`: leases that many new deliveries to the worker, and returns them."""
    queue = Queue(database.data(Mode.TEST), tenant, await new_endpoint(database, tenant))

    async def lease(worker_id: int, count: int) -> list[UUID]:
        await queue.add(count)
        return [claim.id for claim in await queue.claim(count, worker=worker_id)]

    return lease


@pytest.fixture
async def other(connect: Connect) -> AsyncIterator[asyncpg.Connection]:
    """Another session, inside a transaction."""
    other = await connect(OWNER)
    await other.execute("BEGIN")
    yield other
    await other.execute("ROLLBACK")


@pytest.fixture
def orphans_immediately(monkeypatch: pytest.MonkeyPatch) -> None:
    release = partial(deliveries.release_orphans, older_than=timedelta(0))
    monkeypatch.setattr(deliveries, "release_orphans", release)


async def held(owner: asyncpg.Connection) -> set[UUID]:
    rows = await owner.fetch("SELECT id FROM sandbox.webhook_deliveries WHERE lease IS NOT NULL")
    return {row["id"] for row in rows}


async def registered(owner: asyncpg.Connection) -> set[int]:
    return {row["id"] for row in await owner.fetch("SELECT id FROM core.workers")}


async def test_a_locked_delivery_does_not_block_a_take_over(
    presence: Presence,
    lease: Leasing,
    owner: asyncpg.Connection,
    other: asyncpg.Connection,
    orphans_immediately: None,
) -> None:
    """It stays leased to an unregistered worker, and a sweep finds it once it is unlocked."""
    for _ in range(2):
        locked, _free = await lease(await owner.fetchval(DIE), 2)
        await other.execute("SELECT FROM sandbox.webhook_deliveries WHERE id = $1 FOR UPDATE", locked)
    async with asyncio.timeout(5):
        await presence.check()
        assert await registered(owner) == {presence.worker_id}
        assert (presence.taken_over, len(await held(owner))) == (2, 2)
        await presence.sweep()
        assert len(await held(owner)) == 2
        await other.execute("COMMIT")
        await presence.sweep()
        assert await held(owner) == set()


@pytest.mark.parametrize("error", ["lock_not_available", "raise_exception"])
async def test_a_take_over_that_always_fails_does_not_block_the_next(
    presence: Presence,
    lease: Leasing,
    owner: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
    error: str,
) -> None:
    """Whether or not the error is transient."""
    first, last = await owner.fetchval(DIE), await owner.fetchval(DIE)
    (stays,) = await lease(first, 1)
    await lease(last, 1)
    await owner.execute(
        "CREATE FUNCTION sandbox.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE {error} USING MESSAGE = 'refused'; END $$;"
        " CREATE TRIGGER refuse BEFORE UPDATE ON sandbox.webhook_deliveries"
        f" FOR EACH ROW WHEN (OLD.leased_by = {first}) EXECUTE FUNCTION sandbox.refuse()"
    )
    await presence.check()
    assert await held(owner) == {stays}
    assert await registered(owner) == {presence.worker_id, first}
    assert f"take over from a dead worker failed: worker {first}: refused" in caplog.text
    await owner.execute("DROP TRIGGER refuse ON sandbox.webhook_deliveries")
    await presence.check()
    assert await held(owner) == set()


async def test_a_worker_checks_while_its_sweep_waits(
    presence: Presence, owner: asyncpg.Connection, other: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the server would end its idle session. The sweep ends with the worker."""
    monkeypatch.setattr(presence_module, "CHECK_EVERY_S", 0.01)
    monkeypatch.setattr(presence_module, "SWEEP_WITHIN_S", 60.0)
    check, checks = presence.check, asyncio.Semaphore(0)

    async def check_and_signal() -> None:
        await check()
        checks.release()

    monkeypatch.setattr(presence, "check", check_and_signal)
    await other.execute(LOCK_TABLE)
    running = asyncio.create_task(presence.run(stop := asyncio.Event()))
    sweeps_wait = partial(owner.fetchval, LOCK_WAITS)
    await eventually(sweeps_wait, "a sweep waits")
    async with asyncio.timeout(5):
        for _ in range(10):
            await checks.acquire()
        assert await sweeps_wait() == 1, "never two sweeps"
        presence.close()  # it would wait for the lock while it releases its leases
        stop.set()
        await running
    await eventually(partial(no_lock_waits, owner), "the sweep has ended")


async def no_lock_waits(owner: asyncpg.Connection) -> bool:
    return bool(await owner.fetchval(LOCK_WAITS) == 0)


async def test_a_sweep_that_times_out_does_not_block_the_other_mode(
    presence: Presence,
    database: Database,
    other: asyncpg.Connection,
    tenant: UUID,
    orphans_immediately: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    blocked, free = list(Mode)
    endpoint = await new_endpoint(database, tenant, mode=free)
    queue = Queue(database.data(free), tenant, endpoint)
    (orphan,) = await queue.add()
    await queue.claim(1, worker=presence.worker_id + 1000)
    monkeypatch.setattr(presence_module, "SWEEP_WITHIN_S", 0.5)
    await other.execute(f"LOCK TABLE {blocked.schema}.webhook_deliveries IN ACCESS EXCLUSIVE MODE")
    await presence.sweep()
    assert f"sweep {blocked} deliveries failed" in caplog.text
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    assert not (await queue.show(orphan)).in_flight


async def test_a_living_worker_keeps_its_leases_through_a_long_outage(
    presence: Presence, lease: Leasing, owner: asyncpg.Connection
) -> None:
    """No worker can settle them during the outage. A lease that expired a full lease duration ago is released."""
    over_for = "UPDATE sandbox.webhook_deliveries SET leased_until = now() - $2::interval WHERE id = $1"
    kept, lost = await lease(presence.worker_id, 2)
    await owner.execute(over_for, kept, deliveries.LEASE_FOR - timedelta(minutes=1))
    await owner.execute(over_for, lost, deliveries.LEASE_FOR + timedelta(minutes=1))
    (orphan,) = await lease(presence.worker_id + 1000, 1)
    await owner.execute(over_for, orphan, timedelta(seconds=1))
    await presence.sweep()
    assert await held(owner) == {kept}


async def test_a_worker_that_returned_is_no_longer_absent(
    presence: Presence, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next absence begins with full patience."""
    monkeypatch.setattr(presence_module, "PATIENCE_S", 60.0)
    dead = await owner.fetchval(DIE)
    await presence.check()
    assert set(presence._absent_since) == {dead}
    await owner.execute("DELETE FROM core.workers WHERE id = $1", dead)
    await presence.check()
    assert presence._absent_since == {}


async def test_a_worker_that_leaves_closes_its_session(presence: Presence, owner: asyncpg.Connection) -> None:
    stop = asyncio.Event()
    stop.set()
    await presence.run(stop)
    assert presence._session is not None
    assert presence._session.is_closed()
    assert await registered(owner) == set()


async def test_a_worker_whose_check_times_out_drops_its_session(
    presence: Presence, other: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "ANSWER_WITHIN_S", 0.1)
    await other.execute("LOCK TABLE core.workers IN ACCESS EXCLUSIVE MODE")
    with pytest.raises(TimeoutError):
        await presence.check()
    assert not presence.session_is_open


async def test_a_worker_without_its_session_takes_over_from_nobody(
    presence: Presence, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as absent itself."""
    tried = []

    async def lose_the_session(_session: asyncpg.Connection, worker: int) -> None:
        tried.append(worker)
        presence.close()

    await owner.fetchval(DIE)
    await owner.fetchval(DIE)
    monkeypatch.setattr(presence, "_declare_dead", lose_the_session)
    with pytest.raises(ConnectionResetError, match="presence session"):
        await presence.check()
    assert len(tried) == 1
