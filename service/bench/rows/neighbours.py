"""Compares the other endpoints' throughput and latency while a tenth of the endpoints hang.

Hanging endpoints accept requests and never answer. Many deliveries to them are pending.
"""

import asyncio
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from service.bench.bench_database import Shape, bench_database
from service.bench.bench_setup import BenchSetup
from service.bench.calibration import deliveries_for
from service.bench.drain import Drain, hold_sequencer, measure
from service.bench.load.delivery_history_fill import fill_history
from service.bench.load.producing import latencies
from service.bench.report.measurement import AtLeast, AtMost, Measurement
from service.bench.report.numbers import percentile, ratio, ratios

THROUGHPUT_AIM: Final = AtLeast(0.95)
P99_AIM: Final = AtMost(2)
RATE: Final = 200
_SHAPE: Final = Shape(hanging=2)
_SETTLES_IN_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class _Side:
    drain: Drain
    p50_ms: float
    p99_ms: float
    hung: int
    """Requests that the hanging endpoints had accepted before the measurement."""


async def neighbours(setup: BenchSetup, row: str) -> list[Measurement]:
    without, beside = [], []
    for _ in range(setup.scale.pairs):
        deliveries = await deliveries_for(setup, Shape())
        without.append(await _side(setup, 0, deliveries))
        beside.append(await _side(setup, setup.scale.pending, deliveries))
    rates = {
        side: median(s.drain.rate for s in sides)
        for side, sides in (("without", without), ("beside", beside))
    }
    p99s = {
        side: median(s.p99_ms for s in sides) for side, sides in (("without", without), ("beside", beside))
    }
    figures: dict[str, Any] = {
        "pending": setup.scale.pending,
        "without_per_s": [s.drain.rate for s in without],
        "with_hanging_per_s": [s.drain.rate for s in beside],
        "without_p50_ms": [s.p50_ms for s in without],
        "with_hanging_p50_ms": [s.p50_ms for s in beside],
        "without_p99_ms": [s.p99_ms for s in without],
        "with_hanging_p99_ms": [s.p99_ms for s in beside],
        "hanging_requests": [s.hung for s in beside],
    }
    condition = f"while 10 % of endpoints hang with {setup.scale.pending:,} deliveries pending"
    return [
        Measurement(
            f"{row}-throughput",
            f"other endpoints' deliveries/s {condition}",
            "without",
            ratio(rates["beside"], rates["without"]),
            THROUGHPUT_AIM,
            figures=figures,
            summary=f"{rates['beside']:,.0f}/s ; {rates['without']:,.0f}/s",
            rounds=ratios(figures["with_hanging_per_s"], figures["without_per_s"]),
        ),
        Measurement(
            f"{row}-p99",
            f"other endpoints' p99 from commit to first byte, {RATE} events/s, {condition}",
            "without",
            ratio(p99s["beside"], p99s["without"]),
            P99_AIM,
            figures=figures,
            summary=f"{p99s['beside']:.1f} ms ; {p99s['without']:.1f} ms",
            rounds=ratios(figures["with_hanging_p99_ms"], figures["without_p99_ms"]),
        ),
    ]


async def _side(setup: BenchSetup, waiting: int, deliveries: int) -> _Side:
    async with bench_database(setup, _SHAPE) as bench:
        if waiting:
            await fill_history(bench, waiting, "pending", bench.hanging)
        await setup.receiver.reset()
        async with bench.worker() as worker:
            await asyncio.sleep(_SETTLES_IN_S)  # the hanging endpoints reach their in-flight limits
            hung = (await setup.receiver.report()).hung
            async with hold_sequencer(bench) as release:
                since = await bench.now()
                await bench.record(deliveries)
                note = "beside hanging endpoints" if waiting else ""
                drained = await measure(bench, [worker], release, since, deliveries, note)
            seen = await latencies(bench, setup.scale.latency_s, RATE)
            worker.kill()  # a clean stop would wait for the hanging requests
    after = seen.after_commit
    return _Side(drained, percentile(after, 50), percentile(after, 99), hung)
