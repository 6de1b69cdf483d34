"""Old months are dropped while producers record and a worker delivers, without a warning from the worker."""

import asyncio
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database
from schema.event_log import log
from schema.ids import format_id
from schema.modes import Mode
from service.worker.projection_consumers import CONSUMERS
from tests.support.engine import add_endpoint
from tests.support.events import record
from tests.support.retention_history import OLD, attached, past
from tests.support.servers.duro_process import duro, eventually, settings
from tests.support.servers.receiver import Receiver

pytestmark = pytest.mark.drill

AGES = ("--events", "300d", "--deliveries", "300d", "--attempts", "90d", "--activity", "300d")


async def test_retention_disturbs_no_running_worker(
    database: Database, db_url: str, key: bytes, owner: asyncpg.Connection, tenant: UUID, receiver: Receiver
) -> None:
    pool, recorded = database.data(Mode.TEST), set(await past(database.data(Mode.TEST), tenant, OLD))
    await add_endpoint(database, tenant, receiver.url)
    over = asyncio.Event()

    async def produce() -> None:
        while not over.is_set():
            recorded.add(await record(pool, tenant))

    async def arrived() -> bool:
        return {format_id("evt", event) for event in recorded} <= receiver.event_ids().keys()

    async with duro("work", "--json", env=settings(db_url, key)) as work:
        await work.said()
        await eventually(arrived, "the old month's events are delivered")
        await eventually(lambda: _settled(owner), "and their attempts are folded")
        await pool.execute(
            "INSERT INTO cursors (consumer, pos) SELECT name, 3 FROM consumers WHERE name <> ALL ($1::text[])",
            CONSUMERS,
        )  # for consumers that no worker runs
        # The month may be dropped only if it was settled long ago and its feed is written.
        await pool.execute(
            "UPDATE webhook_deliveries SET settled_at = created_at WHERE created_at < $1", OLD.end
        )
        await eventually(lambda: _applied(owner), "all consumers are past the old month")
        producing = asyncio.create_task(produce())
        async with duro(
            "retention", "run", *AGES, "--mode", "test", "--json", env=settings(db_url, key)
        ) as run:
            result = await run.said()
            assert await run.ended() == 0
        assert [month["kept"] for month in result["months"]] == [[]] * len(result["months"])
        over.set()
        await producing
        await eventually(arrived, "the new events are delivered")
        complaints = [line for line in work.stderr.splitlines() if " WARNING " in line or " ERROR " in line]
    assert complaints == []
    assert not await attached(owner, OLD)
    assert len((await log.read_after(pool, 0, 100_000)).events) == len(recorded) - 3


async def _applied(owner: asyncpg.Connection) -> bool:
    return not await owner.fetchval("SELECT EXISTS (SELECT FROM retention_consumers() WHERE pos < 3)")


async def _settled(owner: asyncpg.Connection) -> bool:
    return not await owner.fetchval(
        "SELECT EXISTS (SELECT FROM webhook_deliveries WHERE status = 'pending') OR 3 > (SELECT coalesce(sum(attempts), 0) FROM delivery_hours)"
    )
