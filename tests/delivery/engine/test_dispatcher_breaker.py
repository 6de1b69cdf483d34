"""A circuit breaker end to end: it opens, sends single probes, recovers, and every delivery arrives once."""

import asyncio
from collections import Counter
from datetime import timedelta
from uuid import UUID

import pytest

from delivery.engine.dispatcher import DispatchLimits
from delivery.engine.retry_policy import RetryPolicy
from delivery.health import breaker
from schema.connections.database import Database
from tests.support.engine import Engine, add_endpoint, engine, in_flight_limits, running
from tests.support.events import event_names, record, record_many
from tests.support.servers.receiver import OK, Answer, Received, Receiver

OFTEN = RetryPolicy((timedelta(0),) * 60, jitter=0)
OPEN_S = 0.3


@pytest.fixture(autouse=True)
def soon_half_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "FIRST_OPEN_S", OPEN_S)
    monkeypatch.setattr(breaker, "LONGEST_OPEN_S", 2 * OPEN_S)


async def opened(ours: Engine, endpoint_id: UUID) -> None:
    """Waits until the breaker is open and every result is written."""
    health = ours.settler._health
    await ours.settled.until(lambda _all: not health.closed(endpoint_id) and ours.dispatcher.in_flight == 0)


async def test_a_failing_endpoint_is_probed_and_served_after_recovery(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    endpoint_id = await add_endpoint(database, tenant, receiver.url)
    receiver.answer = lambda _request: Answer(500)
    async with engine(
        database, policy=OFTEN, limits=DispatchLimits(in_flight_limits(per_endpoint=8))
    ) as ours:
        sent = await record_many(ours.pool, tenant, 40)
        async with running(*ours.everything()):
            await opened(ours, endpoint_id)
            loop = asyncio.get_running_loop()
            half_open_at, before = (
                ours.settler._health._known[endpoint_id].breaker.probing_from,
                len(receiver.requests),
            )
            probes: list[tuple[float, int]] = []
            good: Counter[str] = Counter()

            def answer(request: Received) -> Answer:
                probes.append((loop.time(), receiver.active[""]))
                if len(probes) <= 2:
                    return Answer(500)
                good[request.event_id] += 1
                return OK

            receiver.answer = answer
            sent.append(await record(ours.pool, tenant))
            await ours.settled.until(
                lambda settled: sum(r.settlement.verdict == "delivered" for r in settled) == 41
            )
        assert before < 40, "it opened long before every delivery had an attempt"
        assert [active for _, active in probes[:5]] == [1] * 5, "single probes, until three succeeded"
        first, second, third = (at for at, _ in probes[:3])
        assert first > half_open_at - OPEN_S / 10, (
            "claims go by the database's clock, which may be slightly ahead"
        )
        assert second - first > OPEN_S
        assert third - second > OPEN_S
        assert good == dict.fromkeys(event_names(sent), 1)
        assert ours.settler._health.closed(endpoint_id)
        assert ours.dispatcher.capacity.allowed(endpoint_id) > 1
        row = await ours.pool.fetchrow("SELECT open_until, openings, failing_since FROM endpoint_health")
        assert row is not None
        assert tuple(row) == (None, 0, None)


async def test_an_open_breaker_takes_no_slots_from_other_endpoints(
    database: Database, tenant: UUID, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FIRST_OPEN_S", 300)
    monkeypatch.setattr(breaker, "LONGEST_OPEN_S", 300)
    failing = await add_endpoint(database, tenant, receiver.url + "/failing")
    await add_endpoint(database, tenant, receiver.url + "/healthy")
    receiver.answer = lambda request: Answer(500) if request.path == "/failing" else OK
    async with engine(database, policy=OFTEN) as ours:
        await record_many(ours.pool, tenant, 10)
        async with running(*ours.everything()):
            await opened(ours, failing)
            at_opening = len(receiver.at("/failing"))
            assert not ours.dispatcher.reserve(tenant, failing, 0)
            more = event_names(await record_many(ours.pool, tenant, 30))
            await receiver.requests.until(
                lambda _all: {r.event_id for r in receiver.at("/healthy")} >= set(more)
            )
            assert await ours.dispatcher.claim() == 0
            assert len(receiver.at("/failing")) == at_opening
        rows = [row for row in await ours.rows() if row["endpoint_id"] == failing]
        assert {(row["status"], row["lease"]) for row in rows} == {("pending", None)}
        assert len(rows) == 40
        assert sum(row["attempts"] for row in rows) == at_opening, "deliveries that wait use no attempt"


async def test_a_hanging_endpoint_opens_its_breaker_and_delays_no_other(
    database: Database, tenant: UUID, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few hung attempts are enough, with 100 deliveries waiting."""
    monkeypatch.setattr(breaker, "FIRST_OPEN_S", 300)
    monkeypatch.setattr(breaker, "LONGEST_OPEN_S", 300)
    failing = await add_endpoint(database, tenant, receiver.url + "/slow")
    await add_endpoint(database, tenant, receiver.url + "/healthy")
    never = asyncio.Event()
    receiver.answer = lambda request: Answer(held_by=never) if request.path == "/slow" else OK
    limits = DispatchLimits(in_flight_limits(12, per_endpoint=6))
    async with engine(database, limits=limits, policy=OFTEN, attempt_timeout=0.3) as ours:
        await record_many(ours.pool, tenant, 100)
        async with running(*ours.everything()):
            await opened(ours, failing)
            await receiver.requests.until(lambda _all: len(receiver.at("/healthy")) == 100)
            hung = len(receiver.at("/slow"))
            more = event_names(await record_many(ours.pool, tenant, 50))
            await receiver.requests.until(
                lambda _all: {r.event_id for r in receiver.at("/healthy")} >= set(more)
            )
            assert len(receiver.at("/slow")) == hung <= 6
