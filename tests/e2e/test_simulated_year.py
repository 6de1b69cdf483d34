"""A separate worker process delivers the events of a simulation while it runs: a few tenants for days in the suite, 200 for
a year with FAULTS=full (`make soak`).
"""

import asyncio
import signal
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from random import Random

import orjson
import pytest
from asyncpg import Record

from schema.billing import billing_cases
from schema.connections.database import Database, Pool
from schema.event_log import log
from schema.event_log.partitions import ensure_past_partitions
from schema.ids import CUSTOMER, EVENT, format_id
from schema.modes import Mode
from service.billing.clock import VirtualClock
from service.simulation.simulated_merchants import draw_trade, enrol
from service.simulation.simulation_setup import Cast, Observed, stage
from service.worker.projection_consumers import CONSUMERS
from tests.faults.length import length
from tests.support.engine import add_endpoint
from tests.support.servers.duro_process import duro, eventually, settings
from tests.support.servers.receiver import Receiver

pytestmark = pytest.mark.drill

MERCHANTS, DAYS, SIGNUPS = length((3, 12, 1.0), (200, 365, 0.1))
PATIENCE_S = length(60.0, 1800.0)


async def test_a_simulated_business_is_delivered_while_it_runs(
    database: Database, db_url: str, key: bytes, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = await billing_cases.clock(database.core)
    begins = ends - timedelta(days=DAYS)
    for mode in Mode:
        await ensure_past_partitions(database.data(mode), begins)
    rng = Random(1)
    trades = [draw_trade(rng, SIGNUPS) for _ in range(MERCHANTS)]
    merchants = [(await enrol(database, trade), trade) for trade in trades]
    for tenant, _ in merchants:
        for mode in Mode:
            await add_endpoint(database, tenant, f"{receiver.url}/{mode}/{tenant}", mode=mode)
    async with (
        Database.open(db_url, key, durable=False) as fast,
        duro("work", "--json", env=settings(db_url, key)) as worker,
    ):
        await worker.said()
        clock = VirtualClock(begins, history=True)
        cast = Cast(merchants, {mode: Observed(fast.data(mode), clock) for mode in Mode}, clock, seed=1)
        started = asyncio.get_running_loop().time()
        async with stage(fast, cast, lambda _progress: None) as simulation:
            await simulation.run(ends, no_pause, asyncio.Event())
        played_s = asyncio.get_running_loop().time() - started
        await eventually(
            lambda: len(receiver.requests) >= total(simulation.tally.events), "all came", PATIENCE_S
        )
        await eventually(lambda: nothing_pending(database), "all is settled", PATIENCE_S)
        await eventually(lambda: no_lag(database), "the projections have caught up", PATIENCE_S)
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 0
    with capsys.disabled():
        print(  # noqa: T201  figures, as the fault suite prints them
            f"\nsimulated: {MERCHANTS} merchants, {DAYS} days in {played_s:.1f} s, events {total(simulation.tally.events)}, "
            f"received {len(receiver.requests)}"
        )
    arrived = receiver.event_ids()
    for mode in Mode:
        rows = await database.data(mode).fetch("SELECT id, type, tenant_id, data::text AS data FROM events")
        expected = {format_id(EVENT, row["id"]): row for row in rows}
        bodies = {r.event_id: r for r in receiver.requests if r.path.startswith(f"/{mode}/")}
        assert bodies.keys() == expected.keys()
        for event_id, row in expected.items():
            body = orjson.loads(bodies[event_id].body)
            assert bodies[event_id].path == f"/{mode}/{row['tenant_id']}"
            assert (body["type"], body["data"]) == (row["type"], orjson.loads(row["data"]))
        statuses = await database.data(mode).fetch(
            "SELECT status, count(*) AS n FROM webhook_deliveries GROUP BY status"
        )
        assert [(row["status"], row["n"]) for row in statuses] == [("delivered", len(expected))]
        await assert_feed_is_complete(database.data(mode), rows)
    assert set(arrived.values()) == {1}


def total(events: Counter[str]) -> int:
    return events.total()


async def nothing_pending(database: Database) -> bool:
    pending = [
        await database.data(mode).fetchval(
            "SELECT EXISTS (SELECT FROM webhook_deliveries WHERE status = 'pending')"
        )
        for mode in Mode
    ]
    return not any(pending)


async def no_lag(database: Database) -> bool:
    statuses = [
        status for mode in Mode for status in await log.consumer_status(database.data(mode), CONSUMERS)
    ]
    return not any(status.lag for status in statuses)


async def assert_feed_is_complete(data: Pool, rows: Sequence[Record]) -> None:
    """Asserts one entry per event, with its amount, subject and customer, and no dead-lettered event."""
    entries = {row["id"]: row for row in await data.fetch("SELECT * FROM activity_feed")}
    assert entries.keys() == {row["id"] for row in rows}
    for row in rows:
        recorded, entry = orjson.loads(row["data"]), entries[row["id"]]
        assert entry["summary"] != row["type"]
        assert "unknown to this version" not in entry["summary"]
        assert (entry["tenant_id"], entry["amount"]) == (row["tenant_id"], recorded["amount"])
        assert format_id(CUSTOMER, entry["customer_id"]) == recorded["customerId"]
        assert format_id(entry["subject_kind"], entry["subject_id"]) in recorded.values()
    assert not await data.fetchval("SELECT count(*) FROM dead_events")


async def no_pause(_moment: object) -> None:
    pass
