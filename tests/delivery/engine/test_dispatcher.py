"""The dispatcher with a real database and real sockets: bounded, fair, and no delivery sent twice."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from delivery.engine.dispatcher import DispatchLimits
from schema.connections.database import Database
from schema.deliveries import deliveries
from schema.deliveries.deliveries import Lane
from tests.support.engine import add_endpoint, engine, in_flight_limits, running
from tests.support.events import event_names, record, record_many
from tests.support.servers.receiver import OK, Answer, Received, Receiver


async def test_in_flight_limits_hold_in_a_flood(database: Database, tenant: UUID, receiver: Receiver) -> None:
    """Per endpoint and in total, on the wire and in memory; every delivery arrives once."""
    limits = DispatchLimits(in_flight_limits(20, per_endpoint=8))
    for path in ("/a", "/b", "/c"):
        await add_endpoint(database, tenant, receiver.url + path)
    async with engine(database, limits=limits) as flooded:
        held_in_memory: list[int] = []

        def answer(_request: Received) -> Answer:
            held_in_memory.append(flooded.dispatcher.in_flight)
            return OK

        receiver.answer = answer
        sent = await record_many(flooded.pool, tenant, 100)
        async with running(*flooded.everything()):
            await flooded.settled.count(300)
            assert flooded.dispatcher.in_flight == 0
        assert await flooded.statuses() == ["delivered"] * 300

    assert receiver.event_ids() == dict.fromkeys(event_names(sent), 3)
    assert max(receiver.most_active[path] for path in ("/a", "/b", "/c")) <= 8
    assert receiver.most_active[""] <= 20
    assert max(held_in_memory) <= 20


async def test_waiting_deliveries_are_claimed_oldest_first(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    """A new delivery does not overtake them, even if a slot is free before the claim."""
    answered = asyncio.Event()
    receiver.answer = lambda _request: Answer(held_by=answered)
    await add_endpoint(database, tenant, receiver.url)
    async with engine(database, limits=DispatchLimits(in_flight_limits(per_endpoint=1))) as narrow:
        sent = []
        async with running(narrow.settler):
            for _ in range(4):
                sent.append(await record(narrow.pool, tenant))
                await narrow.submit_all()
            answered.set()
            await narrow.settled.count(1)
            sent.append(await record(narrow.pool, tenant))
            await narrow.submit_all()
            assert [row["status"] for row in await narrow.rows()] == ["delivered"] + ["pending"] * 4
            async with running(narrow.dispatcher):
                await narrow.settled.count(5)
    assert [request.event_id for request in receiver.requests] == event_names(sent)


@pytest.mark.parametrize("search", ["before the commit", "across the commit"])
async def test_a_search_beside_a_fan_out_lets_no_delivery_overtake(
    database: Database, tenant: UUID, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, search: str
) -> None:
    """The search does not see the waiting delivery, because it is not committed yet."""
    answered = asyncio.Event()
    receiver.answer = lambda _request: Answer(held_by=answered)
    await add_endpoint(database, tenant, receiver.url)
    insert, find = deliveries.fan_out, deliveries.endpoints_waiting

    async with engine(database, limits=DispatchLimits(in_flight_limits(per_endpoint=1))) as narrow:

        async def insert_and_search(*arguments: Any) -> Any:
            new = await insert(*arguments)
            await narrow.dispatcher.claim()
            return new

        async def find_and_commit(*arguments: Any) -> Any:
            found = await find(*arguments)
            await narrow.fanout.step()
            return found

        sent = [await record(narrow.pool, tenant)]
        async with running(narrow.settler):
            await narrow.submit_all()
            sent.append(await record(narrow.pool, tenant))
            await narrow.sequencer.step()
            with monkeypatch.context() as race:
                if search == "before the commit":
                    race.setattr(deliveries, "fan_out", insert_and_search)
                    await narrow.fanout.step()
                else:
                    race.setattr(deliveries, "endpoints_waiting", find_and_commit)
                    await narrow.dispatcher.claim()
            answered.set()
            await narrow.settled.count(1)
            sent.append(await record(narrow.pool, tenant))
            await narrow.submit_all()
            assert [row["status"] for row in await narrow.rows()] == ["delivered", "pending", "pending"]
            async with running(narrow.dispatcher):
                await narrow.settled.count(3)
    assert [request.event_id for request in receiver.requests] == event_names(sent)


async def test_an_endpoint_without_waiting_deliveries_gets_slots_again(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    endpoint_id = await add_endpoint(database, tenant, receiver.url)
    async with engine(database, limits=DispatchLimits(in_flight_limits(per_endpoint=1))) as narrow:
        await record_many(narrow.pool, tenant, 2)
        async with running(narrow.settler):
            await narrow.submit_all()
            await narrow.settled.count(1)
            assert not narrow.dispatcher.reserve(tenant, endpoint_id, 0)
            assert await narrow.dispatcher.claim() == 1
            await narrow.settled.count(2)
            assert await narrow.dispatcher.claim() == 0
            assert narrow.dispatcher.reserve(tenant, endpoint_id, 0)


async def test_a_hanging_endpoint_does_not_delay_another(
    database: Database, tenant: UUID, receiver: Receiver, silence: asyncio.Event
) -> None:
    await add_endpoint(database, tenant, receiver.url + "/slow")
    await add_endpoint(database, tenant, receiver.url + "/fast")
    limits = DispatchLimits(in_flight_limits(12, per_endpoint=5))
    async with engine(database, limits=limits) as shared:
        await record_many(shared.pool, tenant, 60)
        async with running(*shared.everything()):
            await receiver.requests.until(lambda _all: len(receiver.at("/fast")) == 60)
            assert 0 < len(receiver.at("/slow")) <= 5
            silence.set()
            await shared.settled.count(120)


async def test_few_slots_serve_all_endpoints_in_turn(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    """Each claim continues after the last one, so the endpoint with the largest id is served too."""
    paths = [f"/{number}" for number in range(5)]
    for number, path in enumerate(paths):
        await add_endpoint(database, tenant, receiver.url + path, endpoint_id=UUID(int=number + 1))
    async with engine(database, limits=DispatchLimits(in_flight_limits(2))) as small:
        await record_many(small.pool, tenant, 3)
        await small.leave_pending()
        async with running(small.settler):
            for round_ in range(3):
                assert await small.dispatcher.claim() == 2
                await small.settled.count(2 * round_ + 2)
    assert [request.path for request in receiver.requests][:4] == ["/0", "/1", "/2", "/3"]
    assert {request.path for request in receiver.requests} == set(paths)


async def test_endpoints_of_a_tenant_at_its_limit_take_turns(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    """Slots are free, but not for this tenant: no endpoint waits until the backlog of another is done."""
    paths = [f"/{number}" for number in range(5)]
    for number, path in enumerate(paths):
        await add_endpoint(database, tenant, receiver.url + path, endpoint_id=UUID(int=number + 1))
    async with engine(database, limits=DispatchLimits(in_flight_limits(per_tenant=2))) as ours:
        await record_many(ours.pool, tenant, 4)
        await ours.leave_pending()
        async with running(ours.settler):
            claimed = 0
            for _ in range(3):
                claimed += await ours.dispatcher.claim()
                await ours.settled.count(claimed)
    assert {request.path for request in receiver.requests} == set(paths)


async def test_two_workers_share_a_backlog_without_repeats(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    await add_endpoint(database, tenant, receiver.url)
    limits = DispatchLimits(in_flight_limits(per_endpoint=7))
    async with (
        engine(database, limits=limits) as one,
        engine(database, limits=limits, worker_id=lambda: 2) as other,
    ):
        sent = await record_many(one.pool, tenant, 150)
        await one.leave_pending()
        async with running(one.settler, other.settler, one.dispatcher, other.dispatcher):
            await receiver.requests.count(150)
        assert await one.statuses() == ["delivered"] * 150
        assert len(one.settled) + len(other.settled) == 150
    assert receiver.event_ids() == dict.fromkeys(event_names(sent), 1)


async def test_a_claim_skips_deliveries_that_another_claims(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    """It neither waits for the other commit nor takes the same deliveries."""
    endpoint_id = await add_endpoint(database, tenant, receiver.url)
    async with engine(database) as ours:
        await record_many(ours.pool, tenant, 5)
        await ours.leave_pending()
        async with ours.pool.acquire() as one, ours.pool.acquire() as other:
            first = one.transaction()
            await first.start()
            here = await deliveries.claim(one, Lane.FIRST, [(endpoint_id, 3)], 1, 1)
            async with asyncio.timeout(5):
                there = await deliveries.claim(other, Lane.FIRST, [(endpoint_id, 5)], 2, 2)
            await first.commit()
        assert (len(here), len(there)) == (3, 2)
        assert len({claim.id for claim in (*here, *there)}) == 5
