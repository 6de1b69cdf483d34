"""`duro up --workers 2`: both workers run, and both end with it."""

import asyncio
import os
import signal
from uuid import UUID

import pytest

from schema.connections.database import Database, Pool
from schema.ids import EVENT, format_id
from schema.modes import Mode
from tests.support.engine import add_endpoint
from tests.support.events import record_many
from tests.support.servers.duro_process import duro, eventually, processes_in_group, settings
from tests.support.servers.receiver import Answer, Receiver

pytestmark = pytest.mark.drill


@pytest.mark.parametrize("to", ["the parent only, as systemd does", "the whole group, as Ctrl-C does"])
async def test_two_workers_share_the_work_and_a_signal_ends_both(
    database: Database, db_url: str, key: bytes, tenant: UUID, receiver: Receiver, to: str
) -> None:
    pool = database.data(Mode.TEST)
    held = asyncio.Event()
    receiver.answer = lambda _request: Answer(held_by=held)
    await add_endpoint(database, tenant, receiver.url)
    environment = settings(db_url, key, DURO_MAX_IN_FLIGHT_PER_ENDPOINT="5")
    async with duro("up", "--port", "0", "--workers", "2", "--json", env=environment) as up:
        await up.said()
        sent = await record_many(pool, tenant, 40)

        async def both_have_work() -> bool:
            holders: int = await pool.fetchval("SELECT count(DISTINCT leased_by) FROM webhook_deliveries")
            return holders == 2

        await eventually(both_have_work, "both workers hold deliveries")
        await receiver.requests.count(8)
        assert receiver.most_active[""] <= 10, "at most five slots in each of two"
        assert len(processes_in_group(up.pid)) == 2
        held.set()
        await receiver.requests.count(40)
        if "group" in to:
            os.killpg(up.pid, signal.SIGINT)
        else:
            up.send(signal.SIGTERM)
        assert await up.ended(25) == 0
        assert up.stderr == ""
        assert processes_in_group(up.pid) == []
    assert receiver.event_ids() == {format_id(EVENT, event): 1 for event in sent}
    assert await pool.fetchval("SELECT count(*) FROM webhook_deliveries WHERE lease IS NOT NULL") == 0
    assert await database.core.fetchval("SELECT count(*) FROM workers") == 0


async def test_a_killed_worker_process_is_replaced(
    database: Database, db_url: str, key: bytes, tenant: UUID, receiver: Receiver
) -> None:
    pool = database.data(Mode.TEST)
    held = asyncio.Event()
    receiver.answer = lambda _request: Answer(held_by=held)
    await add_endpoint(database, tenant, receiver.url)
    environment = settings(db_url, key, DURO_MAX_IN_FLIGHT_PER_ENDPOINT="5")
    async with duro("up", "--port", "0", "--workers", "2", "--json", env=environment) as up:
        await up.said()
        sent = await record_many(pool, tenant, 10)
        await receiver.requests.count(8)
        (child,) = (pid for pid in processes_in_group(up.pid) if pid != up.pid)
        os.kill(child, signal.SIGKILL)
        held.set()
        await eventually(lambda: _all_delivered(pool, len(sent)), "all events are delivered")
        await eventually(lambda: len(processes_in_group(up.pid)) == 2, "a replacement runs")
    assert set(receiver.event_ids()) == {format_id(EVENT, event) for event in sent}


async def _all_delivered(pool: Pool, count: int) -> bool:
    delivered: int = await pool.fetchval("SELECT count(*) FROM webhook_deliveries WHERE status = 'delivered'")
    return delivered == count
