"""PostgreSQL is killed under load by SIGKILL, and its keeper restarts it."""

import os
import signal
from collections.abc import Iterator
from functools import partial

import asyncpg
import pytest

from tests.faults.fault_receiver import fault_receiver
from tests.faults.figures import Figures
from tests.faults.length import length
from tests.faults.scenario import Scenario, scenario
from tests.faults.worker_group import environment, worker_group
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


async def kill_backend(run: Scenario) -> None:
    """Kills one session.

    The server then ends all others and recovers, because shared memory may be damaged.
    """
    os.kill(await run.owner.fetchval(_A_WORKERS_BACKEND), signal.SIGKILL)


async def accepts(run: Scenario) -> bool:
    """Returns whether a new connection succeeds, which needs a finished recovery."""
    try:
        newcomer = await asyncpg.connect(run.url, timeout=5)
    except (OSError, asyncpg.PostgresError):
        return False
    await newcomer.close()
    return True


async def back(run: Scenario, proxy: TcpProxy) -> None:
    """Waits for the server, then reconnects the workers.

    In between no worker runs, so deliveries in flight are counted.
    """
    await eventually(partial(accepts, run), "the server is back", _BACK_WITHIN_S)
    run.figures.in_flight += await run.leased()
    proxy.restore()


async def test_a_killed_postgres_loses_no_confirmed_commit(own_cluster: Cluster, figures: Figures) -> None:
    """A commit without an answer is delivered everywhere or nowhere.

    Every worker continues without a restart.
    """
    async with own_cluster.fresh_database() as name:
        url, key = own_cluster.url(name), own_cluster.key
        async with (
            fault_receiver() as receiver,
            proxying(url) as proxy,
            scenario(url, key, receiver, figures) as run,
            worker_group(run, WORKERS, environment(run, proxy.url(url))) as workers,
        ):
            producing = run.produce(DELIVERIES)
            kills = ["postmaster"] * POSTMASTER_KILLS + ["backend"] * BACKEND_KILLS
            run.chance.shuffle(kills)
            for nth, kill in enumerate(kills):
                moment = DELIVERIES * (nth + run.chance.uniform(0.3, 0.9)) / len(kills)
                await receiver.until(
                    lambda moment=moment: len(receiver.requests) >= moment, f"{moment:.0f} deliveries"
                )
                proxy.reject_new()
                if kill == "postmaster":
                    kill_postmaster(own_cluster)
                else:
                    await kill_backend(run)
                figures.count(f"kills of the {kill}")
                await proxy.rejected.wait()
                await back(run, proxy)
            await producing
            await run.check_deliveries(await run.workers())
            assert len(await run.workers()) == WORKERS
            assert all(member.process.process.returncode is None for member in workers.members)
