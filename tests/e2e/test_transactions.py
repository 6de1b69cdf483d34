"""Exactly the committed events are delivered, in bounded time, even while a transaction stays open."""

from uuid import UUID

from schema.connections.database import Database
from schema.ids import EVENT, format_id
from schema.modes import Mode
from tests.support.engine import add_endpoint
from tests.support.events import record
from tests.support.servers.connections import Connect
from tests.support.servers.duro_process import duro, settings
from tests.support.servers.receiver import Receiver


async def test_open_and_rolled_back_transactions_delay_no_event(
    database: Database, db_url: str, key: bytes, tenant: UUID, connect: Connect, receiver: Receiver
) -> None:
    await add_endpoint(database, tenant, receiver.url)
    slow, undecided, quick = await connect(), await connect(), await connect()
    async with duro("work", "--json", env=settings(db_url, key)) as work:
        await work.said()
        kept_open, taken_back = slow.transaction(), undecided.transaction()
        await kept_open.start()
        late = await record(slow, tenant)
        await taken_back.start()
        never = await record(undecided, tenant)

        prompt = [await record(quick, tenant) for _ in range(20)]
        await receiver.requests.count(20)
        await taken_back.rollback()
        prompt += [await record(quick, tenant) for _ in range(20)]
        await receiver.requests.count(40)
        assert set(receiver.event_ids()) == {format_id(EVENT, event) for event in prompt}

        await kept_open.commit()
        await receiver.requests.count(41)
        last = await record(quick, tenant)
        await receiver.requests.count(42)
    assert receiver.event_ids() == {format_id(EVENT, event): 1 for event in (*prompt, late, last)}
    assert format_id(EVENT, never) not in receiver.event_ids()
    assert await database.data(Mode.TEST).fetchval("SELECT count(*) FROM event_log") == 42
