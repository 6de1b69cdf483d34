"""PostgreSQL itself is killed under load, by SIGKILL, and comes back by its keeper."""

import os
import signal
from collections.abc import Iterator
from functools import partial

import asyncpg
import pytest

from tests.faults.crew import crew, environment
from tests.faults.figures import Figures
from tests.faults.length import length
from tests.faults.merchant import merchant
from tests.faults.world import World, world
from tests.support.servers.databases import Cluster, make_template, run_apart, running_cluster
from tests.support.servers.duro_process import eventually
from tests.support.servers.tcp_proxy import TcpProxy, proxying

DELIVERIES = length(1_500, 60_000)
POSTMASTER_KILLS = length(1, 6)
BACKEND_KILLS = 1
WORKERS = 2
_BACK_WITHIN_S = 60.0

_A_WORKERS_BACKEND = """
SELECT pid FROM pg_stat_activity
 WHERE datname = current_database() AND usename LIKE 'duro_%' AND application_name LIKE 'duro worker%'
 ORDER BY random() LIMIT 1
"""


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        run_apart(make_template(cluster))
        yield cluster


def kill_postmaster(cluster: Cluster) -> None:
    lines = (cluster.server.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
    os.kill(int(lines[0]), signal.SIGKILL)


async def kill_backend(here: World) -> None:
    """Of one session alone; the server then ends all others and recovers, because its memory may be damaged."""
    os.kill(await here.owner.fetchval(_A_WORKERS_BACKEND), signal.SIGKILL)


async def accepts(here: World) -> bool:
    """Whether a newcomer can connect, which none can before the server has recovered."""
    try:
        newcomer = await asyncpg.connect(here.url, timeout=5)
    except (OSError, asyncpg.PostgresError):
        return False
    await newcomer.close()
    return True


async def back(here: World, proxy: TcpProxy) -> None:
    """The server, and then the workers' way to it. In between nobody works, so that what is in flight can be counted."""
    await eventually(partial(accepts, here), "the server is back", _BACK_WITHIN_S)
    here.figures.in_flight += await here.leased()
    proxy.restore()


async def test_a_killed_postgres_loses_nothing_that_it_confirmed(
    own_cluster: Cluster, figures: Figures
) -> None:
    """A commit whose answer was lost may be either, but for all the world alike; and every worker goes on by itself."""
    async with own_cluster.fresh_database() as name:
        url, key = own_cluster.url(name), own_cluster.key
        async with (
            merchant() as shop,
            proxying(url) as proxy,
            world(url, key, shop, figures) as here,
            crew(here, WORKERS, environment(here, proxy.url(url))) as workers,
        ):
            producing = here.produce(DELIVERIES)
            kills = ["postmaster"] * POSTMASTER_KILLS + ["backend"] * BACKEND_KILLS
            here.chance.shuffle(kills)
            for nth, kill in enumerate(kills):
                moment = DELIVERIES * (nth + here.chance.uniform(0.3, 0.9)) / len(kills)
                await shop.until(
                    lambda moment=moment: len(shop.requests) >= moment, f"{moment:.0f} deliveries"
                )
                proxy.reject_new()
                if kill == "postmaster":
                    kill_postmaster(own_cluster)
                else:
                    await kill_backend(here)
                figures.count(f"kills of the {kill}")
                await proxy.rejected.wait()
                await back(here, proxy)
            await producing
            await here.check_deliveries(await here.workers())
            assert len(await here.workers()) == WORKERS
            assert all(member.process.process.returncode is None for member in workers.ready)
