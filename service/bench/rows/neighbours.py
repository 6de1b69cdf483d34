"""A tenth of the endpoints take requests and never answer, with a great many deliveries waiting for them; what do the
others notice?
"""

import asyncio
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from service.bench.calibration import deliveries_for
from service.bench.drain import Drain, held_back, measure
from service.bench.finding import AtLeast, AtMost, Finding
from service.bench.ground import Ground
from service.bench.numbers import percentile, ratio, ratios
from service.bench.past import make_past
from service.bench.producing import latencies
from service.bench.stage import Shape, stage

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
    """Requests that the hanging endpoints had taken by then."""


async def neighbours(ground: Ground, row: str) -> list[Finding]:
    calm, noisy = [], []
    for _ in range(ground.scale.pairs):
        deliveries = await deliveries_for(ground, Shape())
        calm.append(await _side(ground, 0, deliveries))
        noisy.append(await _side(ground, ground.scale.waiting, deliveries))
    rates = {side: median(s.drain.rate for s in sides) for side, sides in (("calm", calm), ("noisy", noisy))}
    p99s = {side: median(s.p99_ms for s in sides) for side, sides in (("calm", calm), ("noisy", noisy))}
    figures: dict[str, Any] = {
        "waiting": ground.scale.waiting,
        "calm_per_s": [s.drain.rate for s in calm],
        "noisy_per_s": [s.drain.rate for s in noisy],
        "calm_p50_ms": [s.p50_ms for s in calm],
        "noisy_p50_ms": [s.p50_ms for s in noisy],
        "calm_p99_ms": [s.p99_ms for s in calm],
        "noisy_p99_ms": [s.p99_ms for s in noisy],
        "hanging_requests": [s.hung for s in noisy],
    }
    circumstance = f"while 10 % of endpoints hang with {ground.scale.waiting:,} waiting"
    return [
        Finding(
            f"{row}-throughput",
            f"others' deliveries/s {circumstance}",
            "without",
            ratio(rates["noisy"], rates["calm"]),
            THROUGHPUT_AIM,
            figures=figures,
            shown=f"{rates['noisy']:,.0f}/s ; {rates['calm']:,.0f}/s",
            rounds=ratios(figures["noisy_per_s"], figures["calm_per_s"]),
        ),
        Finding(
            f"{row}-p99",
            f"others' p99 from commit to first byte, {RATE} events/s, {circumstance}",
            "without",
            ratio(p99s["noisy"], p99s["calm"]),
            P99_AIM,
            figures=figures,
            shown=f"{p99s['noisy']:.1f} ms ; {p99s['calm']:.1f} ms",
            rounds=ratios(figures["noisy_p99_ms"], figures["calm_p99_ms"]),
        ),
    ]


async def _side(ground: Ground, waiting: int, deliveries: int) -> _Side:
    async with stage(ground, _SHAPE) as here:
        if waiting:
            await make_past(here, waiting, "pending", here.hanging)
        await ground.receiver.forget()
        async with here.worker() as worker:
            await asyncio.sleep(_SETTLES_IN_S)  # the hanging ones have taken what places they get
            hung = (await ground.receiver.report()).hung
            async with held_back(here) as let_go:
                since = await here.now()
                await here.record(deliveries)
                note = "beside hanging endpoints" if waiting else ""
                drained = await measure(here, [worker], let_go, since, deliveries, note)
            seen = await latencies(here, ground.scale.latency_s, RATE)
            worker.kill()  # its stop would wait for those that hang
    after = seen.after_commit
    return _Side(drained, percentile(after, 50), percentile(after, 99), hung)
