"""Compares producers' commits per second with and without a running worker."""

from contextlib import AsyncExitStack
from statistics import median
from typing import Final

from service.bench.bench_database import Shape, bench_database
from service.bench.bench_setup import BenchSetup
from service.bench.load.bench_producers import CONNECTIONS
from service.bench.load.producing import ProducerResult, produce
from service.bench.report.measurement import AtLeast, Measurement
from service.bench.report.numbers import percentile, ratio, ratios

AIM: Final = AtLeast(0.95)
STEADY: Final = 500


async def producers(setup: BenchSetup, row: str) -> list[Measurement]:
    """Measures at full speed, where the worker competes for cores, and at a steady rate, where only locks can
    slow.
    """
    return [
        await _compare(
            setup, row, None, f"commits/s of {CONNECTIONS} producers that do nothing else, a worker running"
        ),
        await _compare(
            setup, f"{row}-steady", STEADY, f"commits/s of producers offering {STEADY}/s, a worker running"
        ),
    ]


async def _compare(setup: BenchSetup, row: str, rate: float | None, what: str) -> Measurement:
    without, with_it = [], []
    for _ in range(setup.scale.pairs):
        without.append(await _produce(setup, rate, workers=0))
        with_it.append(await _produce(setup, rate, workers=1))
    with_rate, without_rate = median(p.rate for p in with_it), median(p.rate for p in without)
    p99s = [median(percentile(p.transaction_ms, 99) for p in sides) for sides in (with_it, without)]
    return Measurement(
        row,
        what,
        "without",
        ratio(with_rate, without_rate),
        AIM,
        figures={
            "with_per_s": [p.rate for p in with_it],
            "without_per_s": [p.rate for p in without],
            "with_transaction_p99_ms": p99s[0],
            "without_transaction_p99_ms": p99s[1],
        },
        summary=f"{with_rate:,.0f}/s, p99 {p99s[0]:.1f} ms ; {without_rate:,.0f}/s, p99 {p99s[1]:.1f} ms",
        rounds=ratios([p.rate for p in with_it], [p.rate for p in without]),
    )


async def _produce(setup: BenchSetup, rate: float | None, workers: int) -> ProducerResult:
    setup.progress(
        f"producers {'with' if workers else 'without'} a worker, {f'{rate}/s' if rate else 'at full speed'}"
    )
    async with AsyncExitStack() as stack:
        bench = await stack.enter_async_context(bench_database(setup, Shape()))
        for _ in range(workers):
            await stack.enter_async_context(bench.worker())
        return await produce(bench, setup.scale.seconds, rate)
