"""Workers are killed at random times while producers write."""

from tests.faults.fault_receiver import fault_receiver
from tests.faults.figures import Figures
from tests.faults.length import length
from tests.faults.scenario import scenario
from tests.faults.worker_group import worker_group

DELIVERIES = length(3_000, 100_000)
KILLS = length(4, 55)
WORKERS = 3


async def test_killed_workers_repeat_only_deliveries_in_flight(
    db_url: str, key: bytes, figures: Figures
) -> None:
    """Nothing is lost. Some transactions are rolled back, some are slow, and the receiver sometimes fails."""
    async with (
        fault_receiver() as receiver,
        scenario(db_url, key, receiver, figures) as run,
        worker_group(run, WORKERS) as workers,
    ):
        producing = run.produce(DELIVERIES)
        for moment in sorted(run.chance.uniform(0.05, 0.95) * DELIVERIES for _ in range(KILLS)):
            await receiver.until(
                lambda moment=moment: len(receiver.requests) >= moment, f"{moment:.0f} deliveries"
            )
            await workers.kill_one()
        await producing
        await workers.wait_replaced()
        await run.check_deliveries(workers.workers)
