"""A killed worker loses nothing, and a stopped one repeats nothing."""

import asyncio
import signal
import time
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database
from schema.ids import EVENT, format_id
from schema.modes import Mode
from tests.support.engine import add_endpoint
from tests.support.events import record_many
from tests.support.servers.duro_process import duro, eventually, settings
from tests.support.servers.receiver import OK, Answer, Received, Receiver

pytestmark = pytest.mark.drill


async def all_delivered(pool: asyncpg.Pool) -> bool:
    left: int = await pool.fetchval("SELECT count(*) FROM webhook_deliveries WHERE status <> 'delivered'")
    return left == 0


async def test_sigkill_during_1000_deliveries_loses_none(
    database: Database, db_url: str, key: bytes, tenant: UUID, receiver: Receiver
) -> None:
    """Each arrives at least once with the same event id. No more are repeated than were in flight."""
    pool = database.data(Mode.TEST)
    paths = [f"/{number}" for number in range(4)]
    for path in paths:
        await add_endpoint(database, tenant, receiver.url + path)
    sent = await record_many(pool, tenant, 250)
    slow = asyncio.Event()
    receiver.answer = lambda _request: Answer(held_by=slow) if len(receiver.requests) % 10 == 0 else OK

    async with duro("work", "--json", env=settings(db_url, key)) as victim:
        await receiver.requests.count(400)
        victim.send(signal.SIGKILL)
        await victim.ended()
    slow.set()
    await eventually(lambda: not receiver.active[""], "the last requests of the killed worker have been read")
    arrived_before = len(receiver.requests)
    under_way = await pool.fetchval("SELECT count(*) FROM webhook_deliveries WHERE lease IS NOT NULL")
    assert under_way > 0
    assert arrived_before < 1000, "it was killed before the end"

    async with duro("work", "--json", env=settings(db_url, key)):
        await receiver.requests.until(
            lambda requests: len({(request.path, request.event_id) for request in requests}) == 1000
        )
        await eventually(lambda: all_delivered(pool), "all are settled")
    assert {request.event_id for request in receiver.requests} == {format_id(EVENT, event) for event in sent}
    for path in paths:
        assert len({request.event_id for request in receiver.at(path)}) == 250
    assert len(receiver.requests) - 1000 <= under_way
    assert all(request.header("Duro-Event-Id") == request.event_id for request in receiver.requests)


async def test_sigterm_drains_and_nothing_is_repeated(
    database: Database, db_url: str, key: bytes, tenant: UUID, receiver: Receiver
) -> None:
    """Attempts in flight finish and are settled, pending deliveries stay for others, and the exit is clean
    and in time.
    """
    pool = database.data(Mode.TEST)
    await add_endpoint(database, tenant, receiver.url)
    sent = await record_many(pool, tenant, 200)
    asked = asyncio.Event()

    def answer(_request: Received) -> Answer:
        return Answer(held_by=asked) if len(receiver.requests) > 80 else OK

    receiver.answer = answer
    async with duro("work", "--json", env=settings(db_url, key)) as first:
        await receiver.requests.count(120)
        started = time.monotonic()
        first.send(signal.SIGTERM)
        asyncio.get_running_loop().call_later(2, asked.set)
        assert await first.ended(25) == 0
        assert time.monotonic() - started < 25
        assert first.stderr == ""
    leased = await pool.fetchval("SELECT count(*) FROM webhook_deliveries WHERE lease IS NOT NULL")
    assert leased == 0
    assert len(receiver.requests) < 200, "it stopped before the end"
    async with duro("work", "--json", env=settings(db_url, key)) as second:
        await receiver.requests.count(200)
        await eventually(lambda: all_delivered(pool), "all are settled")
        second.send(signal.SIGTERM)
        assert await second.ended(25) == 0
    assert receiver.event_ids() == {format_id(EVENT, event): 1 for event in sent}
