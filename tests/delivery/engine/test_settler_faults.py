"""No error of the database drops a result, and unwritten results hold the slots that bound memory."""

import asyncio
from uuid import UUID

import asyncpg
import pytest

from delivery.engine import settler
from delivery.engine.dispatcher import DispatchLimits
from schema.connections.database import Database
from schema.deliveries import deliveries
from schema.failures import PartFailures, enter_part
from tests.support.database_failures import failing_writes
from tests.support.database_waits import until
from tests.support.engine import Engine, add_endpoint, engine, in_flight_limits, running
from tests.support.events import record
from tests.support.servers.connections import OWNER, SUPERUSER, Connect
from tests.support.servers.receiver import Receiver
from tests.support.settler_results import delivered, gone, settle, some_claims

STATES = (
    "53100",
    "53200",
    "57014",
    "57P01",
    "42501",
    "42P01",
    "40001",
    "55P03",
    "XX000",
    "58030",
    "25006",
    "P0001",
)


async def test_results_wait_for_every_error_that_is_not_theirs(
    ours: Engine, connect: Connect, tenant: UUID, endpoint: UUID
) -> None:
    owner, count = await connect(OWNER), 0
    for state in STATES:
        claims = await some_claims(ours, tenant, endpoint, 12)
        async with running(ours.settler):
            async with failing_writes(owner, ["webhook_attempts"], state, times=5):
                for claimed in claims:
                    ours.settler.put(delivered(claimed))
            assert len(ours.settled) == count, state
            assert ours.settler.waiting == 12, state
            count += 12
            await ours.settled.count(count)
        assert (ours.settler.settled, ours.settler.fenced_off) == (count, 0), state
        assert len(await ours.attempts()) == count, state
    assert {row["status"] for row in await ours.rows()} == {"delivered"}


async def test_batches_grow_again_after_they_were_halved(
    ours: Engine, connect: Connect, tenant: UUID, endpoint: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    settle = deliveries.settle

    async def counted(*args: object, **options: object) -> set[UUID]:
        sizes.append(len(args[1]))  # type: ignore[arg-type]  the settlements
        if len(sizes) == 1:
            raise asyncpg.QueryCanceledError("cancelled")
        return await settle(*args, **options)  # type: ignore[arg-type]  as they came

    monkeypatch.setattr(deliveries, "settle", counted)
    for claimed in await some_claims(ours, tenant, endpoint, 40):
        ours.settler.put(delivered(claimed))
    async with running(ours.settler):
        await ours.settled.count(40)
    assert sizes == [40, 20, 20]
    assert ours.settler.settled == 40


async def test_results_survive_a_defect_that_ends_the_settler(
    ours: Engine, tenant: UUID, endpoint: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_args: object, **_options: object) -> set[UUID]:
        raise RuntimeError("a defect")

    claims = await some_claims(ours, tenant, endpoint, 3)
    for claimed in claims:
        ours.settler.put(delivered(claimed))
    with monkeypatch.context() as defect:
        defect.setattr(deliveries, "settle", broken)
        with pytest.raises(RuntimeError):
            await ours.settler.run(asyncio.Event())
    assert (ours.settler.waiting, len(ours.settled)) == (3, 0)
    async with running(ours.settler):
        await ours.settled.count(3)
    assert len(await ours.attempts()) == 3


async def test_attempts_end_when_all_slots_hold_results(
    database: Database, connect: Connect, receiver: Receiver, tenant: UUID
) -> None:
    """They continue once results are written; no delivery is sent twice."""
    most = 10
    await add_endpoint(database, tenant, receiver.url)
    superuser, holder = await connect(SUPERUSER), await connect(SUPERUSER)
    async with engine(database, limits=DispatchLimits(in_flight_limits(most, per_endpoint=most))) as ours:
        for n in range(3 * most):
            await record(ours.pool, tenant, n=n)
        async with running(*ours.everything()):
            async with holder.transaction():
                await holder.execute("LOCK TABLE webhook_attempts IN SHARE MODE")
                await until(
                    superuser, "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND waitstart IS NOT NULL"
                )
                while ours.dispatcher.in_flight < most:  # noqa: ASYNC110  there is no signal for it
                    await asyncio.sleep(0.005)
                await asyncio.sleep(0.2)  # in which others would be sent
                assert ours.dispatcher.in_flight <= most
                assert len(receiver.requests) <= most
            await ours.settled.count(3 * most)
        assert set(receiver.event_ids().values()) == {1}
        assert ours.dispatcher.in_flight == 0


async def test_a_410_of_a_locked_endpoint_disables_it_later(
    ours: Engine, connect: Connect, tenant: UUID, endpoint: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "DISABLE_RETRY_S", 0.05)
    owner, observer = await connect(OWNER), await connect(OWNER)
    enabled = "SELECT enabled FROM core.webhook_endpoints WHERE id = $1"
    (claimed,) = await some_claims(ours, tenant, endpoint, 1)
    async with running(ours.settler), failing_writes(owner, ["core.webhook_endpoints"], "55P03", times=3):
        ours.settler.put(gone(claimed))
        await ours.settled.count(1)
        assert await observer.fetchval(enabled, endpoint)
    async with running(ours.settler):
        await until(observer, f"SELECT NOT ({enabled})", endpoint)
    assert len(await ours.attempts()) == 1


async def test_one_locked_endpoint_per_pass_delays_results(
    ours: Engine,
    database: Database,
    connect: Connect,
    tenant: UUID,
    endpoint: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many endpoints are locked, and however many 410s they answer. The others are disabled meanwhile."""
    monkeypatch.setattr(settler, "DISABLE_RETRY_S", 3600)
    part = PartFailures("settler test")
    enter_part(part)
    locked = [endpoint, *[await add_endpoint(database, tenant, "https://example.com/") for _ in range(2)]]
    claims = {one: await some_claims(ours, tenant, one, 2) for one in locked}
    unlocked = await add_endpoint(database, tenant, "https://example.com/")
    (last,) = await some_claims(ours, tenant, unlocked, 1)
    ids = ", ".join(f"'{one}'" for one in locked)
    owner = await connect(OWNER)
    await owner.execute(
        "CREATE FUNCTION core.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE lock_not_available USING MESSAGE = 'locked'; END $$;"
        " CREATE TRIGGER refuse BEFORE UPDATE ON core.webhook_endpoints"
        f" FOR EACH ROW WHEN (OLD.id IN ({ids})) EXECUTE FUNCTION core.refuse()"
    )
    await settle(ours, *(gone(claims[one][0]) for one in locked))
    assert part.total == 1
    await settle(ours, *(gone(claims[one][1]) for one in locked))
    assert part.total == 1, "another 410 of the same endpoints causes no earlier retry"
    await settle(ours, gone(last))
    assert part.total == 2
    enabled = "SELECT array_agg(id) FROM core.webhook_endpoints WHERE enabled"
    assert set(await owner.fetchval(enabled)) == set(locked)
    await owner.execute("DROP TRIGGER refuse ON core.webhook_endpoints")
    monkeypatch.setattr(settler, "DISABLE_RETRY_S", 0.01)
    ours.settler._disable_not_before = 0.0
    async with running(ours.settler):
        await until(owner, f"SELECT ({enabled}) IS NULL")
