"""A worker is frozen for a while, like a paused virtual machine: its sockets stay open, but nothing reads
them.
"""

import asyncio
import signal
from functools import partial

from tests.faults.fault_receiver import fault_receiver
from tests.faults.figures import Figures
from tests.faults.length import length
from tests.faults.registered import has_new_id, id_of
from tests.faults.scenario import Scenario, scenario
from tests.faults.worker_group import WorkerProcess, taken_over, worker_group
from tests.support.servers.duro_process import eventually

DELIVERIES = length(1_000, 30_000)
FREEZES = length(1, 4)
FROZEN_S = length(0.0, 35.0)
"""Minimum; it also lasts until the work has been taken over."""
WORKERS = 2


async def freeze(run: Scenario, member: WorkerProcess) -> None:
    worker = member.worker
    member.process.send(signal.SIGSTOP)
    frozen_at = asyncio.get_running_loop().time()
    run.figures.count("freezes")
    run.figures.in_flight += await run.leased(worker)
    await taken_over(run, worker, frozen_at)
    await asyncio.sleep(frozen_at + FROZEN_S - asyncio.get_running_loop().time())
    member.process.send(signal.SIGCONT)
    await eventually(partial(has_new_id, run, member), "it has registered with a new id")
    member.worker = await id_of(run, member) or 0


async def test_a_frozen_worker_is_taken_over_and_fenced(db_url: str, key: bytes, figures: Figures) -> None:
    async with (
        fault_receiver() as receiver,
        scenario(db_url, key, receiver, figures) as run,
        worker_group(run, WORKERS) as workers,
    ):
        producing = run.produce(DELIVERIES)
        for nth in range(FREEZES):
            moment = DELIVERIES * (nth + run.chance.uniform(0.2, 0.8)) / FREEZES
            await receiver.until(
                lambda moment=moment: len(receiver.requests) >= moment, f"{moment:.0f} deliveries"
            )
            await freeze(run, run.chance.choice(workers.members))
        await producing
        await run.check_deliveries(workers.workers)
