"""Compares the whole durable pipeline with the bare aiohttp loop, and measures the CPU cost of a delivery."""

import pstats
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from shutil import copyfile
from statistics import median
from typing import Final

from schema.errors import Unavailable
from service.bench.bench_database import Shape, bench_database
from service.bench.bench_setup import BenchSetup
from service.bench.calibration import deliveries_for, plain_drain
from service.bench.drain import Drain, drain
from service.bench.load.bare_loop import BareLoopResult, bare_loop
from service.bench.report.measurement import AtLeast, Measurement
from service.bench.report.numbers import ratio, ratios

AIM: Final = AtLeast(2)
MAIN_AIM: Final = AtLeast(1.5, goal=2)
MAIN: Final = Shape()
_PROFILED: Final = 20_000  # at most
_PROFILE_LINES: Final = 40


async def pipeline(setup: BenchSetup, row: str, shape: Shape) -> list[Measurement]:
    """Measures in turn: bare loop, duro, bare loop, duro."""
    count = setup.scale.count((await bare_loop(setup, shape, setup.scale.least)).rate)
    posted: list[BareLoopResult] = []
    drained: list[Drain] = []
    for _ in range(setup.scale.rounds if shape == MAIN else setup.scale.pairs):
        deliveries = await deliveries_for(setup, shape)
        posted.append(await bare_loop(setup, shape, count))
        drained.append(await plain_drain(setup, shape, deliveries))
    return [_throughput(row, shape, posted, drained), _cpu(row, shape, posted, drained)]


async def profiled(setup: BenchSetup, shape: Shape, file: Path) -> str:
    """Returns the top lines of one drain under cProfile. It slows down Python code but not C, so use the profile for
    proportions within Python, not for absolute times.
    """
    made = setup.scratch.directory / "profile"  # not `file`, which may hold an older profile
    async with bench_database(setup, shape) as bench:
        await drain(bench, min(_PROFILED, setup.scale.most_deliveries), profile=made, note="under cProfile")
    try:
        copyfile(made, file)
    except OSError as error:
        raise Unavailable(f"The profile could not be written to {file}: {error.strerror}.") from error
    out = StringIO()
    pstats.Stats(str(made), stream=out).sort_stats("tottime").print_stats(_PROFILE_LINES)
    return out.getvalue()


def _throughput(
    row: str, shape: Shape, posted: Sequence[BareLoopResult], drained: Sequence[Drain]
) -> Measurement:
    ours, bare = median(d.rate for d in drained), median(p.rate for p in posted)
    return Measurement(
        row,
        f"deliveries/s, one worker; {shape}",
        "a bare aiohttp loop",
        ratio(ours, bare),
        MAIN_AIM if shape == MAIN else AIM,
        figures={
            "duro_per_s": [d.rate for d in drained],
            "duro_arriving_per_s": [d.arriving for d in drained],
            "duro_settled_per_s": [d.settled for d in drained],
            "bare_per_s": [p.rate for p in posted],
            "deliveries": drained[-1].deliveries,
            "repeated": sum(d.repeated for d in drained),
            "duro_wire_bytes": drained[-1].wire_bytes,
            "bare_wire_bytes": posted[-1].wire_bytes,
        },
        summary=f"{ours:,.0f}/s ; {bare:,.0f}/s",
        rounds=ratios([d.rate for d in drained], [p.rate for p in posted]),
    )


def _cpu(row: str, shape: Shape, posted: Sequence[BareLoopResult], drained: Sequence[Drain]) -> Measurement:
    worker, postgres, receiver = (
        median(getattr(d.cpu, part) for d in drained) for part in ("worker", "postgres", "receiver")
    )
    bare = median(p.client_us for p in posted)
    return Measurement(
        f"{row}-cpu",
        f"CPU per delivery, worker and Postgres; {shape}",
        "a bare aiohttp loop",
        ratio(worker + postgres, bare),
        figures={
            "worker_us": worker,
            "postgres_us": postgres,
            "receiver_us": receiver,
            "bare_client_us": bare,
            "bare_receiver_us": median(p.receiver_us for p in posted),
        },
        summary=f"worker {worker:.0f} + Postgres {postgres:.0f} µs ; {bare:.0f} µs",
    )
