"""`duro up --workers 3`: a child that is killed is replaced, and none outlives a parent that is."""

import asyncio
import os
import signal
from functools import partial

from tests.faults.crew import crew, environment, taken_over
from tests.faults.figures import Figures
from tests.faults.length import length
from tests.faults.merchant import merchant
from tests.faults.world import World, world
from tests.support.servers.duro_process import duro, eventually, processes_in_group

DELIVERIES = length(600, 20_000)
CHILD_KILLS = length(1, 10)
WORKERS = 3


async def worker_of(here: World, pid: int) -> int:
    found: int = await here.owner.fetchval(
        "SELECT id FROM core.workers WHERE name LIKE '%/' || $1::text", str(pid)
    )
    return found


async def complete(here: World) -> bool:
    return len(await here.workers()) == WORKERS


async def test_killed_children_are_replaced_and_the_children_of_a_killed_parent_drain(
    db_url: str, key: bytes, figures: Figures
) -> None:
    async with merchant() as shop, world(db_url, key, shop, figures) as here:
        async with duro(
            "up", "--port", "0", "--workers", str(WORKERS), "--json", env=environment(here)
        ) as up:
            await up.said()
            await eventually(partial(complete, here), "all are at work")
            producing = here.produce(DELIVERIES)
            for nth in range(CHILD_KILLS):
                moment = DELIVERIES * (nth + here.chance.uniform(0.1, 0.9)) / CHILD_KILLS / 2
                await shop.until(
                    lambda moment=moment: len(shop.requests) >= moment, f"{moment:.0f} deliveries"
                )
                child = here.chance.choice([pid for pid in processes_in_group(up.pid) if pid != up.pid])
                worker = await worker_of(here, child)
                os.kill(child, signal.SIGKILL)
                killed_at = asyncio.get_running_loop().time()
                figures.count("killed children")
                figures.in_flight += await here.leased(worker)
                await taken_over(here, worker, killed_at)
                await eventually(partial(complete, here), "another has taken its place")
            parent = await worker_of(here, up.pid)
            up.send(signal.SIGKILL)
            await up.ended()
            figures.count("killed parents")
            figures.in_flight += await here.leased(parent)
            await eventually(lambda: not processes_in_group(up.pid), "no child is left")
            assert await here.workers() <= {parent}
        async with crew(here, 2) as workers:
            await producing
            await eventually(partial(here.forgotten, parent), "the parent is taken over")
            await here.check_deliveries(workers.workers)
