"""An endpoint's rate limit, enforced by several workers together against a real receiver."""

import asyncio
from uuid import UUID

import asyncpg

from delivery.engine import rate_limit
from delivery.engine.dispatcher import DispatchLimits
from schema.connections.database import Database
from schema.core import endpoints
from tests.support.engine import add_endpoint, engine, in_flight_limits, running
from tests.support.events import event_names, record_many
from tests.support.servers.receiver import OK, Answer, Received, Receiver

RATE = 40


async def limit(database: Database, endpoint_id: UUID, rate: int = RATE) -> None:
    await endpoints.update(
        database.core, endpoint_id, endpoints.EndpointChanges(None, None, None, None, rate)
    )


def timing(receiver: Receiver, path: str = "/limited") -> list[float]:
    """The arrival time of each request in seconds from now."""
    began = asyncio.get_running_loop().time()
    times: list[float] = []

    def answer(request: Received) -> Answer:
        if request.path == path:
            times.append(asyncio.get_running_loop().time() - began)
        return OK

    receiver.answer = answer
    return times


def assert_within(times: list[float], rate: int = RATE) -> None:
    """Counts from the start, so that delays on the way cannot fail the check."""
    for number, at in enumerate(times, 1):
        assert number <= rate * (at + rate_limit.BURST.total_seconds()) + 1


async def test_two_workers_together_stay_within_the_rate_limit(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    """For waiting and new deliveries, while another endpoint is served without a limit."""
    limited = await add_endpoint(database, tenant, receiver.url + "/limited")
    await add_endpoint(database, tenant, receiver.url + "/free")
    await limit(database, limited)
    async with engine(database) as one, engine(database, worker_id=lambda: 2) as other:
        sent = await record_many(one.pool, tenant, 200)
        await one.leave_pending()
        times = timing(receiver)
        async with running(*one.everything(), other.settler, other.dispatcher):
            sent += await record_many(one.pool, tenant, 50)
            await receiver.requests.until(lambda _all: len(receiver.at("/free")) == 250)
            await receiver.requests.until(lambda _all: len(times) >= 60)
    assert_within(times)
    assert len(one.settled) > 0
    assert len(other.settled) > 0
    assert len({request.event_id for request in receiver.at("/limited")}) == len(times)


async def test_a_limited_endpoint_reaches_its_rate_beside_busy_ones(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    limited = await add_endpoint(database, tenant, receiver.url + "/limited")
    for number in range(5):
        await add_endpoint(database, tenant, f"{receiver.url}/{number}")
    await limit(database, limited)
    async with engine(database, limits=DispatchLimits(in_flight_limits(3))) as ours:
        await record_many(ours.pool, tenant, 400)
        await ours.leave_pending()
        times = timing(receiver)
        async with running(ours.settler, ours.dispatcher):
            await receiver.requests.until(lambda _all: len(times) >= 20)
            busy = await ours.pool.fetchval(
                "SELECT count(*) FROM webhook_deliveries WHERE status = 'pending'"
            )
    assert_within(times)
    assert busy > 0


async def test_retries_count_for_the_rate_limit(
    database: Database, owner: asyncpg.Connection, tenant: UUID, receiver: Receiver
) -> None:
    limited = await add_endpoint(database, tenant, receiver.url + "/limited")
    await limit(database, limited)
    async with engine(database) as ours:
        retries = event_names(await record_many(ours.pool, tenant, 30))
        await ours.leave_pending()
        await owner.execute("UPDATE sandbox.webhook_deliveries SET lane = 1, schedule_attempts = 1")
        await record_many(ours.pool, tenant, 30)
        await ours.leave_pending()
        times = timing(receiver)
        async with running(ours.settler, ours.dispatcher):
            await ours.settled.count(60)
    assert_within(times)
    assert {request.event_id for request in list(receiver.requests)[:30]} & set(retries)
    assert {request.event_id for request in list(receiver.requests)[:30]} - set(retries)


async def test_a_clock_that_is_set_back_does_not_stop_the_endpoint(
    database: Database, owner: asyncpg.Connection, tenant: UUID, receiver: Receiver
) -> None:
    """As if its last delivery had been sent in the future."""
    limited = await add_endpoint(database, tenant, receiver.url + "/limited")
    await limit(database, limited)
    async with engine(database) as ours:
        await record_many(ours.pool, tenant, 5)
        await owner.execute(
            "INSERT INTO sandbox.endpoint_rate_limits (endpoint_id, next_at) VALUES ($1, now() + interval '3 years')",
            limited,
        )
        async with running(*ours.everything()):
            await ours.settled.count(5)
