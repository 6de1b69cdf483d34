"""Chooses how many deliveries a measurement needs to last as long as wanted.

The count follows from the last measured speed, or from a short first drain, which also warms the caches.
"""

from service.bench.bench_database import Shape, bench_database
from service.bench.bench_setup import BenchSetup
from service.bench.drain import Drain, drain


async def plain_drain(setup: BenchSetup, shape: Shape, deliveries: int) -> Drain:
    """Drains a backlog in a fresh database with one worker."""
    async with bench_database(setup, shape) as bench:
        drained = await drain(bench, deliveries)
    setup.speeds[str(shape)] = drained.rate
    return drained


async def deliveries_for(setup: BenchSetup, shape: Shape) -> int:
    if str(shape) not in setup.speeds:
        await plain_drain(setup, shape, setup.scale.least)
    return setup.scale.count(setup.speeds[str(shape)])
