"""Workers are killed at random moments while producers write."""

from tests.faults.crew import crew
from tests.faults.figures import Figures
from tests.faults.length import length
from tests.faults.merchant import merchant
from tests.faults.world import world

DELIVERIES = length(3_000, 100_000)
KILLS = length(4, 55)
WORKERS = 3


async def test_workers_killed_at_any_moment_lose_nothing_and_repeat_no_more_than_was_in_flight(
    db_url: str, key: bytes, figures: Figures
) -> None:
    """Some transactions are rolled back, some are slow, and the merchant is out of order now and then."""
    async with merchant() as shop, world(db_url, key, shop, figures) as here, crew(here, WORKERS) as workers:
        producing = here.produce(DELIVERIES)
        for moment in sorted(here.chance.uniform(0.05, 0.95) * DELIVERIES for _ in range(KILLS)):
            await shop.until(lambda moment=moment: len(shop.requests) >= moment, f"{moment:.0f} deliveries")
            await workers.kill_one()
        await producing
        await workers.at_rest()
        await here.check_deliveries(workers.workers)
