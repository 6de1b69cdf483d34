"""A worker stands still for a while, as in a frozen virtual machine: its sockets are there, and nobody is behind them."""

import asyncio
import signal
from functools import partial

from tests.faults.crew import Member, crew, taken_over
from tests.faults.figures import Figures
from tests.faults.length import length
from tests.faults.merchant import merchant
from tests.faults.registered import has_new_id, id_of
from tests.faults.world import World, world
from tests.support.servers.duro_process import eventually

DELIVERIES = length(1_000, 30_000)
FREEZES = length(1, 4)
FROZEN_S = length(0.0, 35.0)
"""At least, and until its work has been taken over."""
WORKERS = 2


async def freeze(here: World, member: Member) -> None:
    worker = member.worker
    member.process.send(signal.SIGSTOP)
    frozen_at = asyncio.get_running_loop().time()
    here.figures.count("freezes")
    here.figures.in_flight += await here.leased(worker)
    await taken_over(here, worker, frozen_at)
    await asyncio.sleep(frozen_at + FROZEN_S - asyncio.get_running_loop().time())
    member.process.send(signal.SIGCONT)
    await eventually(partial(has_new_id, here, member), "it has registered anew")
    member.worker = await id_of(here, member) or 0


async def test_a_frozen_worker_is_taken_over_and_fenced_when_it_goes_on(
    db_url: str, key: bytes, figures: Figures
) -> None:
    async with merchant() as shop, world(db_url, key, shop, figures) as here, crew(here, WORKERS) as workers:
        producing = here.produce(DELIVERIES)
        for nth in range(FREEZES):
            moment = DELIVERIES * (nth + here.chance.uniform(0.2, 0.8)) / FREEZES
            await shop.until(lambda moment=moment: len(shop.requests) >= moment, f"{moment:.0f} deliveries")
            await freeze(here, here.chance.choice(workers.ready))
        await producing
        await here.check_deliveries(workers.workers)
