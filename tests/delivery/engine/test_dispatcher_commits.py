"""Commits that fail, and commits whose response is lost: no slot, lease or delivery is lost."""

import asyncio
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from delivery.engine.dispatcher import DispatchLimits
from schema.connections.database import Database
from schema.connections.error_kinds import is_transient
from schema.deliveries import deliveries
from schema.deliveries.deliveries import Lane
from schema.failures import PartFailures, enter_part
from schema.modes import Mode
from tests.support.engine import AT_ONCE, add_endpoint, engine, in_flight_limits, running
from tests.support.events import event_names, record_many
from tests.support.servers.receiver import Receiver
from tests.support.servers.tcp_proxy import Cut, TcpProxy

BOTH_SIDES = (Cut.BEFORE, Cut.AFTER)


@pytest.mark.parametrize("where", BOTH_SIDES)
async def test_a_claim_whose_commit_fails_loses_nothing(
    far_database: Database, proxy: TcpProxy, tenant: UUID, receiver: Receiver, where: Cut
) -> None:
    """AFTER: the claim is committed without the worker's knowledge."""
    await add_endpoint(far_database, tenant, receiver.url)
    limits = DispatchLimits(in_flight_limits(per_endpoint=4))
    async with engine(far_database, limits=limits) as ours:
        sent = await record_many(ours.pool, tenant, 4)
        await ours.leave_pending()
        proxy.cut_at(b"COMMIT", where)
        with pytest.raises(BaseException) as failed:
            await ours.dispatcher.claim()
        assert is_transient(failed.value)
        assert proxy.was_cut.is_set()
        assert ours.dispatcher.in_flight == 0
        assert await ours.leased() == (4 if where is Cut.AFTER else 0)

        async with running(ours.settler, ours.dispatcher):
            await ours.settled.count(4)
        assert await ours.statuses() == ["delivered"] * 4
    assert receiver.event_ids() == dict.fromkeys(event_names(sent), 1)


@pytest.mark.parametrize("where", BOTH_SIDES)
async def test_a_fan_out_whose_commit_fails_loses_nothing(
    far_database: Database, proxy: TcpProxy, tenant: UUID, receiver: Receiver, where: Cut
) -> None:
    await add_endpoint(far_database, tenant, receiver.url)
    limits = DispatchLimits(in_flight_limits(per_endpoint=4))
    async with engine(far_database, limits=limits) as ours:
        sent = await record_many(ours.pool, tenant, 4)
        await ours.sequencer.step()
        proxy.cut_at(b"COMMIT", where)
        with pytest.raises(BaseException) as failed:
            await ours.fanout.step()
        assert is_transient(failed.value)
        assert ours.dispatcher.in_flight == 0
        assert await ours.leased() == (4 if where is Cut.AFTER else 0)

        async with running(*ours.everything()):
            await ours.settled.count(4)
        assert await ours.statuses() == ["delivered"] * 4
    assert receiver.event_ids() == dict.fromkeys(event_names(sent), 1)


async def test_connections_cut_at_any_commit_lose_nothing(
    far_database: Database,
    database: Database,
    proxy: TcpProxy,
    tenant: UUID,
    receiver: Receiver,
) -> None:
    """Eight commits of any part are cut off, before or after the server receives them."""
    await add_endpoint(database, tenant, receiver.url)
    limits = DispatchLimits(in_flight_limits(per_endpoint=4))
    async with engine(far_database, limits=limits, policy=AT_ONCE) as ours:
        sent: list[UUID] = []
        async with running(*ours.everything()):
            for cut in BOTH_SIDES * 4:
                proxy.cut_at(b"COMMIT", cut)
                sent += await record_many(database.data(Mode.TEST), tenant, 10)
                await proxy.was_cut.wait()
            await receiver.requests.until(lambda _all: receiver.event_ids().keys() == set(event_names(sent)))
            await ours.settled.until(
                lambda settled: len({result.settlement.claim.id for result in settled}) == len(sent)
            )
            assert ours.dispatcher.in_flight == 0
        assert await ours.statuses() == ["delivered"] * len(sent)


@pytest.mark.parametrize("by", ["claim", "fan-out"])
async def test_an_uncertain_lease_is_released_long_before_the_audit(
    far_database: Database, proxy: TcpProxy, tenant: UUID, receiver: Receiver, by: str
) -> None:
    await add_endpoint(far_database, tenant, receiver.url)
    async with engine(far_database) as ours:
        sent = await record_many(ours.pool, tenant, 4)
        if by == "claim":
            await ours.leave_pending()
        await ours.sequencer.step()
        proxy.cut_at(b"COMMIT", Cut.AFTER)
        with pytest.raises(BaseException) as failed:
            await (ours.dispatcher.claim() if by == "claim" else ours.fanout.step())
        assert is_transient(failed.value)
        assert await ours.leased() == 4
        async with running(*ours.everything()):
            await ours.settled.count(4)
        assert await ours.statuses() == ["delivered"] * 4
    assert receiver.event_ids() == dict.fromkeys(event_names(sent), 1)


async def test_an_audit_releases_only_old_unknown_leases(
    database: Database, owner: asyncpg.Connection, tenant: UUID, receiver: Receiver, silence: asyncio.Event
) -> None:
    endpoint_id = await add_endpoint(database, tenant, receiver.url + "/slow")
    async with engine(database, limits=DispatchLimits(in_flight_limits(per_endpoint=1))) as ours:
        await record_many(ours.pool, tenant, 3)
        await ours.leave_pending()
        assert await ours.dispatcher.claim() == 1
        await owner.execute(
            "UPDATE sandbox.webhook_deliveries SET leased_until = leased_until - interval '31 s'"
        )
        async with ours.pool.acquire() as tx, tx.transaction():
            for lease in (8, 9):
                await deliveries.claim(tx, Lane.FIRST, [(endpoint_id, 1)], lease, 1)
        age = "UPDATE sandbox.webhook_deliveries SET leased_until = leased_until - $2::interval WHERE lease = $1"
        await owner.execute(age, 8, timedelta(seconds=31))
        await owner.execute(age, 9, timedelta(seconds=20))
        ours.dispatcher._audit_at = 0.0
        await ours.dispatcher.claim()
        leases = await ours.pool.fetch("SELECT lease FROM webhook_deliveries WHERE lease IS NOT NULL")
        assert {row["lease"] for row in leases} == {*ours.dispatcher._leases, 9}
        assert len(ours.dispatcher._leases) == 1
        silence.set()
        async with running(ours.settler):
            await ours.settled.count(1)


@pytest.mark.parametrize("broken", ["release_leases", "release_unknown_leases"])
async def test_leases_that_cannot_be_released_stop_no_delivery(
    database: Database, tenant: UUID, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The failure is reported, and the claims go on."""

    async def fail(*_arguments: object, **_options: object) -> int:
        raise asyncpg.DataCorruptedError("damaged")

    await add_endpoint(database, tenant, receiver.url)
    part = PartFailures("dispatcher test")
    enter_part(part)
    async with engine(database) as ours:
        ours.dispatcher.report_uncertain_commit(9)
        monkeypatch.setattr(deliveries, broken, fail)
        await record_many(ours.pool, tenant, 4)
        await ours.leave_pending()
        async with running(ours.settler, ours.dispatcher):
            await ours.settled.count(4)
        assert part.any
