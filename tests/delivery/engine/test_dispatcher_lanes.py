"""The lanes share endpoints and nothing else: neither makes the other wait."""

import asyncio
from collections import Counter
from functools import partial
from uuid import UUID

import asyncpg
import pytest

from delivery.engine import dispatcher
from delivery.engine.dispatcher import DispatchLimits
from schema.connections.database import Database
from schema.ids import EVENT, format_id
from tests.support.engine import add_endpoint, engine, in_flight_limits, running
from tests.support.events import event_names, record, record_many
from tests.support.servers.receiver import OK, Answer, Receiver

MOVE_TO_RETRY_LANE = (
    "UPDATE sandbox.webhook_deliveries SET lane = 1, schedule_attempts = 1 WHERE status = 'pending'"
)


async def test_a_flood_of_retries_does_not_delay_a_first_attempt(
    database: Database, owner: asyncpg.Connection, tenant: UUID, receiver: Receiver
) -> None:
    """A thousand retries are due at hanging endpoints of the same tenant; one of these gets the event too."""
    held = asyncio.Event()
    storm = {format_id(EVENT, UUID(int=0))}
    receiver.answer = lambda request: Answer(held_by=held) if request.event_id in storm else OK
    for number in range(10):
        await add_endpoint(
            database, tenant, f"{receiver.url}/storm/{number}", event_types=["invoice_created"]
        )
    both = await add_endpoint(database, tenant, f"{receiver.url}/both")
    limits = DispatchLimits(in_flight_limits(20, per_tenant=20, per_endpoint=4))
    async with engine(database, limits=limits) as ours:
        storm |= set(event_names(await record_many(ours.pool, tenant, 100)))
        await ours.leave_pending()
        await owner.execute(MOVE_TO_RETRY_LANE)
        async with running(*ours.everything()):
            await receiver.requests.count(10)
            fresh = format_id(EVENT, await record(ours.pool, tenant, "subscription_created"))
            await receiver.requests.until(lambda _all: fresh in receiver.event_ids())
            await ours.settled.count(1)
            assert receiver.active[""] == 10, "half of all slots, without a response"
            receiver.answer = lambda _request: OK
            held.set()
            await ours.settled.count(1101)
        assert receiver.most_active[""] <= 11
        assert Counter(await ours.statuses()) == {"delivered": 1101}
        assert both
    assert set(receiver.event_ids().values()) == {11, 1}


async def test_the_lanes_take_turns_at_a_single_slot(
    database: Database, owner: asyncpg.Connection, tenant: UUID, receiver: Receiver
) -> None:
    await add_endpoint(database, tenant, receiver.url)
    async with engine(database, limits=DispatchLimits(in_flight_limits(per_endpoint=1))) as ours:
        retries = event_names(await record_many(ours.pool, tenant, 6))
        await ours.leave_pending()
        await owner.execute(MOVE_TO_RETRY_LANE)
        fresh = event_names(await record_many(ours.pool, tenant, 6))
        await ours.leave_pending()
        async with running(ours.settler):
            for count in range(1, 5):
                held = asyncio.Event()
                receiver.answer = partial(lambda held, _request: Answer(held_by=held), held)
                assert await ours.dispatcher.claim() == 1
                held.set()
                await ours.settled.count(count)
    sent = [request.event_id for request in receiver.requests]
    assert [event_id in fresh for event_id in sent] in ([True, False] * 2, [False, True] * 2)
    assert {event_id for event_id in sent if event_id not in fresh} == set(retries[:2])


async def test_waiting_retries_are_sent_as_slots_become_free(
    database: Database, owner: asyncpg.Connection, tenant: UUID, receiver: Receiver
) -> None:
    """There are more of them than slots, and nothing else wakes the dispatcher."""
    await add_endpoint(database, tenant, receiver.url)
    async with engine(database, limits=DispatchLimits(in_flight_limits(per_endpoint=4))) as ours:
        sent = await record_many(ours.pool, tenant, 30)
        await ours.leave_pending()
        await owner.execute(MOVE_TO_RETRY_LANE)
        async with running(ours.settler, ours.dispatcher):
            await ours.settled.count(30)
    assert receiver.most_active[""] <= 2
    assert receiver.event_ids() == dict.fromkeys(event_names(sent), 1)


# Back-pressure on fan-out


async def test_hanging_endpoints_with_every_slot_do_not_stop_fan_out(
    database: Database, tenant: UUID, receiver: Receiver, silence: asyncio.Event
) -> None:
    """Deliveries without a slot wait in the table, and are sent once a slot is free."""
    for _ in range(2):
        await add_endpoint(database, tenant, receiver.url + "/slow", event_types=["invoice_created"])
    await add_endpoint(database, tenant, receiver.url + "/well", event_types=["subscription_created"])
    async with engine(database, limits=DispatchLimits(in_flight_limits(8, per_endpoint=4))) as ours:
        await record_many(ours.pool, tenant, 4)
        async with running(ours.settler):
            await ours.submit_all()
            await receiver.requests.count(8)
            async with asyncio.timeout(10):
                assert await ours.dispatcher.wait_for_slots() == 0
                await record_many(ours.pool, tenant, 50)
                others = [await record(ours.pool, tenant, "subscription_created") for _ in range(50)]
                await ours.submit_all()
            assert len(await ours.rows()) == 2 * 54 + 50
            silence.set()
            await ours.settled.count(8)
            async with running(ours.dispatcher):
                await ours.settled.count(2 * 54 + 50)
    well = [request.event_id for request in receiver.at("/well")]
    assert sorted(well) == event_names(sorted(others))


async def test_few_slots_left_by_hanging_endpoints_do_not_slow_fan_out(
    database: Database, tenant: UUID, receiver: Receiver, silence: asyncio.Event
) -> None:
    for _ in range(10):
        await add_endpoint(database, tenant, receiver.url + "/slow", event_types=["invoice_created"])
    await add_endpoint(database, tenant, receiver.url + "/well", event_types=["subscription_created"])
    async with engine(database, limits=DispatchLimits(in_flight_limits(41, per_endpoint=4))) as ours:
        await record_many(ours.pool, tenant, 4)
        async with running(ours.settler):
            await ours.submit_all()
            assert ours.dispatcher.capacity.free == 1
            for _ in range(20):
                await record(ours.pool, tenant, "subscription_created")
            await ours.sequencer.step()
            assert await ours.fanout.step() == 20
            silence.set()
            async with running(ours.dispatcher):
                await ours.settled.count(60)


async def test_fan_out_waits_briefly_for_slots(
    database: Database,
    tenant: UUID,
    receiver: Receiver,
    silence: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatcher, "_WAIT_FOR_SLOTS_S", 3600)
    await add_endpoint(database, tenant, receiver.url + "/slow")
    for _ in range(4):
        await add_endpoint(database, tenant, receiver.url + "/slow")
    async with engine(database, limits=DispatchLimits(in_flight_limits(20, per_endpoint=4))) as ours:
        await record_many(ours.pool, tenant, 4)
        async with running(ours.settler):
            await ours.submit_all()
            waiting = asyncio.create_task(ours.dispatcher.wait_for_slots())
            await receiver.requests.count(20)
            done, _ = await asyncio.wait([waiting], timeout=0.05)
            assert not done
            silence.set()
            assert await asyncio.wait_for(waiting, 10) >= 1


async def test_fan_out_waits_only_below_an_eighth_of_the_slots(
    database: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "_WAIT_FOR_SLOTS_S", 0.01)
    async with engine(database, limits=DispatchLimits(in_flight_limits(16, per_endpoint=1))) as ours:
        for number in range(14):
            assert ours.dispatcher.reserve(tenant, UUID(int=number), 0)
        assert await ours.dispatcher.wait_for_slots() == 2
        assert ours.dispatcher.reserve(tenant, UUID(int=14), 0)
        assert await ours.dispatcher.wait_for_slots() == 0, "a single free slot does not limit a batch"
        ours.dispatcher.release(tenant, UUID(int=14), 0)
        assert await ours.dispatcher.wait_for_slots() == 2
