"""Throughput of the main shape with a circumstance and without it, in turn: a long past, an open transaction, a
second worker.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from statistics import median
from typing import Any, Final

from service.bench.calibration import deliveries_for, plain_drain
from service.bench.drain import Drain, drain
from service.bench.finding import AtLeast, Finding
from service.bench.ground import Ground
from service.bench.numbers import ratio, ratios
from service.bench.past import make_past
from service.bench.stage import Shape, stage

HISTORY_AIM: Final = AtLeast(0.95)
OPEN_AIM: Final = AtLeast(0.9)
MAIN: Final = Shape()

Measure = Callable[[], Awaitable[Drain]]


async def history(ground: Ground, row: str) -> list[Finding]:
    async with stage(ground, MAIN) as old:
        filled_s = await make_past(old, ground.scale.history, "delivered", old.tenants)

        async def with_past() -> Drain:
            return await drain(old, await deliveries_for(ground, MAIN), note="with a past")

        return await _compare(
            ground,
            with_past,
            Finding(
                row,
                f"deliveries/s with {ground.scale.history:,} past deliveries",
                "with none",
                None,
                HISTORY_AIM,
                figures={"past_deliveries": ground.scale.history, "filled_s": filled_s},
            ),
        )


async def open_transaction(ground: Ground, row: str) -> list[Finding]:
    async def beside_it() -> Drain:
        async with AsyncExitStack() as stack:
            here = await stack.enter_async_context(stage(ground, MAIN))
            forgotten = await stack.enter_async_context(ground.scratch.connect(here.name))
            await stack.enter_async_context(forgotten.transaction())
            await forgotten.execute("SELECT pg_current_xact_id()")
            return await drain(here, await deliveries_for(ground, MAIN), note="beside an open transaction")

    what = "deliveries/s while another transaction is left open"
    return await _compare(ground, beside_it, Finding(row, what, "without", None, OPEN_AIM))


async def two_workers(ground: Ground, row: str) -> list[Finding]:
    async def two() -> Drain:
        async with stage(ground, MAIN) as here:
            return await drain(here, await deliveries_for(ground, MAIN), workers=2, note="two workers")

    return await _compare(ground, two, Finding(row, "deliveries/s of two workers", "of one", None))


async def _compare(ground: Ground, measure: Measure, form: Finding) -> list[Finding]:
    """Fills the form."""
    without, with_it = [], []
    for _ in range(ground.scale.pairs):
        without.append(await plain_drain(ground, MAIN, await deliveries_for(ground, MAIN)))
        with_it.append(await measure())
    here, there = median(d.rate for d in with_it), median(d.rate for d in without)
    figures: Mapping[str, Any] = {
        **form.figures,
        "with_per_s": [d.rate for d in with_it],
        "without_per_s": [d.rate for d in without],
        "with_postgres_us": median(d.cpu.postgres for d in with_it),
        "without_postgres_us": median(d.cpu.postgres for d in without),
        "deliveries": with_it[-1].deliveries,
    }
    return [
        replace(
            form,
            value=ratio(here, there),
            figures=figures,
            shown=f"{here:,.0f}/s ; {there:,.0f}/s",
            rounds=ratios([d.rate for d in with_it], [d.rate for d in without]),
        )
    ]
