"""`duro up --workers 3`: a killed child is replaced, and no child outlives a killed parent."""

import asyncio
import os
import signal
from functools import partial

from tests.faults.fault_receiver import fault_receiver
from tests.faults.figures import Figures
from tests.faults.length import length
from tests.faults.scenario import Scenario, scenario
from tests.faults.worker_group import environment, taken_over, worker_group
from tests.support.servers.duro_process import duro, eventually, processes_in_group

DELIVERIES = length(600, 20_000)
CHILD_KILLS = length(1, 10)
WORKERS = 3


async def worker_of(run: Scenario, pid: int) -> int:
    found: int = await run.owner.fetchval(
        "SELECT id FROM core.workers WHERE name LIKE '%/' || $1::text", str(pid)
    )
    return found


async def complete(run: Scenario) -> bool:
    return len(await run.workers()) == WORKERS


async def test_killed_children_are_replaced_and_a_killed_parent_s_drain(
    db_url: str, key: bytes, figures: Figures
) -> None:
    async with fault_receiver() as receiver, scenario(db_url, key, receiver, figures) as run:
        async with duro("up", "--port", "0", "--workers", str(WORKERS), "--json", env=environment(run)) as up:
            await up.said()
            await eventually(partial(complete, run), "all workers run")
            producing = run.produce(DELIVERIES)
            for nth in range(CHILD_KILLS):
                moment = DELIVERIES * (nth + run.chance.uniform(0.1, 0.9)) / CHILD_KILLS / 2
                await receiver.until(
                    lambda moment=moment: len(receiver.requests) >= moment, f"{moment:.0f} deliveries"
                )
                child = run.chance.choice([pid for pid in processes_in_group(up.pid) if pid != up.pid])
                worker = await worker_of(run, child)
                os.kill(child, signal.SIGKILL)
                killed_at = asyncio.get_running_loop().time()
                figures.count("killed children")
                figures.in_flight += await run.leased(worker)
                await taken_over(run, worker, killed_at)
                await eventually(partial(complete, run), "a replacement runs")
            parent = await worker_of(run, up.pid)
            up.send(signal.SIGKILL)
            await up.ended()
            figures.count("killed parents")
            figures.in_flight += await run.leased(parent)
            await eventually(lambda: not processes_in_group(up.pid), "no child is left")
            assert await run.workers() <= {parent}
        async with worker_group(run, 2) as workers:
            await producing
            await eventually(partial(run.is_taken_over, parent), "the parent is taken over")
            await run.check_deliveries(workers.workers)
