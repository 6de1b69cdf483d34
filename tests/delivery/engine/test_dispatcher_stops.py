"""A stop waits for attempts or cuts them off, and frees each slot once."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from delivery.engine import dispatcher
from delivery.engine.dispatcher import DispatchLimits
from delivery.engine.request_building import Message
from delivery.engine.settler import PendingSettlement
from schema.connections.database import Database
from schema.deliveries import deliveries
from schema.deliveries.deliveries import ClaimedDelivery, Lane, WaitingEndpoint
from tests.support.engine import Engine, add_endpoint, engine, running
from tests.support.events import event_names, record_many
from tests.support.servers.receiver import OK, Answer, Receiver


async def test_a_stop_waits_for_attempts_under_way(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    await add_endpoint(database, tenant, receiver.url)
    held = asyncio.Event()
    receiver.answer = lambda _request: Answer(held_by=held)
    async with engine(database) as ours:
        await record_many(ours.pool, tenant, 3)
        stop = asyncio.Event()
        async with running(ours.settler):
            draining = asyncio.create_task(ours.dispatcher.run(stop))
            await ours.submit_all()
            await receiver.requests.count(3)
            stop.set()
            done, _ = await asyncio.wait([draining], timeout=0.6)  # longer than a poll of the idle dispatcher
            assert not done
            assert not ours.dispatcher.reserve(tenant, UUID(int=1), 0), "no slot is given out while draining"
            held.set()
            await draining
        assert await ours.statuses() == ["delivered"] * 3
        assert await ours.leased() == 0


async def test_a_stop_cuts_off_attempts_that_take_too_long(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    """Their leases stay: the worker releases them last."""
    await add_endpoint(database, tenant, receiver.url)
    held = asyncio.Event()
    receiver.answer = lambda _request: Answer(held_by=held)
    async with engine(database, limits=DispatchLimits(drain_for=timedelta(milliseconds=50))) as ours:
        await record_many(ours.pool, tenant, 3)
        async with running(ours.settler, ours.dispatcher):
            await ours.submit_all()
            await receiver.requests.count(3)
        assert ours.dispatcher.in_flight == 0
        assert await ours.leased() == 3
        assert await ours.statuses() == ["pending"] * 3


async def test_a_second_run_gives_out_slots_again(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    endpoint_id = await add_endpoint(database, tenant, receiver.url)
    async with engine(database) as ours:
        async with running(ours.dispatcher):
            pass
        assert not ours.dispatcher.reserve(tenant, endpoint_id, 0)
        async with running(ours.dispatcher):
            await asyncio.sleep(0)
            assert ours.dispatcher.reserve(tenant, endpoint_id, 0)


async def test_an_error_in_the_loop_keeps_attempts_and_slots(
    database: Database, tenant: UUID, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor runs it again, and fan-out hands over deliveries as before."""
    endpoint_id = await add_endpoint(database, tenant, receiver.url)
    held = asyncio.Event()
    receiver.answer = lambda _request: Answer(held_by=held)
    defects, find = [RuntimeError("a defect")], deliveries.endpoints_waiting

    async def find_or_fail(*arguments: Any) -> list[WaitingEndpoint]:
        if defects:
            raise defects.pop()
        return await find(*arguments)

    monkeypatch.setattr(deliveries, "endpoints_waiting", find_or_fail)
    async with engine(database) as ours:
        await record_many(ours.pool, tenant, 3)
        await ours.submit_all()
        await receiver.requests.count(3)
        with pytest.raises(RuntimeError, match="a defect"):
            await ours.dispatcher.run(asyncio.Event())
        assert ours.dispatcher.in_flight == 3
        async with running(ours.settler, ours.dispatcher):
            held.set()
            await ours.settled.count(3)
            assert ours.dispatcher.reserve(tenant, endpoint_id, 0)
            ours.dispatcher.release(tenant, endpoint_id, 0)
        assert await ours.statuses() == ["delivered"] * 3


# A queue longer than the senders that one iteration of the event loop starts

LONG = 40


@pytest.fixture
def few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "SENDERS_PER_ROUND", 3)


def assert_nothing_is_held(ours: Engine) -> None:
    capacity = ours.dispatcher.capacity
    assert (capacity.in_flight, capacity._size) == (0, 0)
    assert (capacity._tenants, capacity._endpoints) == ({}, {})
    assert not ours.dispatcher._leases
    assert not ours.dispatcher._queue
    assert not ours.dispatcher._senders


async def test_a_stop_sends_the_queue_before_it_ends(
    database: Database, tenant: UUID, receiver: Receiver, few_at_a_time: None
) -> None:
    for _ in range(LONG // 4):
        await add_endpoint(database, tenant, receiver.url)
    async with engine(database) as ours:
        await record_many(ours.pool, tenant, 4)
        async with running(ours.settler):
            stop = asyncio.Event()
            await ours.submit_all()
            stop.set()
            async with asyncio.timeout(10):
                await ours.dispatcher.run(stop)
        assert await ours.statuses() == ["delivered"] * LONG
        assert_nothing_is_held(ours)
    assert len(receiver.requests) == LONG


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 10, 20, 40])
async def test_a_cut_off_frees_each_slot_once(
    database: Database, tenant: UUID, receiver: Receiver, few_at_a_time: None, turns: int
) -> None:
    """Some deliveries are queued, some have a sender that has not started, some wait for a response, some have one."""
    held = asyncio.Event()
    receiver.answer = lambda request: Answer(held_by=held) if request.path == "/slow" else OK
    for number in range(LONG // 4):
        await add_endpoint(database, tenant, receiver.url + ("/slow" if number % 2 else "/well"))
    async with engine(database) as ours:
        await record_many(ours.pool, tenant, 4)
        await ours.leave_pending()
        async with running(ours.settler):
            claims = (await ours.dispatcher._lanes[Lane.FIRST].round()).claims
            assert len(claims) == LONG
            loop = asyncio.create_task(ours.dispatcher.run(asyncio.Event()))
            await asyncio.sleep(0)
            ours.dispatcher.submit(claims)
            for _ in range(turns):
                await asyncio.sleep(0)
            loop.cancel()
            with suppress(asyncio.CancelledError):
                await loop
        assert_nothing_is_held(ours)
        delivered = (await ours.statuses()).count("delivered")
        assert delivered <= LONG // 2
        assert await ours.leased() == LONG - delivered, "the other leases are released when the worker leaves"
        assert len(await ours.attempts()) == delivered


async def test_an_attempt_that_raises_frees_its_slot_and_is_repeated(
    database: Database, tenant: UUID, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit finds the lease that the worker no longer knows."""
    await add_endpoint(database, tenant, receiver.url)
    limits = DispatchLimits(audit_every=timedelta(milliseconds=500))
    async with engine(database, limits=limits) as ours:
        make, broken = ours.dispatcher._attempts.make, [RuntimeError("a defect")] * 3

        async def flaky(claim: ClaimedDelivery, message: Message) -> PendingSettlement:
            if broken:
                raise broken.pop()
            return await make(claim, message)

        monkeypatch.setattr(ours.dispatcher._attempts, "make", flaky)
        sent = await record_many(ours.pool, tenant, 4)
        async with running(*ours.everything()):
            await ours.settled.count(4)
        assert (ours.dispatcher._part.total, ours.dispatcher._part.any) == (3, False)
        assert_nothing_is_held(ours)
        assert await ours.statuses() == ["delivered"] * 4
    assert receiver.event_ids() == dict.fromkeys(event_names(sent), 1)
