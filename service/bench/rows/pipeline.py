"""The whole durable pipeline against the bare aiohttp loop, and the CPU that a delivery costs."""

import pstats
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from shutil import copyfile
from statistics import median
from typing import Final

from schema.errors import Unavailable
from service.bench.bare_loop import Posted, bare_loop
from service.bench.calibration import deliveries_for, plain_drain
from service.bench.drain import Drain, drain
from service.bench.finding import AtLeast, Finding
from service.bench.ground import Ground
from service.bench.numbers import ratio, ratios
from service.bench.stage import Shape, stage

AIM: Final = AtLeast(2)
MAIN_AIM: Final = AtLeast(1.5, goal=2)
MAIN: Final = Shape()
_PROFILED: Final = 20_000  # at most
_PROFILE_LINES: Final = 40


async def pipeline(ground: Ground, row: str, shape: Shape) -> list[Finding]:
    """In turn: bare loop, duro, bare loop, duro."""
    count = ground.scale.count((await bare_loop(ground, shape, ground.scale.least)).rate)
    posted: list[Posted] = []
    drained: list[Drain] = []
    for _ in range(ground.scale.rounds if shape == MAIN else ground.scale.pairs):
        deliveries = await deliveries_for(ground, shape)
        posted.append(await bare_loop(ground, shape, count))
        drained.append(await plain_drain(ground, shape, deliveries))
    return [_throughput(row, shape, posted, drained), _cpu(row, shape, posted, drained)]


async def profiled(ground: Ground, shape: Shape, file: Path) -> str:
    """The top lines of one drain under cProfile, which slows Python down several times and C not at all: it tells
    where time goes, and not how much.
    """
    made = ground.scratch.directory / "profile"  # not `file`, which may hold an older one
    async with stage(ground, shape) as here:
        await drain(here, min(_PROFILED, ground.scale.most_deliveries), profile=made, note="under cProfile")
    try:
        copyfile(made, file)
    except OSError as error:
        raise Unavailable(f"The profile could not be kept in {file}: {error.strerror}.") from error
    out = StringIO()
    pstats.Stats(str(made), stream=out).sort_stats("tottime").print_stats(_PROFILE_LINES)
    return out.getvalue()


def _throughput(row: str, shape: Shape, posted: Sequence[Posted], drained: Sequence[Drain]) -> Finding:
    ours, bare = median(d.rate for d in drained), median(p.rate for p in posted)
    return Finding(
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
        shown=f"{ours:,.0f}/s ; {bare:,.0f}/s",
        rounds=ratios([d.rate for d in drained], [p.rate for p in posted]),
    )


def _cpu(row: str, shape: Shape, posted: Sequence[Posted], drained: Sequence[Drain]) -> Finding:
    worker, postgres, receiver = (
        median(getattr(d.cpu, part) for d in drained) for part in ("worker", "postgres", "receiver")
    )
    bare = median(p.client_us for p in posted)
    return Finding(
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
        shown=f"worker {worker:.0f} + Postgres {postgres:.0f} µs ; {bare:.0f} µs",
    )
