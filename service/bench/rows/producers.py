"""What producers notice of the service: their commits per second with a worker running and without."""

from contextlib import AsyncExitStack
from statistics import median
from typing import Final

from service.bench.finding import AtLeast, Finding
from service.bench.ground import Ground
from service.bench.numbers import percentile, ratio, ratios
from service.bench.producing import Produced, produce
from service.bench.stage import Shape, stage
from service.bench.writers import CONNECTIONS

AIM: Final = AtLeast(0.95)
STEADY: Final = 500


async def producers(ground: Ground, row: str) -> list[Finding]:
    """As fast as they can, where the worker takes cores from them; and at a steady rate, where only locks could."""
    return [
        await _compare(
            ground, row, None, f"commits/s of {CONNECTIONS} producers that do nothing else, a worker running"
        ),
        await _compare(
            ground, f"{row}-steady", STEADY, f"commits/s of producers offering {STEADY}/s, a worker running"
        ),
    ]


async def _compare(ground: Ground, row: str, rate: float | None, what: str) -> Finding:
    without, with_it = [], []
    for _ in range(ground.scale.pairs):
        without.append(await _produce(ground, rate, workers=0))
        with_it.append(await _produce(ground, rate, workers=1))
    here, there = median(p.rate for p in with_it), median(p.rate for p in without)
    p99s = [median(percentile(p.transaction_ms, 99) for p in sides) for sides in (with_it, without)]
    return Finding(
        row,
        what,
        "without",
        ratio(here, there),
        AIM,
        figures={
            "with_per_s": [p.rate for p in with_it],
            "without_per_s": [p.rate for p in without],
            "with_transaction_p99_ms": p99s[0],
            "without_transaction_p99_ms": p99s[1],
        },
        shown=f"{here:,.0f}/s, p99 {p99s[0]:.1f} ms ; {there:,.0f}/s, p99 {p99s[1]:.1f} ms",
        rounds=ratios([p.rate for p in with_it], [p.rate for p in without]),
    )


async def _produce(ground: Ground, rate: float | None, workers: int) -> Produced:
    ground.watch(
        f"producers {'with' if workers else 'without'} a worker, {f'{rate}/s' if rate else 'at full speed'}"
    )
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(stage(ground, Shape()))
        for _ in range(workers):
            await stack.enter_async_context(here.worker())
        return await produce(here, ground.scale.seconds, rate)
