"""A worker's memory while it drains a great backlog: how much at most, and whether it grows."""

import asyncio
from contextlib import suppress
from statistics import median
from typing import Final

from schema.errors import Unavailable
from service.bench.drain import PATIENCE_S, held_back
from service.bench.finding import AtMost, Finding
from service.bench.ground import Ground
from service.bench.numbers import slope
from service.bench.proc import resident_bytes
from service.bench.stage import Shape, stage

MOST: Final = AtMost(150, "MiB")
FLAT: Final = AtMost(10, "MiB")
_EVERY_S: Final = 0.1
_MIB: Final = 1 << 20


async def memory(ground: Ground, row: str) -> list[Finding]:
    """Until all has arrived, or for as long as the scale allows."""
    total, samples = ground.scale.memory_deliveries, list[tuple[float, float]]()

    def watch(seen: int) -> None:
        ground.watch(f"{seen:,} of {total:,} deliveries")

    async with stage(ground, Shape()) as here, held_back(here) as let_go:
        await here.record(total)
        async with here.worker() as worker:
            await ground.receiver.forget()
            sampling = asyncio.create_task(_sample(worker.pid, samples))
            try:
                let_go.set()
                with suppress(TimeoutError):
                    async with asyncio.timeout(ground.scale.memory_within_s):
                        if not await ground.receiver.reaches(total, PATIENCE_S, watch):
                            raise Unavailable(f"Nothing arrived for {PATIENCE_S:g} s: {worker.last_words}")
            finally:
                sampling.cancel()
            arrived = (await ground.receiver.report()).count
            worker.kill()  # the rest of the backlog is of no interest
    return _findings(row, samples, arrived)


async def _sample(pid: int, samples: list[tuple[float, float]]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        samples.append((loop.time(), resident_bytes(pid) / _MIB))
        await asyncio.sleep(_EVERY_S)


def _findings(row: str, samples: list[tuple[float, float]], arrived: int) -> list[Finding]:
    quarter = len(samples) // 4
    second, last = (
        median(mib for _, mib in part) for part in (samples[quarter : 2 * quarter], samples[3 * quarter :])
    )
    most = max(mib for _, mib in samples)
    seconds = samples[-1][0] - samples[0][0]
    figures = {
        "most_mib": most,
        "at_start_mib": samples[0][1],
        "second_quarter_mib": second,
        "last_quarter_mib": last,
        "slope_of_second_half_mib_per_minute": slope(samples[2 * quarter :]) * 60,
        "deliveries": arrived,
        "seconds": seconds,
    }
    what = f"while draining {arrived:,} deliveries"
    shown = (
        f"{samples[0][1]:.0f} MiB at the start, {most:.0f} MiB at most, {last:.0f} MiB in the last quarter"
    )
    return [
        Finding(row, f"a worker's resident memory at most, {what}", "", most, MOST, "MiB", figures, shown),
        Finding(
            f"{row}-growth",
            f"its growth from the second quarter to the last, {what}",
            "",
            last - second,
            FLAT,
            "MiB",
            figures,
            f"{second:.0f} MiB to {last:.0f} MiB",
        ),
    ]
