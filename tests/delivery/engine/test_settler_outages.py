"""Results survive outages of the database, and are written once after an uncertain commit."""

import asyncio
from uuid import UUID

import asyncpg
import pytest

from tests.support.engine import Engine, running
from tests.support.servers.tcp_proxy import Cut, TcpProxy
from tests.support.settler_results import delivered, settle, some_claims


async def test_results_of_an_outage_are_written_once_after_it(
    far: Engine, ours: Engine, proxy: TcpProxy, tenant: UUID, endpoint: UUID
) -> None:
    claims = await some_claims(far, tenant, endpoint, 20)
    async with running(far.settler):
        proxy.shut_down()
        for claimed in claims:
            far.settler.put(delivered(claimed))
        await proxy.rejected.wait()
        assert len(far.settled) == 0, "an unwritten result keeps its slot"
        proxy.restore()
        await far.settled.count(20)
    assert [row["status"] for row in await ours.rows()] == ["delivered"] * 20
    assert len(await ours.attempts()) == 20
    assert (far.settler.settled, far.settler.fenced_off) == (20, 0)


async def test_sessions_ended_by_the_server_lose_no_result(
    ours: Engine, superuser: asyncpg.Connection, tenant: UUID, endpoint: UUID
) -> None:
    claims = await some_claims(ours, tenant, endpoint, 60)
    async with running(ours.settler):
        for n, claimed in enumerate(claims):
            ours.settler.put(delivered(claimed))
            if n % 20 == 0:
                await superuser.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'duro_sandbox'"
                    " AND datname = current_database()"
                )
        await ours.settled.count(60)
    assert [row["status"] for row in await ours.rows()] == ["delivered"] * 60
    assert len(await ours.attempts()) == 60


@pytest.mark.parametrize("where", [Cut.BEFORE, Cut.AFTER])
async def test_a_result_whose_commit_is_uncertain_is_written_once(
    far: Engine, ours: Engine, proxy: TcpProxy, tenant: UUID, endpoint: UUID, where: Cut
) -> None:
    claims = await some_claims(far, tenant, endpoint, 5)
    proxy.cut_at(b"COMMIT", where)
    await settle(far, *(delivered(claimed) for claimed in claims))
    assert proxy.was_cut.is_set()
    assert [(row["status"], row["attempts"]) for row in await ours.rows()] == [("delivered", 1)] * 5
    assert [attempt["settled"] for attempt in await ours.attempts()] == [True] * 5


async def test_a_stop_during_an_outage_gives_up_after_a_few_tries(
    far: Engine, ours: Engine, proxy: TcpProxy, tenant: UUID, endpoint: UUID
) -> None:
    """The deliveries stay leased for other workers to take over: at worst they are sent again."""
    claims = await some_claims(far, tenant, endpoint, 3)
    proxy.shut_down()
    async with running(far.settler):
        for claimed in claims:
            far.settler.put(delivered(claimed))
        await proxy.rejected.wait()
    assert await ours.leased() == 3
    assert await ours.attempts() == []


async def test_a_stop_shortly_before_the_end_of_an_outage_loses_nothing(
    far: Engine, ours: Engine, proxy: TcpProxy, tenant: UUID, endpoint: UUID
) -> None:
    far.settler._last_tries_s = 10
    claims = await some_claims(far, tenant, endpoint, 3)
    stop = asyncio.Event()
    proxy.shut_down()
    for claimed in claims:
        far.settler.put(delivered(claimed))
    stopping = asyncio.create_task(far.settler.run(stop))
    await proxy.rejected.wait()
    stop.set()
    proxy.rejected.clear()
    await proxy.rejected.wait()
    proxy.restore()
    await asyncio.wait_for(stopping, 10)
    assert [row["status"] for row in await ours.rows()] == ["delivered"] * 3
