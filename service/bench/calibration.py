"""How many deliveries make a measurement of the wanted length: from the speed seen last, or a short first drain, which
also warms what can be warmed.
"""

from service.bench.drain import Drain, drain
from service.bench.ground import Ground
from service.bench.stage import Shape, stage


async def plain_drain(ground: Ground, shape: Shape, deliveries: int) -> Drain:
    """In a database of its own, by one worker."""
    async with stage(ground, shape) as here:
        drained = await drain(here, deliveries)
    ground.speeds[str(shape)] = drained.rate
    return drained


async def deliveries_for(ground: Ground, shape: Shape) -> int:
    if str(shape) not in ground.speeds:
        await plain_drain(ground, shape, ground.scale.least)
    return ground.scale.count(ground.speeds[str(shape)])
