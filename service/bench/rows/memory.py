"""Measures a worker's memory while it drains a large backlog: the maximum, and whether it grows."""

import asyncio
from contextlib import suppress
from statistics import median
from typing import Final

from schema.errors import Unavailable
from service.bench.bench_database import Shape, bench_database
from service.bench.bench_setup import BenchSetup
from service.bench.drain import PATIENCE_S, hold_sequencer
from service.bench.processes.proc import resident_bytes
from service.bench.report.measurement import AtMost, Measurement
from service.bench.report.numbers import slope

MOST: Final = AtMost(150, "MiB")
FLAT: Final = AtMost(10, "MiB")
_EVERY_S: Final = 0.1
_MIB: Final = 1 << 20


async def memory(setup: BenchSetup, row: str) -> list[Measurement]:
    """Samples until everything has arrived or the scale's time limit ends."""
    total, samples = setup.scale.memory_deliveries, list[tuple[float, float]]()

    def progress(seen: int) -> None:
        setup.progress(f"{seen:,} of {total:,} deliveries")

    async with bench_database(setup, Shape()) as bench, hold_sequencer(bench) as release:
        await bench.record(total)
        async with bench.worker() as worker:
            await setup.receiver.reset()
            sampling = asyncio.create_task(_sample(worker.pid, samples))
            try:
                release.set()
                with suppress(TimeoutError):
                    async with asyncio.timeout(setup.scale.memory_within_s):
                        if not await setup.receiver.wait_for_count(total, PATIENCE_S, progress):
                            raise Unavailable(f"Nothing arrived for {PATIENCE_S:g} s: {worker.last_output}")
            finally:
                sampling.cancel()
            arrived = (await setup.receiver.report()).count
            worker.kill()  # the rest of the backlog is not needed
    return _measurements(row, samples, arrived)


async def _sample(pid: int, samples: list[tuple[float, float]]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        samples.append((loop.time(), resident_bytes(pid) / _MIB))
        await asyncio.sleep(_EVERY_S)


def _measurements(row: str, samples: list[tuple[float, float]], arrived: int) -> list[Measurement]:
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
    summary = (
        f"{samples[0][1]:.0f} MiB at the start, {most:.0f} MiB at most, {last:.0f} MiB in the last quarter"
    )
    return [
        Measurement(
            row, f"maximum resident memory of a worker {what}", "", most, MOST, "MiB", figures, summary
        ),
        Measurement(
            f"{row}-growth",
            f"growth from the second quarter of the time to the last, {what}",
            "",
            last - second,
            FLAT,
            "MiB",
            figures,
            f"{second:.0f} MiB to {last:.0f} MiB",
        ),
    ]
